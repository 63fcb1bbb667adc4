"""Which steps of a workflow wait for which: whole, or item by item within one map. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import msgspec

from kaasq.errors import BadRequest
from kaasq.flows.model import FlowSpec, FlowStep, From, Value

Steps = tuple[int, ...]

SHOWN = 6  # names at either end of a circle


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """By the number of a step, the numbers of others, in ascending order.

    ``before[s]``: those that all of it waits for. ``own[s]``: those in its map of which each item waits for the same
    item, unless it waits for all of them anyhow. ``after`` and ``after_own``: the reverse. ``order``: all steps,
    each behind those that it waits for, otherwise as they stand in the workflow.
    """

    before: tuple[Steps, ...]
    own: tuple[Steps, ...]
    after: tuple[Steps, ...]
    after_own: tuple[Steps, ...]
    order: Steps


def dependencies(spec: FlowSpec) -> Edges:
    """The edges of a workflow whose names are those of steps and maps that it has.

    Raises BadRequest with the circle where steps, or maps' counts, wait for each other.
    """
    counts = {name: _counting(spec, root) for name, root in sized_by(spec).items()}
    before: list[set[int]] = []
    own: list[set[int]] = []
    for step in spec.steps:
        whole, same = set(_waits(spec, counts, step)), set(_same_item(spec, step))
        before.append(whole)
        own.append(same - whole)
    return Edges(
        before=_frozen(before),
        own=_frozen(own),
        after=_frozen(_reversed(before)),
        after_own=_frozen(_reversed(own)),
        order=_order(spec, [whole | same for whole, same in zip(before, own, strict=True)]),
    )


def sized_by(spec: FlowSpec) -> dict[str, str]:
    """By map, the one from which its number of items comes: itself, unless its count is that of another.

    Raises BadRequest where maps have as many items as each other, in a circle.
    """
    found: dict[str, str] = {}
    for name in spec.maps:
        path: dict[str, None] = {}
        current = name
        while current not in found:
            if current in path:
                circle = [*path, current][list(path).index(current) :]
                raise BadRequest(
                    f"the counts of these maps wait for each other: {_shown(circle)}", at=f"workflow.maps.{name}"
                )
            path[current] = None
            count = spec.maps[current].count
            if isinstance(count, Value) and count.count is not None:
                current = count.count
            else:
                found[current] = current
        found |= dict.fromkeys(path, found[current])
    return found


def items_together(spec: FlowSpec, counts: Mapping[str, int | None]) -> int:
    """How many items all steps have, as far as it is known how many their maps have."""
    return sum(1 if each.map is None else counts.get(each.map) or 0 for each in spec.steps)


def in_same_map(spec: FlowSpec, step: FlowStep, other: str) -> bool:
    """Whether the step named is in the same map as this one, so that it is there item by item."""
    return step.map is not None and spec.steps[spec.number_of(other)].map == step.map


def place(spec: FlowSpec, number: int) -> str:
    """How errors name a step: ``steps[3] (blur)``."""
    return f"steps[{number}] ({spec.steps[number].name})"


def _counting(spec: FlowSpec, name: str) -> int | None:
    """The step whose output says how many items a map has; None where that is known at the start."""
    count = spec.maps[name].count
    return spec.number_of(count.step) if isinstance(count, Value) and count.step is not None else None


def _waits(spec: FlowSpec, counts: dict[str, int | None], step: FlowStep) -> Iterator[int]:
    """The steps that all items of the step wait for."""
    for name in step.after:
        yield spec.number_of(name)
    for source in step.bind.values():
        if isinstance(source, From):
            if source.step is not None and not (source.each and in_same_map(spec, step, source.step)):
                yield spec.number_of(source.step)
            if source.mask is not None:
                yield spec.number_of(source.mask)
    sizes = [step.map] if step.map is not None else []
    for value in values(step):
        if value.step is not None and not in_same_map(spec, step, value.step):
            yield spec.number_of(value.step)
        if value.count is not None:
            sizes.append(value.count)
    for name in sizes:
        number = counts[name]
        if number is not None:
            yield number


def _same_item(spec: FlowSpec, step: FlowStep) -> Iterator[int]:
    """The steps of which each item waits for the same item."""
    taken = [source.step for source in step.bind.values() if isinstance(source, From) and source.each]
    for name in [*taken, *(value.step for value in values(step))]:
        if name is not None and in_same_map(spec, step, name):
            yield spec.number_of(name)


def values(step: FlowStep) -> Iterator[Value]:
    """The numbers that a step takes."""
    yield from (each for each in step.scalars.values() if isinstance(each, Value))
    if step.condition is not None:
        yield step.condition


def _order(spec: FlowSpec, before: list[set[int]]) -> Steps:
    sorter = TopologicalSorter(dict(enumerate(before)))
    try:
        sorter.prepare()
    except CycleError as error:
        circle: list[int] = error.args[1]
        names = _shown([spec.steps[number].name for number in circle])
        raise BadRequest(f"these steps wait for each other: {names}", at=place(spec, circle[0])) from None
    ready = list(sorter.get_ready())
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        sorter.done(number)
        for each in sorter.get_ready():
            heapq.heappush(ready, each)
    return tuple(order)


def _shown(circle: Sequence[str]) -> str:
    names = circle if len(circle) <= 2 * SHOWN else [*circle[:SHOWN], "...", *circle[-SHOWN:]]
    return " -> ".join(names)


def _reversed(edges: list[set[int]]) -> list[set[int]]:
    reverse: list[set[int]] = [set() for _ in edges]
    for number, others in enumerate(edges):
        for other in others:
            reverse[other].add(number)
    return reverse


def _frozen(edges: Iterable[set[int]]) -> tuple[Steps, ...]:
    return tuple(tuple(sorted(each)) for each in edges)
