"""A workflow inside another becomes steps of that: names get a prefix, what it takes is put into its place. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from kaasq.errors import BadRequest
from kaasq.flows.edges import dependencies
from kaasq.flows.model import FlowSpec, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.model import Scalar
from kaasq_producers.flows.given import condition
from kaasq_producers.flows.options import Options

Data = bytes | From


class Around(NamedTuple):
    """What the workflow outside has for the one inside, which is called ``name`` there.

    ``bind`` and ``numbers``: by the inner one's inputs and scalars. ``graphs``: by its keys those of the outer one.
    ``lists``: by its list inputs, the outer maps of their items. ``keep``: by its outputs. ``map``: the outer map that
    all of it is in.
    """

    name: str
    bind: Mapping[str, Data]
    numbers: Mapping[str, Value]
    graphs: Mapping[str, str]
    lists: Mapping[str, str]
    keep: Mapping[str, str]
    map: str | None

    def inside(self, name: str) -> str:
        """What a step, map or scalar of the inner workflow is called outside."""
        return f"{self.name}/{name}"


def scalars_inside(spec: FlowSpec, name: str, given: Mapping[str, object]) -> tuple[list[Scalar], dict[str, Value]]:
    """The inner workflow's scalars: new ones of the outer for those that are given as numbers or not at all, so that
    a start may set them; and by inner name, what each is outside.
    """
    added: list[Scalar] = []
    numbers: dict[str, Value] = {}
    for each in spec.scalars:
        number = given.get(each.name, each.default)
        if isinstance(number, Value):
            numbers[each.name] = number
            continue
        assert isinstance(number, (bool, int, float)), "the binder refuses what has neither"
        outside = f"{name}/{each.name}"
        added.append(Scalar(name=outside, dtype=each.dtype, default=number))
        numbers[each.name] = Value(scalar=outside)
    return added, numbers


class Inlining:
    """One checked workflow as steps of another. Every method raises BadRequest for what a part of one cannot do."""

    def __init__(self, spec: FlowSpec, around: Around, options: Options) -> None:
        if around.map is not None and (spec.maps or around.lists):
            raise BadRequest("has maps or lists itself, and a map inside a map is not possible")
        self._spec = spec
        self._around = around
        self._options = options

    def maps(self) -> dict[str, MapSpec]:
        """Maps to add: those whose items are not a list that is given from outside."""
        return {
            self._around.inside(name): msgspec.structs.replace(
                each, count=self._value(each.count) if isinstance(each.count, Value) else each.count
            )
            for name, each in self._spec.maps.items()
            if each.input is None
        }

    def steps(self) -> list[FlowStep]:
        """Steps to add. Those that wait for none of their own workflow wait for what the whole is to wait for."""
        edges = dependencies(self._spec)
        steps: list[FlowStep] = []
        for number, step in enumerate(self._spec.steps):
            made = self._step(step)
            if not edges.before[number] and not edges.own[number]:
                made = self._first(step.name, made)
            if self._options.tolerate and self._takes_outer_steps(step):
                made = msgspec.structs.replace(made, tolerate=True)
            steps.append(made)
        return steps

    def outputs(self) -> dict[str, From]:
        """Its outputs, as they are called outside."""
        return {name: self._renamed(each) for name, each in self._spec.outputs.items()}

    def _step(self, step: FlowStep) -> FlowStep:
        around = self._around
        sizes = {each.name: each.nbytes for each in self._spec.graph_of(step).buffers}
        outputs = {each.output: name for name, each in self._spec.outputs.items() if each.step == step.name}
        keep = {str(output): around.keep[name] for output, name in outputs.items() if name in around.keep}
        return msgspec.structs.replace(
            step,
            name=around.inside(step.name),
            graph=around.graphs[step.graph],
            map=around.map if step.map is None else self._map(step.map),
            bind={name: self._data(each, sizes[name], f"{step.name}.{name}") for name, each in step.bind.items()},
            scalars={
                name: self._value(each) if isinstance(each, Value) else each for name, each in step.scalars.items()
            },
            condition=None if step.condition is None else self._condition(step.condition),
            keep={**step.keep, **keep},
            after=tuple(map(around.inside, step.after)),
        )

    def _first(self, name: str, step: FlowStep) -> FlowStep:
        options = self._options
        if options.condition is not None and step.condition is not None:
            raise BadRequest(f"its step {name!r} has a condition of its own", at="when")
        return msgspec.structs.replace(
            step,
            condition=step.condition if options.condition is None else options.condition,
            on=options.on if step.on == "completed" else step.on,
            after=(*step.after, *options.after),
        )

    def _takes_outer_steps(self, step: FlowStep) -> bool:
        inputs = {each.input for each in step.bind.values() if isinstance(each, From) and each.input is not None}
        outer = [self._around.bind[name] for name in inputs]
        return any(isinstance(each, From) and (each.step or each.mask) is not None for each in outer)

    def _map(self, name: str) -> str:
        source = self._spec.maps[name].input
        return self._around.inside(name) if source is None else self._around.lists[source]

    def _renamed(self, source: From) -> From:
        """One that is no input of the workflow."""
        return msgspec.structs.replace(
            source,
            step=None if source.step is None else self._around.inside(source.step),
            mask=None if source.mask is None else self._around.inside(source.mask),
        )

    def _data(self, source: Data, nbytes: int, at: str) -> Data:
        """What an inner step's buffer of that size takes, in the words of the outer workflow."""
        if isinstance(source, bytes):
            return source
        if source.input is None:
            renamed = self._renamed(source)
            in_map = self._around.map is not None and source.step is not None
            return msgspec.structs.replace(renamed, each=True) if in_map else renamed
        outer = self._around.bind[source.input]
        if source.offset is None and not source.each:
            return outer
        if isinstance(outer, bytes):
            if source.each:
                raise BadRequest(f"{at} takes parts of {source.input!r} for its items: bind an input, not data")
            start = source.offset or 0
            return outer[start : start + nbytes]
        if outer.each or (source.each and outer.offset is not None):
            raise BadRequest(f"{at} takes a part of {source.input!r}, which is a part already")
        if source.each:
            return msgspec.structs.replace(outer, each=True)
        return msgspec.structs.replace(outer, offset=(outer.offset or 0) + (source.offset or 0))

    def _value(self, value: Value) -> Value:
        if value.scalar is not None:
            return self._around.numbers[value.scalar]
        return Value(
            step=None if value.step is None else self._around.inside(value.step),
            output=value.output,
            index=value.index,
            count=None if value.count is None else self._map(value.count),
            item=value.item,
        )

    def _condition(self, given: StepCondition) -> StepCondition:
        return condition(self._value(given), given.op, given.value)
