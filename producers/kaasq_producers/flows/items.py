"""Over which items a step runs: those of a list, of steps that it takes its own items of, or a number. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kaasq.errors import BadRequest
from kaasq.flows.model import MapSpec, Value
from kaasq_producers.flows.draft import Draft
from kaasq_producers.flows.given import Given
from kaasq_producers.flows.placed import PlacedStep
from kaasq_producers.later import whole

Groups = Sequence[Mapping[str, Any]]


def map_for(
    draft: Draft, name: str, groups: Groups, scalars: set[str], *, over: object, count: object, most: object
) -> str:
    """The map of a step that takes these values; a new one if need be. ``scalars``: which of them are numbers.

    Raises BadRequest.
    """
    most_items = whole(most, "most")
    found: dict[str, str] = {}
    lists: dict[str, None] = {}
    if over is not None:
        found[_over(draft, over, most_items)] = "over"
    for key, value in _given(groups):
        data, number = (None, value.number) if key in scalars else (value.data, None)
        if data is not None and data.each and draft.is_list(data.input):
            lists[str(data.input)] = None
        step = data.step if data is not None and data.each else None if number is None else number.step
        if (own := draft.map_of(step)) is not None:
            found.setdefault(own, key)
    if len(found) > 1:
        takes = ", ".join(f"{key!r} those of map {own!r}" for own, key in found.items())
        raise BadRequest(f"takes items of several maps: {takes}")
    if count is not None:
        if found or over is not None:
            raise BadRequest("its items are known already: count is for a map that takes none", at="count")
        return draft.new_map(name, MapSpec(count=_count(count), most=most_items))
    if found:
        key = next(iter(found))
    elif lists:
        key = next((key for key, each in draft.maps.items() if each.input in lists), "")
        key = key or draft.over_list(next(iter(lists)), most_items)
    else:
        raise BadRequest(
            "has no items: bind .each of a list of inputs or of a step in a map, or say how many with count or over"
        )
    if most_items is not None and draft.maps[key].most != most_items:
        raise BadRequest(f"map {key!r} has items already, {draft.maps[key].most} at most", at="most")
    return key


def refuse_items(draft: Draft, groups: Groups, scalars: set[str]) -> None:
    """For a step that is in no map. Raises BadRequest."""
    for key, value in _given(groups):
        if key in scalars:
            number = value.number
            if number is not None and (number.item or draft.map_of(number.step) is not None):
                raise BadRequest(
                    f"{value.what} is another one for each item, which flow.map() takes", at=f"scalars.{key}"
                )
        elif value.data is not None and value.data.each:
            raise BadRequest(f"{value.what}: flow.map() runs a graph for each item, flow.step() once", at=f"bind.{key}")


def items_of(draft: Draft, value: object, name: str) -> str:
    """The map whose items a sub-workflow's list is bound to. Raises BadRequest."""
    if isinstance(value, Given) and value.data is not None and not value.data.each:
        if draft.is_list(value.data.input):
            return draft.over_list(str(value.data.input))
        if (own := draft.map_of(value.data.step)) is not None:
            return own
    raise BadRequest(
        f"expected a list of inputs, flow.inputs(), or an output of a step in a map, given {value!r:.80}",
        at=f"bind.{name}",
    )


def _over(draft: Draft, over: object, most: int | None) -> str:
    if isinstance(over, PlacedStep) and over.map is not None:
        return over.map
    if isinstance(over, Given) and over.data is not None and draft.is_list(over.data.input):
        return draft.over_list(str(over.data.input), most)
    raise BadRequest(f"expected a list of inputs or a step in a map, given {over!r:.80}", at="over")


def _count(count: object) -> int | Value:
    if isinstance(count, Given):
        return count.element("count")
    number = whole(count, "count")
    assert number is not None
    return number


def _given(groups: Groups) -> Iterator[tuple[str, Given]]:
    for group in groups:
        for key, value in group.items():
            if isinstance(value, Given):
                yield key, value
