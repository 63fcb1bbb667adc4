"""Checks a workflow, and what is bound to it at the start, before anything runs. Pure."""

from __future__ import annotations

import re

import msgspec

from kaasq.bindings import check_bindings, check_cast
from kaasq.checks import GraphLimits, check_buffer, check_scalar
from kaasq.dtypes import shown
from kaasq.errors import BadRequest
from kaasq.flows.edges import dependencies, place, values
from kaasq.flows.known import the_graph, the_input, the_map, the_step
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, MapSpec, Value
from kaasq.flows.sources import Items, bound_size, most_items, number_dtype, spelled
from kaasq.model import Buffer, GraphSpec, Number
from kaasq.names import check_printable, is_graph_name
from kaasq.then_checks import called_when, check_at, check_repeat, check_runs, output_of, within

STEP_NAME = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", re.ASCII)
STEP_NAME_LENGTH = 128
ITEM = "{item}"
PLACEHOLDER = re.compile(r"\{[^{}]*\}")


def check_flow(spec: FlowSpec, limits: GraphLimits) -> FlowSpec:
    """The workflow in its normal form: its graphs in theirs, under the same keys, and all inputs with their sizes.

    Raises BadRequest, BufferMissing, BufferSize, each naming the place: ``steps[3] (blur).bind.x``.
    """
    graphs: dict[str, GraphSpec] = {}
    check_counts(spec, limits)
    for key, graph in spec.graphs.items():
        graphs[key] = check_at(graph, limits, f"workflow.graphs.{key[:64]}")
    return check_steps(msgspec.structs.replace(spec, graphs=graphs), limits)


def check_steps(spec: FlowSpec, limits: GraphLimits) -> FlowSpec:
    """The same for a workflow whose graphs are in their normal form already."""
    check_counts(spec, limits)
    if len(spec.name) > limits.name_length or not is_graph_name(spec.name):
        raise BadRequest(
            f"{spec.name[:64]!r} is no name of a workflow: use letters, digits, '_', '-', with dots between words, at "
            f"most {limits.name_length} characters",
            at="workflow.name",
        )
    spec = msgspec.structs.replace(
        spec,
        inputs=tuple(_input(each, f"workflow.inputs[{i}]", limits) for i, each in enumerate(spec.inputs)),
        scalars=tuple(check_scalar(each, f"workflow.scalars[{i}]") for i, each in enumerate(spec.scalars)),
    )
    _check_names(spec)
    for number, step in enumerate(spec.steps):
        the_graph(spec, step.graph, f"{place(spec, number)}.graph")
        if step.map is not None:
            the_map(spec, step.map, f"{place(spec, number)}.map")
    for name, each in spec.maps.items():
        _check_map(spec, each, limits, f"workflow.maps.{name[:64]}")
    items = most_items(spec)
    kept: dict[str, str] = {}
    for number, step in enumerate(spec.steps):
        at = place(spec, number)
        with within(at):
            _check_step(spec, items, step, limits)
        for output, name in step.keep.items():
            there = kept.setdefault(name, f"{at}.keep.{output}")
            if there != f"{at}.keep.{output}":
                raise BadRequest(f"{there} is kept under the name {name!r}, too", at=f"{at}.keep.{output}")
    for name, source in spec.outputs.items():
        _check_output(spec, source, f"workflow.outputs.{name[:64]}")
    _check_waiting(spec)
    _check_use(spec)
    return spec


def check_counts(spec: FlowSpec, limits: GraphLimits) -> None:
    """Whether there is not too much of anything, whatever it is. Raises BadRequest."""
    counted = (
        ("steps", len(spec.steps), limits.steps),
        ("inputs", len(spec.inputs), limits.buffers),
        ("scalars", len(spec.scalars), limits.scalars),
        ("outputs", len(spec.outputs), limits.buffers),
        ("graphs", len(spec.graphs), limits.steps),
        ("maps", len(spec.maps), limits.steps),
    )
    for what, given, most in counted:
        if given > most:
            raise BadRequest(f"{given} {what}; the limit is {most}", at=f"workflow.{what}")
    if not spec.steps:
        raise BadRequest("a workflow needs at least one step", at="workflow.steps")


def _input(given: FlowInput, at: str, limits: GraphLimits) -> FlowInput:
    buffer = Buffer(name=given.name, role="input", nbytes=given.nbytes, dtype=given.dtype, shape=given.shape)
    whole = check_buffer(buffer, at, limits)
    return msgspec.structs.replace(given, nbytes=whole.nbytes, dtype=whole.dtype)


def _check_names(spec: FlowSpec) -> None:
    """Whether names are names, and each means one thing."""
    taken: set[str] = set()
    declared = [
        *((f"workflow.inputs[{i}].name", each.name) for i, each in enumerate(spec.inputs)),
        *((f"workflow.scalars[{i}].name", each.name) for i, each in enumerate(spec.scalars)),
        *((f"workflow.outputs.{name[:64]}", name) for name in spec.outputs),
    ]
    for at, name in declared:
        check_printable(name, at)
        if name in taken:
            raise BadRequest(f"{name!r} is declared twice (inputs, scalars and outputs share one namespace)", at=at)
        taken.add(name)
    for key in spec.graphs:
        check_printable(key, "workflow.graphs")
    for name in spec.maps:
        check_printable(name, "workflow.maps")
    steps: dict[str, int] = {}
    for number, step in enumerate(spec.steps):
        at = f"steps[{number}].name"
        check_step_name(step.name, at)
        if step.name in steps:
            raise BadRequest(f"{step.name!r} is the name of steps[{steps[step.name]}] already", at=at)
        steps[step.name] = number


def check_step_name(name: str, at: str) -> None:
    """Raises BadRequest for what is no name of a step."""
    if len(name) > STEP_NAME_LENGTH or not STEP_NAME.fullmatch(name):
        raise BadRequest(
            f"{name[:64]!r} is no name of a step: use letters, digits, '_', '-' and '.', with '/' between words, at "
            f"most {STEP_NAME_LENGTH} characters",
            at=at,
        )


def _check_map(spec: FlowSpec, each: MapSpec, limits: GraphLimits, at: str) -> None:
    if (each.input is None) == (each.count is None):
        raise BadRequest("needs one of input, which is a list, and count", at=at)
    if each.most is not None and not 1 <= each.most <= limits.items:
        raise BadRequest(f"must be from 1 to {limits.items}, is {shown(each.most)}", at=f"{at}.most")
    if each.input is not None and not the_input(spec, each.input, f"{at}.input").many:
        raise BadRequest(f"input {each.input!r} is no list: it is not declared with `many`", at=f"{at}.input")
    if isinstance(each.count, Value):
        dtype = number_dtype(spec, None, each.count, f"{at}.count")
        check_cast(dtype, "int64", spelled(each.count), f"{at}.count")
    elif each.count is not None:
        most = limits.items if each.most is None else each.most
        if each.count > most:
            raise BadRequest(f"{shown(each.count)} items; the limit is {most}", at=f"{at}.count")


def check_step(spec: FlowSpec, step: FlowStep, limits: GraphLimits) -> None:
    """One step of a workflow by itself, whose inputs, scalars and graphs are in their normal form.

    Raises BadRequest, BufferMissing, BufferSize, with places in the step: ``bind.x``.
    """
    _check_step(spec, most_items(spec), step, limits)


def _check_step(spec: FlowSpec, items: Items, step: FlowStep, limits: GraphLimits) -> None:
    graph = spec.graph_of(step)
    sizes = {
        name: bound_size(spec, items, step, name, bound, f"bind.{name}") if isinstance(bound, From) else len(bound)
        for name, bound in step.bind.items()
    }
    check_bindings(graph, sizes, _numbers(spec, step, graph), step.keep)
    _check_keep(step)
    for i, name in enumerate(step.after):
        the_step(spec, name, f"after[{i}]")
    if step.condition is not None:
        with called_when():
            number_dtype(spec, step, step.condition, "if")
    if step.retries > limits.retries:
        raise BadRequest(f"{step.retries} retries; the limit is {limits.retries}", at="retries")
    if step.repeat is not None:
        check_runs(step.repeat, limits)
        check_repeat(graph, step.repeat)


def _numbers(spec: FlowSpec, step: FlowStep, graph: GraphSpec) -> dict[str, Number]:
    """The step's scalars, with 0 for those that are not known yet."""
    declared = {each.name: each.dtype for each in graph.scalars}
    numbers: dict[str, Number] = {}
    for name, given in step.scalars.items():
        if isinstance(given, Value):
            dtype = number_dtype(spec, step, given, f"scalars.{name}")
            if name in declared:
                check_cast(dtype, declared[name], spelled(given), f"scalars.{name}")
            numbers[name] = 0
        else:
            numbers[name] = given
    return numbers


def _check_keep(step: FlowStep) -> None:
    mapped = step.map is not None
    for output, name in step.keep.items():
        check_placeholders(name, f"keep.{output}", mapped=mapped)
        if mapped and ITEM not in name:
            raise BadRequest(
                f"{name[:64]!r} is one name for all items: each has its own with {ITEM!r}", at=f"keep.{output}"
            )


def check_placeholders(name: str, at: str, *, mapped: bool) -> None:
    """Whether everything in braces in a name stands for something. Raises BadRequest."""
    for placeholder in PLACEHOLDER.findall(name):
        if placeholder != ITEM or not mapped:
            raise BadRequest(f"{placeholder[:64]!r} in a name stands for nothing; {ITEM!r} does, in a map", at=at)


def _check_output(spec: FlowSpec, source: From, at: str) -> None:
    if source.step is None or source.output is None or source != From(step=source.step, output=source.output):
        raise BadRequest("a workflow gives outputs of steps: needs step and output, and nothing else", at=at)
    output_of(spec.graph_of(the_step(spec, source.step, f"{at}.step")), source.output, f"{at}.output")


def _check_waiting(spec: FlowSpec) -> None:
    """Whether all steps come to run: none waits for itself, and none for a failure of nothing."""
    edges = dependencies(spec)
    for number, step in enumerate(spec.steps):
        if step.on == "failed" and not edges.before[number] and not edges.own[number]:
            raise BadRequest(
                "it is to run when something before it fails, but it waits for nothing: say what with `after`",
                at=f"{place(spec, number)}.on",
            )


def _check_use(spec: FlowSpec) -> None:
    sources = [each for step in spec.steps for each in step.bind.values() if isinstance(each, From)]
    taken = [each for step in spec.steps for each in values(step)]
    taken += [each.count for each in spec.maps.values() if isinstance(each.count, Value)]
    inputs = {each.input for each in sources} | {each.input for each in spec.maps.values()}
    for what, names, used, mistake in (
        ("graph", spec.graphs, {each.graph for each in spec.steps}, "no step runs it"),
        ("map", spec.maps, {each.map for each in spec.steps}, "no step is in it"),
        ("input", [each.name for each in spec.inputs], inputs, "no step takes it"),
        ("scalar", [each.name for each in spec.scalars], {each.scalar for each in taken}, "no step takes it"),
    ):
        for name in names:
            if name not in used:
                raise BadRequest(f"{what} {name[:64]!r} is never used: {mistake}", at=f"workflow.{what}s")
