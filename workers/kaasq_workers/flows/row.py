"""Which steps of a workflow may run in a row: one takes what the other gives, and nobody else does. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kaasq.flows.edges import Edges
from kaasq.flows.model import FlowSpec, FlowStep, From


class Onto(NamedTuple):
    """The step that alone takes what another one gives. ``hold``: outputs that need not leave the device."""

    step: int
    hold: frozenset[str]


class Row(NamedTuple):
    """A workflow as far as its steps may run in a row. ``free``: whether a step waits for no other than that one."""

    spec: FlowSpec
    edges: Edges
    free: Callable[[int, int], bool]

    def after(self, step: int) -> Onto | None:
        """The step that may run right behind that one."""
        found = onto(self.spec, self.edges, step)
        return found if found is not None and self.free(found.step, step) else None

    def taken(self, step: int, before: int) -> dict[str, From]:
        """The inputs of a step that are outputs of that other one."""
        return _taken(self.spec.steps[step], self.spec.steps[before].name)


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
