"""Requests until their replies: of a graph, and of what is to follow it. No I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kaasq.continuations import numbered
from kaasq.errors import KaasqError, NotReached, UnknownGraph
from kaasq.ids import following_id
from kaasq.messages import Continuation, Repeat, Reply
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import Awaited, Call, OnResult, OnUnpublished
from kaasq_producers.inputs import Bound
from kaasq_producers.known_graphs import KnownGraph, encode, with_whole_graphs
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps


class Follower(Awaited):
    """A request that is to follow another, whose worker publishes it."""

    __slots__ = ("_call", "name", "spec")

    def __init__(self, request_id: str, continuation: Continuation, on_result: OnResult, call: Call) -> None:
        assert isinstance(continuation.graph, GraphSpec)
        super().__init__(request_id, on_result, call.started, call.timeout_s)
        self.spec = continuation.graph
        self.name = continuation.name
        self._call = call

    @property
    def call(self) -> Call:
        """The request with which its chain begins."""
        return self._call

    def result(self, reply: Reply, buffers: Buffers | None) -> Result:
        """With the outputs of its graph."""
        return Result(reply, self.spec, buffers, time.monotonic() - self.started)

    def not_reached(self, why: str, cause: KaasqError | None = None) -> NotReached:
        """What to tell when it does not run."""
        error = NotReached(
            f"{f'step {self.name!r}' if self.name else self.what} does not run: {why}",
            step=self.name,
            request_id=self.id,
            cause=cause.code if cause is not None else None,
        )
        error.__cause__ = cause
        return error


class Prepared(NamedTuple):
    """A request, checked, with its data at hand."""

    graph: KnownGraph
    bound: Bound
    timeout_s: float
    repeat: Repeat | None = None
    then: tuple[Continuation, ...] = ()
    following: tuple[KnownGraph, ...] = ()
    """The graphs of all that follows."""

    def body(self, *, whole: bool) -> bytes:
        """The message's, with its graphs whole or as hashes."""
        return encode(
            self.graph,
            self.bound,
            round(self.timeout_s * 1000),
            whole=whole,
            repeat=self.repeat,
            then=self.then,
            following=self.following,
        )

    def call(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None = None,
        on_steps: Sequence[OnResult] = (),
        steps: Steps[Any] = NONE,
    ) -> RequestCall:
        """It as a call, under that id or a new one."""
        return RequestCall(self, on_result, on_unpublished, call_id, on_steps, steps)


class RequestCall(Call):
    """A request without a reply yet. ``id`` is also its idempotency key: published twice, it runs once."""

    __slots__ = ("graphs", "spec", "steps", "whole")

    def __init__(
        self,
        prepared: Prepared,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        request_id: str | None,
        on_steps: Sequence[OnResult],
        steps: Steps[Any],
    ) -> None:
        """``on_steps``: who is told of each continuation, in the order of their numbers; ``steps``: their futures."""
        super().__init__(on_result, on_unpublished, request_id, prepared.timeout_s)
        self.spec = prepared.graph.spec
        self.graphs = (prepared.graph, *prepared.following)
        self.whole = any(each.lessons > 0 for each in self.graphs)
        self.body = prepared.body(whole=self.whole)
        self.steps = steps
        if prepared.then:
            self._add_steps(self, prepared.then, 0, on_steps)

    def result(self, reply: Reply, buffers: Buffers | None) -> Result:
        """With the outputs of its graph, and the futures of what follows."""
        if self.whole:
            for each in self.graphs:
                each.taught()
        return Result(reply, self.spec, buffers, time.monotonic() - self.started, self.steps)

    def wants_whole(self, reply: Reply) -> bool:
        """Whether the worker does not know a hash."""
        return reply.error is not None and reply.error.code == UnknownGraph.code

    def make_whole(self) -> bool:
        """Carry whole graphs from now on. Whether it did not: else it is a second answer to what was sent before."""
        if self.whole:
            return False
        for each in self.graphs:
            each.unknown()
        self.body = with_whole_graphs(self.body, self.graphs[0], self.graphs[1:])
        self.whole = True
        self.confirmed = False
        return True

    def _add_steps(
        self, before: Awaited, then: tuple[Continuation, ...], after: int, on_steps: Sequence[OnResult]
    ) -> None:
        for number, _, each in numbered(then, after=after):
            step = Follower(following_id(self.id, number), each, on_steps[number - 1], self)
            before.following.append(step)
            self._add_steps(step, each.then, number, on_steps)
