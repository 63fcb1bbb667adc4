"""A workflow's result: its outputs as NumPy arrays, and how its steps ended."""

from __future__ import annotations

from typing import Any

from kaasq.errors import WorkerFailed
from kaasq.flows.model import FlowReply, FlowStatus, StepStatus
from kaasq.messages import Reply
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Array, Buffers
from kaasq_producers.result import Result


class FlowResult(Result):
    """What a workflow gave: ``result["total"]`` is an array. Of a map's steps it has one axis more, for the items.

    Otherwise as a request's. ``timings`` and ``worker`` are those of collecting the outputs; what its steps took,
    ``Run.status(items=True)`` says.
    """

    __slots__ = ("id", "name")

    id: str
    """The workflow's, by which any client can ``attach`` to it."""

    name: str
    """What the workflow is called."""

    def __init__(
        self, reply: Reply, flow: str, name: str, buffers: Buffers | None = None, elapsed: float = 0.0
    ) -> None:
        self.id = flow
        status = reply.flow if isinstance(reply, FlowReply) else None
        self.name = name if status is None else status.name
        super().__init__(reply, GraphSpec(name=self.name), buffers, elapsed)

    @property
    def flow(self) -> FlowStatus:
        """How it stood when it replied."""
        status = self._reply.flow if isinstance(self._reply, FlowReply) else None
        if status is None:
            raise WorkerFailed(f"the reply about workflow {self.id} does not say how it stands")
        return status

    @property
    def steps(self) -> dict[str, StepStatus]:
        """How its steps ended, by name: state, items, how many completed and failed, times."""
        return {each.name: each for each in self.flow.steps}

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._reply.without_inline(), self.id, self.name, self.elapsed, dict(self))

    def __repr__(self) -> str:
        return f"<FlowResult of workflow {self.name!r}, {self.id}: {self._outputs()}>"


def _restored(reply: Reply, flow: str, name: str, elapsed: float, arrays: dict[str, Array]) -> FlowResult:
    """A pickled one: its outputs are at hand."""
    result = FlowResult(reply, flow, name, None, elapsed)
    result._arrays.update(arrays)
    return result
