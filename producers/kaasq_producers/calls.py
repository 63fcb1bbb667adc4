"""What a client has sent until its reply: who is told of it, its message, and what its failures say. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from kaasq import codec, topology
from kaasq.broker import Message
from kaasq.errors import BrokerRefused, KaasqError, ReplyTimeout, Unroutable
from kaasq.ids import new_id
from kaasq.messages import Reply
from kaasq.names import check_word
from kaasq_producers.buffers import Buffers
from kaasq_producers.result import Result, failure
from kaasq_producers.steps import NONE, Steps

# After the deadline, for the worker's own verdict: it looks every 0.25 s for kernels that have not ended, stops them,
# and says deadline_exceeded, which tells more than that nobody answered.
REPLY_GRACE_S = 1.0

FOREVER = float("inf")
LONGEST_MS = (1 << 32) - 1  # that a message can be told to last


def milliseconds(timeout_s: float) -> int | None:
    """As messages have it. None: longer than they can say."""
    return max(1, round(timeout_s * 1000)) if timeout_s * 1000 < LONGEST_MS else None


OnResult = Callable[[Any], None]
"""Given the Result, or the KaasqError."""

OnUnpublished = Callable[["Call", KaasqError], None]


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
    """What has no reply yet: a message that the client sent (``Call``), or a request that is to follow one.

    ``id`` is what its reply is found by.
    """

    __slots__ = ("following", "given_up_at", "id", "on_result", "started", "timeout_s")

    def __init__(
        self, call_id: str, on_result: OnResult, started: float, timeout_s: float, grace_s: float = REPLY_GRACE_S
    ) -> None:
        self.id = call_id
        self.on_result = on_result
        self.started = started
        self.timeout_s = timeout_s
        self.given_up_at = started + timeout_s + grace_s
        self.following: list[Awaited] = []
        """What follows it at once; what follows those, they have."""

    @property
    def call(self) -> Call:
        """The message that the client published."""
        raise NotImplementedError

    @property
    def what(self) -> str:
        """As it is called in messages to a person."""
        return f"request {self.id}"

    @property
    def cancels(self) -> str | None:
        """What the workers are told not to run when it is cancelled; None: nobody awaits it any longer, that is all."""
        return self.id

    def chain(self) -> Iterator[Awaited]:
        """All that follows it."""
        for each in self.following:
            yield each
            yield from each.chain()

    def result(self, reply: Reply, buffers: Buffers | None) -> Result:
        """What a reply that is ok says."""
        raise NotImplementedError

    def failure(self, reply: Reply, buffers: Buffers | None) -> KaasqError:
        """What another one says."""
        return failure(reply, buffers)

    def not_reached(self, why: str, cause: KaasqError | None = None) -> KaasqError:
        """What to tell when it does not run, as something that follows."""
        raise NotImplementedError

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
            why = self.call.slow
        return ReplyTimeout(
            f"{self.what} to pool {route.pool!r} got no reply within {self.timeout_s:g} s; {why} "
            f"(`kaasq doctor` checks broker and workers)",
            request_id=self.id,
            pool=route.pool,
            timeout_s=self.timeout_s,
        )


class Call(Awaited):
    """A message without a reply yet. Published twice, it does what it does once."""

    __slots__ = (
        "_on_unpublished",
        "again_at",
        "again_s",
        "body",
        "confirmed",
        "deadline",
        "published_ms",
        "rejected",
        "unconfirmed",
    )

    slow = "the workers may be busy, none may be running, or its kernel has not ended"
    """Why there may be no reply although the broker has it."""
    expires = True
    """Whether the broker makes a dead letter of it at its deadline, if no worker has taken it by then."""

    def __init__(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None,
        timeout_s: float,
        grace_s: float = REPLY_GRACE_S,
        again_s: float | None = None,
    ) -> None:
        super().__init__(call_id or new_id(), on_result, time.monotonic(), timeout_s, grace_s)
        self.body = b""
        self.again_s = again_s
        """After how long without a reply it is published again, although the broker has it; None: never."""
        self.again_at = FOREVER if again_s is None else self.started + again_s
        """When that is next, on the monotonic clock."""
        self.confirmed = False
        self.rejected = False
        """Whether the broker had no room for it when it was published last."""
        self.unconfirmed = 0
        """How often the broker was not waited for any longer to confirm it."""
        self._on_unpublished = on_unpublished
        self.published_ms = (time.time_ns() + 500_000) // 1_000_000
        """When it was published first: repeating it gives it no more time."""
        self.deadline = self.started + timeout_s
        """When it expires, on the monotonic clock."""

    @property
    def call(self) -> Call:
        """Itself."""
        return self

    @property
    def message_id(self) -> str:
        """The idempotency key."""
        return self.id

    def message(self, route: Route) -> Message:
        """What to publish; it expires at the call's deadline, if it has one and ``expires``."""
        left_s = self.deadline - time.monotonic() if self.expires else FOREVER
        return Message(
            body=self.body,
            content_type=codec.MSGPACK,
            message_id=self.message_id,
            correlation_id=self.id,
            user_id=route.tenant,
            reply_to=route.reply_id,
            expiration_ms=milliseconds(left_s),
            timestamp_ms=self.published_ms,
        )

    def published(self, error: KaasqError | None) -> None:
        """The broker has it, or not. A bound method, so that no closure is made per request."""
        if error is None:
            self.confirmed, self.rejected = True, False
        else:
            self._on_unpublished(self, error)

    def forgotten(self, reply: Reply) -> bool:  # noqa: ARG002  # the worker forgets nobody to whom it owes an outcome
        """Whether the reply says only that the worker does not remember who waits; it will be asked again."""
        return False

    def wants_whole(self, reply: Reply) -> bool:  # noqa: ARG002  # of most messages nothing is left out
        """Whether the worker lacks something that was not sent because it might have known it."""
        return False

    def make_whole(self) -> bool:
        """Leave nothing out from now on. Whether something was left out before."""
        return False


class Sendable(Protocol):
    """What a core can send: it makes the call. Its ``timeout_s`` is also how long it waits for room."""

    @property
    def timeout_s(self) -> float:
        """In seconds."""

    def call(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None = None,
        on_steps: Sequence[OnResult] = (),
        steps: Steps[Any] = NONE,
    ) -> Call:
        """``call_id``: if its reply is not to be found by a new one. ``on_steps``: who is told of each continuation,
        in the order of their numbers; ``steps``: their futures.
        """


def _ignore(_result: object) -> None:
    """Nobody waits any more."""
