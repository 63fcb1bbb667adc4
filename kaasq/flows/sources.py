"""What a step takes, and from where: whether that is there, and fits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from kaasq.bindings import check_dtype, taken_size
from kaasq.errors import BadRequest, BufferSize
from kaasq.flows.edges import sized_by
from kaasq.flows.known import the_input, the_map, the_scalar, the_step
from kaasq.flows.model import FlowSpec, FlowStep, From, Value
from kaasq.messages import Element, Stored
from kaasq.model import Buffer
from kaasq.names import check_name, is_ref
from kaasq.then_checks import check_element, output_of


class Items(NamedTuple):
    """How many items each map and each list has at most; None where nobody knows yet."""

    maps: Mapping[str, int | None]
    lists: Mapping[str, int | None]


MASK_DTYPES = frozenset({None, "bool", "int8", "uint8"})
COUNT_DTYPE = "uint64"  # of numbers that count items


def most_items(spec: FlowSpec) -> Items:
    """As far as the workflow says it."""
    maps: dict[str, int | None] = {}
    lists: dict[str, int | None] = {each.name: None for each in spec.inputs if each.many}
    for name, root in sized_by(spec).items():
        sized = spec.maps[root]
        maps[name] = _least(spec.maps[name].most, sized.most, sized.count if isinstance(sized.count, int) else None)
        if sized.input is not None:
            lists[sized.input] = _least(lists[sized.input], maps[name])
    return Items(maps, lists)


def _least(*given: int | None) -> int | None:
    return min((each for each in given if each is not None), default=None)


def check_stored(stored: Stored, at: str) -> None:
    """Whether it says which object, one way. Raises BadRequest."""
    if (stored.ref is None) == (stored.name is None):
        raise BadRequest("needs one of ref and name", at=at)
    if stored.ref is not None and not is_ref(stored.ref):
        raise BadRequest(f"{stored.ref[:64]!r} is no reference: 64 hexadecimal digits", at=f"{at}.ref")
    if stored.name is not None:
        check_name(stored.name, f"{at}.name")


def bound_size(spec: FlowSpec, items: Items, step: FlowStep, name: str, source: From, at: str) -> int | None:
    """How many bytes the source gives to that buffer of the step's graph; None where only the run can tell.

    Raises BadRequest, BufferSize.
    """
    ways = (source.input, source.step, source.mask, source.ref, source.name)
    if sum(each is not None for each in ways) != 1:
        raise BadRequest("needs one of input, step (with output), mask, ref and name", at=at)
    if (source.step is None) != (source.output is None):
        raise BadRequest("needs step and output together, or neither", at=at)
    if source.each and step.map is None:
        raise BadRequest("each item takes its own with `each`, but this step is in no map", at=at)
    buffer = spec.graph_of(step).buffer(name)
    if buffer is None or not buffer.given:
        return None  # refused by check_bindings, which says what there is
    if source.input is not None:
        given = the_input(spec, source.input, f"{at}.input")
        what = f"input {given.name!r}"
        check_dtype(buffer, given.dtype, what, at)
        if given.many and not source.each:
            return _gathered(buffer, source, given.nbytes, items.lists[given.name], what, at)
        if source.each and not given.many:
            return _part(buffer, source, given.nbytes, _items(items, step), what, at)
        return taken_size(buffer, source.offset, given.nbytes, what, at)
    if source.step is not None and source.output is not None:
        return _output_size(spec, items, step, buffer, source, at)
    if source.mask is not None:
        return _mask_size(spec, items, buffer, source, at)
    check_stored(Stored(ref=source.ref, name=source.name), at)
    return None


def _output_size(spec: FlowSpec, items: Items, step: FlowStep, buffer: Buffer, source: From, at: str) -> int:
    assert source.step is not None
    assert source.output is not None
    before = the_step(spec, source.step, f"{at}.step")
    output = output_of(spec.graph_of(before), source.output, f"{at}.output")
    what = f"output {output.name!r} of step {before.name!r}"
    check_dtype(buffer, output.dtype, what, at)
    if before.map is None:
        if source.each:
            return _part(buffer, source, output.nbytes, _items(items, step), what, at)
        return taken_size(buffer, source.offset, output.nbytes, what, at)
    if source.each:
        if before.map != step.map:
            raise BadRequest(
                f"step {before.name!r} is in map {before.map!r}, this one in {step.map!r}: it can take all of its "
                f"items, without `each`",
                at=at,
            )
        return taken_size(buffer, source.offset, output.nbytes, what, at)
    return _gathered(buffer, source, output.nbytes, items.maps[before.map], what, at)


def _mask_size(spec: FlowSpec, items: Items, buffer: Buffer, source: From, at: str) -> int:
    assert source.mask is not None
    before = the_step(spec, source.mask, f"{at}.mask")
    if before.map is None:
        raise BadRequest(f"step {before.name!r} is in no map: it has no items of which some may fail", at=f"{at}.mask")
    if source.each:
        raise BadRequest("a mask is a byte for each item: it is taken whole, without `each`", at=at)
    if buffer.dtype not in MASK_DTYPES:
        raise BadRequest(f"a mask holds bytes; {buffer.role} {buffer.name!r} holds {buffer.dtype}", at=at)
    return _gathered(buffer, source, 1, items.maps[before.map], f"the mask of step {before.name!r}", at)


def _items(items: Items, step: FlowStep) -> int | None:
    return None if step.map is None else items.maps[step.map]


def _gathered(buffer: Buffer, source: From, nbytes: int, most: int | None, what: str, at: str) -> int:
    """The buffer's size, if that is enough for so many items of ``nbytes``; one, where nobody knows how many.

    With an offset it is some of them, and zeros behind them.
    """
    count = 1 if most is None else most
    if source.offset is None and count * nbytes > buffer.nbytes:
        raise BufferSize(
            f"{at}: buffer {buffer.name!r} is declared with {buffer.nbytes} bytes, but {what} takes {nbytes} for each "
            f"item, {count * nbytes} for {count}",
            buffer=buffer.name,
            expected=buffer.nbytes,
            given=count * nbytes,
            at=at,
        )
    return buffer.nbytes


def _part(buffer: Buffer, source: From, nbytes: int, most: int | None, what: str, at: str) -> int:
    """The buffer's size, if there is a part of that size for so many items; one, where nobody knows how many."""
    count, offset = 1 if most is None else most, source.offset or 0
    wanted = offset + count * buffer.nbytes
    if wanted > nbytes or (nbytes - offset) % buffer.nbytes:
        raise BufferSize(
            f"{at}: buffer {buffer.name!r} takes a part of {buffer.nbytes} bytes for each item, {wanted} for {count}"
            f"{f' from offset {offset} on' if offset else ''}, but {what} has {nbytes}",
            buffer=buffer.name,
            expected=wanted,
            given=nbytes,
            at=at,
        )
    return buffer.nbytes


def number_dtype(spec: FlowSpec, step: FlowStep | None, value: Value, at: str) -> str:
    """The dtype of the number that the step takes; ``step`` None: a map, for its count. Raises BadRequest."""
    ways = (value.scalar is not None, value.step is not None, value.count is not None, value.item)
    if sum(ways) != 1:
        raise BadRequest("needs one of scalar, step (with output), count and item", at=at)
    if (value.step is None) != (value.output is None) or (value.step is None and value.index is not None):
        raise BadRequest("needs step and output together, or neither; index belongs to them", at=at)
    if value.scalar is not None:
        return the_scalar(spec, value.scalar, f"{at}.scalar").dtype
    if value.count is not None:
        the_map(spec, value.count, f"{at}.count")
        return COUNT_DTYPE
    own = None if step is None else step.map
    if value.step is None or value.output is None:
        if own is None:
            raise BadRequest("has no item: it is in no map", at=at)
        return COUNT_DTYPE
    before = the_step(spec, value.step, f"{at}.step")
    if before.map is not None and before.map != own:
        raise BadRequest(
            f"step {before.name!r} runs for each item of map {before.map!r}: only steps in that map can take a number "
            f"of it, that of their own item",
            at=at,
        )
    return check_element(spec.graph_of(before), Element(output=value.output, index=value.index), at)


def spelled(value: Value) -> str:
    """Where a number comes from, as errors say it."""
    if value.scalar is not None:
        return f"scalar {value.scalar!r}"
    if value.step is not None:
        return f"output {value.output!r} of step {value.step!r}"
    return "the number of the item" if value.item else f"the count of map {value.count!r}"
