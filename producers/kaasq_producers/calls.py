"""One request from the client's side until its reply: its message, and what its failures say. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable

from kaasq import codec, topology
from kaasq.broker import Message
from kaasq.errors import BrokerRefused, KaasqError, ReplyTimeout, Unroutable
from kaasq.ids import new_id
from kaasq.names import check_word
from kaasq_producers.known_graphs import encode, with_whole_graph
from kaasq_producers.prepare import Prepared
from kaasq_producers.result import Result

# After the deadline, for the worker's own verdict: it looks every 0.25 s for kernels that have not ended, stops them,
# and says deadline_exceeded, which tells more than that nobody answered.
REPLY_GRACE_S = 1.0

OnResult = Callable[[Result | KaasqError], None]


class Route:
    """From which client to which pool; the same for all of a client's requests."""

    __slots__ = ("key", "pool", "reply_id", "tenant")

    def __init__(self, tenant: str, pool: str) -> None:
        self.tenant = tenant
        self.pool = check_word(pool, "pool")
        self.reply_id = new_id()
        self.key = topology.request_key(tenant, pool)

    def refused(self, error: KaasqError, request_id: str) -> KaasqError:
        """What to tell when the broker did not take a request."""
        if isinstance(error, Unroutable):
            error = Unroutable(
                f"no worker ever served pool {self.pool!r} on this broker: start one with "
                f"`kaasq worker --pool {self.pool}`",
                pool=self.pool,
            )
        elif isinstance(error, BrokerRefused):
            error.detail.setdefault("pool", self.pool)
        error.detail.setdefault("request_id", request_id)
        return error

    def renew(self) -> None:
        """Replies go to another queue from now on."""
        self.reply_id = new_id()


class Call:
    """A request without a reply yet. ``id`` is also its idempotency key: published twice, it runs once."""

    __slots__ = (
        "_on_unpublished",
        "body",
        "confirmed",
        "deadline",
        "given_up_at",
        "graph",
        "id",
        "on_result",
        "published_ms",
        "rejected",
        "started",
        "timeout_s",
        "whole",
    )

    def __init__(
        self,
        prepared: Prepared,
        on_result: OnResult,
        on_unpublished: Callable[[Call, KaasqError], None],
        request_id: str | None = None,
    ) -> None:
        self.graph = prepared.graph
        self.timeout_s = prepared.timeout_s
        self.whole = self.graph.lessons > 0
        self.body = encode(self.graph, prepared.bound, round(self.timeout_s * 1000), whole=self.whole)
        self.id = request_id or new_id()
        self.confirmed = False
        self.rejected = False
        """Whether the broker had no room for it when it was published last."""
        self.on_result = on_result
        self._on_unpublished = on_unpublished
        self.published_ms = (time.time_ns() + 500_000) // 1_000_000
        """When it was published first: repeating it gives it no more time."""
        self.started = time.monotonic()
        self.deadline = self.started + self.timeout_s
        """When it expires, on the monotonic clock."""
        self.given_up_at = self.deadline + REPLY_GRACE_S

    def message(self, route: Route) -> Message:
        """What to publish; it expires at the call's deadline."""
        return Message(
            body=self.body,
            content_type=codec.MSGPACK,
            message_id=self.id,
            correlation_id=self.id,
            user_id=route.tenant,
            reply_to=route.reply_id,
            expiration_ms=max(1, round((self.deadline - time.monotonic()) * 1000)),
            timestamp_ms=self.published_ms,
        )

    def published(self, error: KaasqError | None) -> None:
        """The broker has it, or not. A bound method, so that no closure is made per request."""
        if error is None:
            self.confirmed, self.rejected = True, False
        else:
            self._on_unpublished(self, error)

    def make_whole(self) -> None:
        """Carry the whole graph from now on, because a worker did not know its hash."""
        self.graph.unknown()
        self.body = with_whole_graph(self.body, self.graph)
        self.whole = True
        self.confirmed = False

    def finish(self, result: Result | KaasqError) -> None:
        """Call back, once. Call and callback refer to each other: no cycle is left to the collector."""
        on_result, self.on_result = self.on_result, _ignore
        on_result(result)

    def timed_out(self, route: Route, *, connected: bool) -> ReplyTimeout:
        """What to tell when no reply came in time, with the likeliest reason."""
        if not connected:
            why = "the connection to the broker is lost"
        elif self.rejected:
            why = "the broker rejects it: the pool's queue is full, or has no leader"
        elif not self.confirmed:
            why = "the broker has not confirmed it: it may be out of memory or disk"
        else:
            why = "the workers may be busy, none may be running, or its kernel has not ended"
        return ReplyTimeout(
            f"request {self.id} to pool {route.pool!r} got no reply within {self.timeout_s:g} s; {why} "
            f"(`kaasq doctor` checks broker and workers)",
            request_id=self.id,
            pool=route.pool,
            timeout_s=self.timeout_s,
        )


def _ignore(result: Result | KaasqError) -> None:
    """Nobody waits any more."""
