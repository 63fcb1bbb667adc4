"""Steps of a workflow that one executor runs in a row, as one job: what only the next step takes stays on the device.

All of them are recorded in one transaction when the last has ended. If the executor dies before, the first one's
message comes again, and its steps are run one by one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from kaasq.flows.edges import Edges
from kaasq.flows.model import FlowSpec, FlowStep, From
from kaasq.messages import Request
from kaasq_workers.executor.flight import Executed, Produced
from kaasq_workers.executor.resident import Resident, Taken


class Onto(NamedTuple):
    """The step that alone takes what another one gives. ``hold``: outputs that need not leave the device."""

    step: int
    hold: frozenset[str]


class Ran(msgspec.Struct):
    """A step that has run in a stretch."""

    step: int
    request: Request
    executed: Executed
    ended_ms: int

    def discard(self) -> None:
        """Forget it; staged outputs give their space back."""
        for each in self.executed.outputs:
            if not isinstance(each.data, bytearray):
                each.data.discard()


def onto(spec: FlowSpec, edges: Edges, step: int) -> Onto | None:
    """Whether a step's outputs are wanted by just one other step, which waits for nothing that could keep it.

    So neither is in a map or a loop; the other has no condition, no time of its own, and takes no number of the step.
    """
    before = spec.steps[step]
    if before.map is not None or before.repeat is not None or edges.after_own[step] or len(edges.after[step]) != 1:
        return None
    (number,) = edges.after[step]
    after = spec.steps[number]
    bare = after.map is None and after.repeat is None and after.condition is None and after.timeout_ms is None
    if not bare or after.on != "completed" or any(each.step == before.name for each in spec.outputs.values()):
        return None
    taken = {each.output for each in _taken(after, before.name).values()}
    if not taken or not taken.isdisjoint(before.keep) or _counts(after, before.name):
        return None
    graph = spec.graph_of(before)
    return Onto(
        number, frozenset(each.name for each in graph.buffers if each.returned and each.name not in before.keep)
    )


def _taken(step: FlowStep, before: str) -> dict[str, From]:
    """The inputs that are outputs of the step before."""
    return {name: each for name, each in step.bind.items() if isinstance(each, From) and each.step == before}


def _counts(step: FlowStep, before: str) -> bool:
    """Whether it takes a number of the step before, or parts of an output."""
    numbers = any(not isinstance(each, (bool, int, float)) and each.step == before for each in step.scalars.values())
    return numbers or any(each.each for each in _taken(step, before).values())


class Stretch:
    """Where one stretch stands. ``ran``: its steps that have ended, the job's own first."""

    def __init__(
        self,
        spec: FlowSpec,
        edges: Edges,
        step: int,
        free: Callable[[int, int], bool],
        let_go: Callable[[Resident], None],
    ) -> None:
        """``free``: whether a step waits for no other than that one. ``let_go`` is told of what nobody needs."""
        self._spec = spec
        self._edges = edges
        self._free = free
        self._let_go = let_go
        self.ran: list[Ran] = []
        self._held: Mapping[str, Resident] = {}  # what the last of them left on the device
        self._step = step  # that runs now
        self._onto = self._next(step)

    @property
    def single(self) -> bool:
        """Whether no other step can follow the first one."""
        return self._onto is None and not self.ran

    @property
    def hold(self) -> frozenset[str]:
        """What the step that runs now is to leave on the device."""
        return frozenset() if self._onto is None else self._onto.hold

    @property
    def held(self) -> Mapping[str, Resident]:
        """What the last step that has ended left there."""
        return self._held

    def end(self, request: Request, executed: Executed) -> int | None:
        """The step that runs now has ended: which is the next one, if any."""
        self.close()
        self._held = executed.held
        self.ran.append(Ran(self._step, request, executed, time.time_ns() // 1_000_000))
        return None if self._onto is None else self._onto.step

    def taken(self) -> dict[str, Taken]:
        """What the next step takes of what the last one left. That stays until the next one has ended."""
        assert self._onto is not None
        step, before = self._spec.steps[self._onto.step], self._spec.steps[self._step].name
        return {
            name: Taken(self._held[each.output], each.offset or 0)
            for name, each in _taken(step, before).items()
            if each.output is not None
        }

    def go_on(self) -> None:
        """The next step is to begin."""
        assert self._onto is not None
        self._step = self._onto.step
        self._onto = self._next(self._step)

    def stop(self, outputs: list[Produced]) -> None:
        """No other step follows: the last one that has ended has these outputs, on the host."""
        last = self.ran[-1]
        last.executed = last.executed._replace(outputs=outputs, held={})
        self._onto = None

    def discard(self) -> None:
        """Forget all that has run."""
        for each in self.ran:
            each.discard()
        self.ran.clear()

    def close(self) -> None:
        """Nothing on the device is needed any more."""
        for each in self._held.values():
            self._let_go(each)
        self._held = {}

    def _next(self, step: int) -> Onto | None:
        found = onto(self._spec, self._edges, step)
        return found if found is not None and self._free(found.step, step) else None
