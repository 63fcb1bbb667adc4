"""Which workflows of a tenant a pool knows: what is asked of the workers, page by page, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self, get_args

from kaasq import codec
from kaasq.errors import BadRequest, WorkerFailed
from kaasq.flows.model import FlowLine, FlowList, FlowReply, FlowsCall, FlowState, Sought
from kaasq.messages import Reply
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import Call, OnResult, OnUnpublished, milliseconds
from kaasq_producers.later import whole
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps

LISTED = 100


class Workflows(tuple[FlowLine, ...]):
    """Workflows, the latest first, of ``total`` that there are."""

    total: int

    def __new__(cls, found: Sequence[FlowLine] = (), total: int = 0) -> Self:
        made = super().__new__(cls, found)
        made.total = total
        return made

    def __repr__(self) -> str:
        return f"<{len(self)} of {self.total} workflows>"


class Looking:
    """Asks for one page after the other: ``search`` is what to ask next, None once ``found`` has all."""

    def __init__(self, state: FlowState | None, limit: int, patience_s: float) -> None:
        """Raises BadRequest."""
        states = get_args(FlowState)
        if state is not None and state not in states:
            raise BadRequest(f"expected {', '.join(map(repr, states))} or None, given {state!r:.60}", at="state")
        self._limit = whole(limit, "limit") or 0
        if self._limit < 1:
            raise BadRequest(f"expected a number of workflows, 1 or more, given {limit!r:.60}", at="limit")
        self._found: list[FlowLine] = []
        self._total = 0
        self.search: Search | None = Search(Sought(state=state, most=limit), patience_s)

    def add(self, result: Result) -> None:
        """What came of the search."""
        assert self.search is not None
        assert isinstance(result, Listed)
        page = result.flows
        self._total = self._total or page.total
        self._found += page.found
        left = self._limit - len(self._found)
        sought = self.search.sought
        more = bool(page.next) and left > 0
        self.search = (
            Search(Sought(state=sought.state, most=left, after=page.next), self.search.timeout_s) if more else None
        )

    @property
    def found(self) -> Workflows:
        """All that was found."""
        return Workflows(self._found, self._total)


class Search(NamedTuple):
    """A question, and how long its answer is waited for."""

    sought: Sought
    timeout_s: float

    def call(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None = None,
        on_steps: Sequence[OnResult] = (),  # noqa: ARG002  # nothing follows it
        steps: Steps[Any] = NONE,  # noqa: ARG002
    ) -> ListCall:
        """It as a call."""
        return ListCall(self, on_result, on_unpublished, call_id)


class ListCall(Call):
    """The message."""

    __slots__ = ()

    slow = "the workers may be busy, or none may be running"
    expires = False  # as in Asking

    def __init__(self, search: Search, on_result: OnResult, on_unpublished: OnUnpublished, call_id: str | None) -> None:
        super().__init__(on_result, on_unpublished, call_id, search.timeout_s, 0.0)
        self.body = codec.encode(FlowsCall(flows=search.sought, timeout_ms=milliseconds(search.timeout_s)))

    @property
    def what(self) -> str:
        """As it is called in messages to a person."""
        return "the question which workflows there are"

    @property
    def cancels(self) -> None:
        """Nothing."""
        return

    def result(self, reply: Reply, buffers: Buffers | None) -> Listed:
        """The list."""
        return Listed(reply, GraphSpec(name=""), buffers, time.monotonic() - self.started)


class Listed(Result):
    """The reply to it."""

    __slots__ = ()

    @property
    def flows(self) -> FlowList:
        """The page."""
        flows = self._reply.flows if isinstance(self._reply, FlowReply) else None
        if flows is None:
            raise WorkerFailed("the reply to the question which workflows there are does not list them")
        return flows
