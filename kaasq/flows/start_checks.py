"""Checks what is bound to a workflow when it starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kaasq.checks import GraphLimits
from kaasq.dtypes import pack_number
from kaasq.errors import BadRequest, BufferMissing, BufferSize
from kaasq.flows.checks import check_placeholders
from kaasq.flows.edges import items_together, place, sized_by
from kaasq.flows.known import the_input, the_scalar, unknown
from kaasq.flows.model import FlowInput, FlowSpec, FlowStart, FlowStep, From, Value
from kaasq.flows.sources import Items, bound_size, check_stored
from kaasq.ids import split_id
from kaasq.messages import Binding, Stored
from kaasq.model import Number
from kaasq.names import REQUEST_ID_BYTES, check_name, check_request_id

LONGEST_NUMBER = 9  # digits, in the id of a step


def check_start(start: FlowStart, spec: FlowSpec, limits: GraphLimits) -> None:
    """Whether what a start binds fits its workflow, which is checked already (``spec``).

    What lies in the store, and what steps give, is for the run. Raises BadRequest, BufferMissing, BufferSize.
    """
    for name, bound in start.bind.items():
        given = the_input(spec, name, f"bind.{name[:64]}")
        if isinstance(bound, tuple):
            if not given.many:
                raise BadRequest(f"input {name!r} is one, not a list: `many` would make it one", at=f"bind.{name}")
            for index, each in enumerate(bound):
                _check_bound(given, each, f"bind.{name}[{index}]")
        elif given.many:
            raise BadRequest(f"input {name!r} is a list: give one, of one too", at=f"bind.{name}")
        else:
            _check_bound(given, bound, f"bind.{name}")
    for given in spec.inputs:
        if given.name not in start.bind:
            raise BufferMissing(f"nothing is bound to input {given.name!r}", buffer=given.name)
    for name, number in start.scalars.items():
        pack_number(the_scalar(spec, name, f"scalars.{name[:64]}").dtype, number, f"scalars.{name}")
    for scalar in spec.scalars:
        if scalar.default is None and scalar.name not in start.scalars:
            raise BadRequest(f"scalar {scalar.name!r} has no default and was not given", at=f"scalars.{scalar.name}")
    _check_keep(start, spec)
    _check_items(start, spec, limits)


def items_at_start(start: FlowStart, spec: FlowSpec) -> dict[str, int | None]:
    """How many items each map has; None where the output of a step will tell."""
    found: dict[str, int | None] = {}
    for name, root in sized_by(spec).items():
        sized = spec.maps[root]
        if sized.input is not None:
            bound = start.bind[sized.input]
            found[name] = len(bound) if isinstance(bound, tuple) else None
        elif isinstance(sized.count, Value):
            found[name] = None if sized.count.scalar is None else int(_number(start, spec, sized.count.scalar))
        else:
            found[name] = sized.count
    return found


def _check_bound(given: FlowInput, bound: Binding, at: str) -> None:
    if isinstance(bound, Stored):
        check_stored(bound, at)
    elif len(bound) != given.nbytes:
        raise BufferSize(
            f"{at}: input {given.name!r} is declared with {given.nbytes} bytes, but {len(bound)} bytes were given",
            buffer=given.name,
            expected=given.nbytes,
            given=len(bound),
            at=at,
        )


def _number(start: FlowStart, spec: FlowSpec, name: str) -> Number:
    scalar = spec.scalar(name)
    number = start.scalars.get(name, None if scalar is None else scalar.default)
    return 0 if number is None else number


def _check_keep(start: FlowStart, spec: FlowSpec) -> None:
    taken = {name: f"{place(spec, i)}.keep" for i, step in enumerate(spec.steps) for name in step.keep.values()}
    for output, name in start.keep.items():
        at = f"keep.{output[:64]}"
        if output not in spec.outputs:
            raise unknown("output", output, spec.outputs, at)
        check_placeholders(name, at, mapped=False)
        check_name(name, at)
        if name in taken:
            raise BadRequest(f"{taken[name]} has the name {name!r}, too", at=at)
        taken[name] = at


def _check_items(start: FlowStart, spec: FlowSpec, limits: GraphLimits) -> None:
    """Whether maps have as many items as they may, and all that steps take for each."""
    lists = {name: len(bound) for name, bound in start.bind.items() if isinstance(bound, tuple)}
    listed = sum(lists.values())
    if listed > limits.listed:
        raise BadRequest(f"{listed} items in lists; the limit is {limits.listed}", at="bind")
    items = Items(items_at_start(start, spec), lists)
    for name, count in items.maps.items():
        each = spec.maps[name]
        most = limits.items if each.most is None else min(each.most, limits.items)
        if count is not None and not 0 <= count <= most:
            raise BadRequest(f"map {name!r} would have {count} items; the limit is {most}", at=_counted(spec, name))
    check_together(spec, items.maps, limits.items_together)
    for number, step in enumerate(spec.steps):
        for name, source in step.bind.items():
            if isinstance(source, From):
                at = f"{place(spec, number)}.bind.{name}"
                bound_size(spec, items, step, name, source, at)
                _check_length(items, step, source, at)


def check_together(spec: FlowSpec, counts: Mapping[str, int | None], most: int) -> None:
    """Whether not too much would run. Raises BadRequest, which names the step that has most of it."""
    together = items_together(spec, counts)
    if together > most:
        largest = max(range(len(spec.steps)), key=lambda number: counts.get(spec.steps[number].map or "") or 1)
        raise BadRequest(
            f"all steps together would run {together} times, this one {counts.get(spec.steps[largest].map or '') or 1} "
            f"times; the limit is {most} (graph_limits.items_together)",
            at=place(spec, largest),
        )


def check_flow_id(flow_id: str, at: str) -> None:
    """Whether that can be the id of a workflow, and those that follow from it those of its steps. Raises BadRequest."""
    if split_id(flow_id) != (flow_id, 0):
        raise BadRequest(f"{flow_id[:64]!r} is the id of a step: that of a workflow does not end in +number", at=at)
    given, most = len(check_request_id(flow_id)), REQUEST_ID_BYTES - LONGEST_NUMBER - 1
    if given > most:
        raise BadRequest(
            f"the id of a workflow has at most {most} bytes, for those of its steps are longer; this one has {given}",
            at=at,
        )


def _check_length(items: Items, step: FlowStep, source: From, at: str) -> None:
    """Whether a list of which each item takes its own has one for each."""
    if source.each and source.input is not None and step.map is not None:
        given, count = items.lists.get(source.input), items.maps[step.map]
        if given is not None and count is not None and given != count:
            raise BadRequest(
                f"map {step.map!r} has {count} items, but {given} are bound to input {source.input!r}", at=at
            )


def _counted(spec: FlowSpec, name: str) -> str:
    """What of a start it depends on how many items that map has."""
    sized = spec.maps[sized_by(spec)[name]]
    if sized.input is not None:
        return f"bind.{sized.input}"
    scalar = sized.count.scalar if isinstance(sized.count, Value) else None
    return f"workflow.maps.{name}" if scalar is None else f"scalars.{scalar}"
