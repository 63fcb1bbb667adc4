"""One request from the client's side until its reply: its message, and what its failures say. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kaasq import codec, topology
from kaasq.broker import Message
from kaasq.continuations import numbered
from kaasq.errors import BrokerRefused, KaasqError, NotReached, ReplyTimeout, Unroutable
from kaasq.ids import following_id, new_id
from kaasq.messages import Continuation
from kaasq.model import GraphSpec
from kaasq.names import check_word
from kaasq_producers.known_graphs import encode, with_whole_graphs
from kaasq_producers.prepare import Prepared
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps

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


class Awaited:
    """What has no reply yet: a request (``Call``), or one that is to follow it (``Follower``)."""

    __slots__ = ("following", "given_up_at", "id", "on_result", "spec", "started", "timeout_s")

    def __init__(self, request_id: str, spec: GraphSpec, on_result: OnResult, started: float, timeout_s: float) -> None:
        self.id = request_id
        self.spec = spec
        self.on_result = on_result
        self.started = started
        self.timeout_s = timeout_s
        self.given_up_at = started + timeout_s + REPLY_GRACE_S
        self.following: list[Follower] = []
        """What follows it at once; what follows those, they have."""

    @property
    def call(self) -> Call:
        """The request that the client published."""
        raise NotImplementedError

    def chain(self) -> Iterator[Follower]:
        """All that follows it."""
        for each in self.following:
            yield each
            yield from each.chain()

    def finish(self, result: Result | KaasqError) -> None:
        """Call back, once. Call and callback refer to each other: no cycle is left to the collector."""
        on_result, self.on_result = self.on_result, _ignore
        on_result(result)

    def timed_out(self, route: Route, *, connected: bool) -> ReplyTimeout:
        """What to tell when no reply came in time, with the likeliest reason."""
        if not connected:
            why = "the connection to the broker is lost"
        elif self.call.rejected:
            why = "the broker rejects it: the pool's queue is full, or has no leader"
        elif not self.call.confirmed:
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


class Follower(Awaited):
    """A request that is to follow another, whose worker publishes it."""

    __slots__ = ("_call", "name")

    def __init__(self, request_id: str, continuation: Continuation, on_result: OnResult, call: Call) -> None:
        assert isinstance(continuation.graph, GraphSpec)
        super().__init__(request_id, continuation.graph, on_result, call.started, call.timeout_s)
        self.name = continuation.name
        self._call = call

    @property
    def call(self) -> Call:
        """The request with which its chain begins."""
        return self._call

    def not_reached(self, why: str, cause: KaasqError | None = None) -> NotReached:
        """What to tell when it does not run."""
        error = NotReached(
            f"{f'step {self.name!r}' if self.name else f'request {self.id}'} does not run: {why}",
            step=self.name,
            request_id=self.id,
            cause=cause.code if cause is not None else None,
        )
        error.__cause__ = cause
        return error


class Call(Awaited):
    """A request without a reply yet. ``id`` is also its idempotency key: published twice, it runs once."""

    __slots__ = (
        "_on_unpublished",
        "body",
        "confirmed",
        "deadline",
        "graphs",
        "published_ms",
        "rejected",
        "steps",
        "unconfirmed",
        "whole",
    )

    def __init__(
        self,
        prepared: Prepared,
        on_result: OnResult,
        on_unpublished: Callable[[Call, KaasqError], None],
        request_id: str | None = None,
        on_steps: Sequence[OnResult] = (),
        steps: Steps[Any] = NONE,
    ) -> None:
        """``on_steps``: who is told of each continuation, in the order of their numbers; ``steps``: their futures."""
        super().__init__(request_id or new_id(), prepared.graph.spec, on_result, time.monotonic(), prepared.timeout_s)
        self.graphs = (prepared.graph, *prepared.following)
        self.whole = any(each.lessons > 0 for each in self.graphs)
        self.body = encode(
            prepared.graph,
            prepared.bound,
            round(self.timeout_s * 1000),
            whole=self.whole,
            repeat=prepared.repeat,
            then=prepared.then,
            following=prepared.following,
        )
        self.steps = steps
        self.confirmed = False
        self.rejected = False
        """Whether the broker had no room for it when it was published last."""
        self.unconfirmed = 0
        """How often the broker was not waited for any longer to confirm it."""
        self._on_unpublished = on_unpublished
        self.published_ms = (time.time_ns() + 500_000) // 1_000_000
        """When it was published first: repeating it gives it no more time."""
        self.deadline = self.started + self.timeout_s
        """When it expires, on the monotonic clock."""
        if prepared.then:
            self._add_steps(self, prepared.then, 0, on_steps)

    @property
    def call(self) -> Call:
        """Itself."""
        return self

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

    def taught(self) -> None:
        """A worker ran it after it had come whole."""
        for each in self.graphs:
            each.taught()

    def make_whole(self) -> None:
        """Carry whole graphs from now on, because a worker did not know a hash."""
        for each in self.graphs:
            each.unknown()
        self.body = with_whole_graphs(self.body, self.graphs[0], self.graphs[1:])
        self.whole = True
        self.confirmed = False

    def _add_steps(
        self, before: Awaited, then: tuple[Continuation, ...], after: int, on_steps: Sequence[OnResult]
    ) -> None:
        for number, _, each in numbered(then, after=after):
            step = Follower(following_id(self.id, number), each, on_steps[number - 1], self)
            before.following.append(step)
            self._add_steps(step, each.then, number, on_steps)


def _ignore(result: Result | KaasqError) -> None:
    """Nobody waits any more."""
