"""A step that was added to a workflow: what it gives to others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from kaasq.errors import BadRequest
from kaasq.flows.model import From, Value
from kaasq_producers.flows.given import Given

if TYPE_CHECKING:
    from kaasq_producers.flows.workflow import Workflow


class PlacedStep:
    """``step["out"]`` is its output of that name, for other steps to take.

    In a map that is all items' outputs, one after the other, or ``step["out"].each`` the own one of each item.
    """

    __slots__ = ("_outputs", "flow", "map", "name", "steps")

    def __init__(
        self, flow: Workflow, name: str, outputs: Mapping[str, From], *, steps: tuple[str, ...], in_map: str | None
    ) -> None:
        """``steps``: those that it stands for, several where it is a sub-workflow. ``in_map``: in which."""
        self.flow = flow
        self.name = name
        self.steps = steps
        self.map = in_map
        self._outputs = dict(outputs)

    def __getitem__(self, output: str) -> Given:
        data = self._outputs.get(output)
        if data is None:
            there = ", ".join(map(repr, self._outputs)) or "none"
            raise BadRequest(f"step {self.name!r} has no output {output!r:.80}; it has {there}")
        number = Value(step=data.step, output=data.output) if data.step is not None and data.output else None
        return Given(self.flow, f"output {output!r} of step {self.name!r}", data, number)

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    @property
    def count(self) -> Given:
        """Of a step in a map: how many items it runs over, for a scalar or for ``when``."""
        if self.map is None:
            raise BadRequest(f"step {self.name!r} is in no map, so it has no items to count", at="count")
        return Given(self.flow, f"the number of items of step {self.name!r}", None, Value(count=self.map))

    @property
    def mask(self) -> Given:
        """Of a step in a map: a byte for each item, 1 for those that completed, and zeros to the end of the buffer."""
        steps = list(dict.fromkeys(each.step for each in self._outputs.values() if each.step is not None))
        if self.map is None:
            raise BadRequest(f"step {self.name!r} is in no map, so no items of it complete", at="mask")
        if len(steps) != 1:
            raise BadRequest(f"the outputs of {self.name!r} come from several steps: {steps}", at="mask")
        return Given(self.flow, f"the mask of step {self.name!r}", From(mask=steps[0]))

    def __repr__(self) -> str:
        return f"<Step {self.name!r} of workflow {self.flow.name!r}{f', in map {self.map!r}' if self.map else ''}>"


def check_own(flow: Workflow, value: object, at: str) -> None:
    """Whether it is the workflow's, if it is any one's. Raises BadRequest."""
    if isinstance(value, (Given, PlacedStep)) and value.flow is not flow:
        raise BadRequest(f"{value!r} belongs to another workflow than {flow.name!r}", at=at)


def check_values(flow: Workflow, groups: Iterable[Mapping[str, object]]) -> None:
    """Whether what is bound to a step is the workflow's, and no step whole. Raises BadRequest."""
    for group in groups:
        for name, value in group.items():
            check_own(flow, value, f"bind.{name}")
            if isinstance(value, PlacedStep):
                example = next(iter(value), "out")
                raise BadRequest(f"expected one of its outputs, step[{example!r}], given {value!r}", at=f"bind.{name}")
