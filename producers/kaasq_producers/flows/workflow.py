"""Builds a workflow from Python: declare what it takes, add steps that are graphs, hand it to a client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from kaasq import codec
from kaasq.checks import GraphLimits, check_graph
from kaasq.errors import BadRequest, BufferMissing
from kaasq.flows.checks import check_flow, check_step, check_step_name
from kaasq.flows.finite import check_finite_flow
from kaasq.flows.known import unknown
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, On, StepCondition, Value
from kaasq.graph import Graph, Shape, declared_buffer, declared_scalar
from kaasq.kaas import KaasRequest
from kaasq.messages import Repeat, Stored
from kaasq.model import GraphSpec, Number
from kaasq.names import check_printable, is_graph_name
from kaasq.then_checks import within
from kaasq_producers.flows.draft import Draft
from kaasq_producers.flows.given import Given
from kaasq_producers.flows.inlining import Around, Inlining, scalars_inside
from kaasq_producers.flows.items import Groups, items_of, map_for, refuse_items
from kaasq_producers.flows.options import After, Options
from kaasq_producers.flows.placed import PlacedStep, check_own, check_values
from kaasq_producers.flows.signature import signature
from kaasq_producers.inputs import Binder, given_groups
from kaasq_producers.kaas import with_defaults
from kaasq_producers.values import Data


class Workflow:
    """A workflow under construction.

    >>> flow = Workflow("tiles")
    >>> tiles = flow.inputs("tiles", shape=(64, 64), dtype="float32")
    >>> blur = flow.map("blur", blur_graph, x=tiles.each)
    >>> total = flow.step("join", join_graph, parts=blur["out"], n=blur.count)
    >>> flow.output("total", total["sum"])

    Data bound to a step in place (arrays, numbers) becomes a part of the workflow. ``limits``: what a graph and a
    workflow may have, if other than the defaults. The name becomes part of the routing key of the workflow's events.
    Every mistake is a BadRequest, BufferMissing or BufferSize raised by the call that makes it, naming the step.
    """

    def __init__(self, name: str, *, limits: GraphLimits | None = None) -> None:
        self.limits = limits or GraphLimits()
        if len(name) > self.limits.name_length or not is_graph_name(name):
            raise BadRequest(
                f"{name[:64]!r} is no name of a workflow: use letters, digits, '_', '-', with dots between words, at "
                f"most {self.limits.name_length} characters",
                at="workflow.name",
            )
        self._draft = Draft(name)
        self._binders: dict[str, Binder] = {}
        self._checked: FlowSpec | None = None

    @classmethod
    def from_spec(cls, spec: FlowSpec, *, limits: GraphLimits | None = None) -> Workflow:
        """A workflow that is data, to be run or built on. Raises what its mistakes are."""
        limits = limits or GraphLimits()
        checked = check_flow(spec, limits)
        flow = cls(checked.name, limits=limits)
        flow._draft = Draft.of(checked)
        flow._checked = checked
        return flow

    @classmethod
    def from_json(cls, file: str | Path, *, limits: GraphLimits | None = None) -> Workflow:
        """A workflow from a JSON or MessagePack file. Raises what its mistakes are, and OSError."""
        return cls.from_spec(codec.decode(Path(file).read_bytes(), None, FlowSpec), limits=limits)

    @property
    def name(self) -> str:
        """What it is called."""
        return self._draft.name

    @property
    def item(self) -> Given:
        """The number of the own item, from 0: for a scalar or a condition of a step in a map."""
        return Given(self, "the item's number", None, Value(item=True))

    @property
    def spec(self) -> FlowSpec:
        """The workflow as checked, immutable data. Raises what its mistakes are."""
        if self._checked is None:
            self._checked = check_flow(self._draft.complete(), self.limits)
        return self._checked

    def __getitem__(self, name: str) -> PlacedStep:
        """The step of that name; of a workflow inside, its steps are called ``name/step``."""
        step = self._draft.steps.get(name)
        if step is None:
            raise unknown("step", name, self._draft.steps, "step")
        return self._placed(step, self._draft.graphs[step.graph])

    def input(self, name: str, *, shape: Shape | None = None, dtype: Any = None, nbytes: int | None = None) -> Given:
        """Declare data that is bound when the workflow starts."""
        return self._input(name, shape, dtype, nbytes, many=False)

    def inputs(self, name: str, *, shape: Shape | None = None, dtype: Any = None, nbytes: int | None = None) -> Given:
        """Declare a list of such, as long as it is when the workflow starts: ``.each`` is for a map's items."""
        return self._input(name, shape, dtype, nbytes, many=True)

    def scalar(self, name: str, dtype: Any, default: Number | None = None) -> Given:
        """Declare a number that is given when the workflow starts; without a default it must be."""
        at = f"workflow.scalars[{len(self._draft.scalars)}]"
        self._new(name, at)
        self._draft.scalars[name] = declared_scalar(name, dtype, default, at)
        return Given(self, f"scalar {name!r}", None, Value(scalar=name))

    def step(
        self,
        name: str,
        graph: Graph | GraphSpec | KaasRequest | Workflow | FlowSpec,
        /,
        *,
        on: On = "completed",
        after: After = (),
        when: StepCondition | None = None,
        tolerate: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        repeat: Repeat | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> PlacedStep:
        """Add a graph to be run once everything that it takes is there, and the steps ``after`` have ended.

        ``bindings`` are what ``Client.run`` takes, and what the workflow has: inputs, scalars, outputs of steps.
        ``when``: a condition, ``step["n"] > 3``; where it does not hold, neither the step nor what takes of it runs.
        ``on``: it runs if all that it waits for has completed; if some of that has ``failed``, which makes it one that
        mends; ``always``. ``tolerate``: what failed leaves zeros, and it runs all the same. ``retries``: so often it is
        run again where it fails; ``timeout``: seconds from when it is due. ``keep``: outputs to keep in the store.

        A workflow in place of a graph is inlined: its steps are called ``name/step`` here. Its scalars that are given
        as numbers, or not at all, are scalars ``name/scalar`` here. ``on``, ``after`` and ``when`` are for its first
        steps.
        """
        options: dict[str, Any] = {"on": on, "after": after, "when": when, "tolerate": tolerate}
        options |= {"retries": retries, "timeout": timeout, "repeat": repeat}
        groups = given_groups(bindings, bind, scalars)
        with self._adding(name):
            checked = Options.of(self, **options)
            check_values(self, groups)
            refuse_items(self._draft, groups, {each.name for each in _signature(self._spec_of(graph)).scalars})
            return self._add(name, graph, groups, keep or {}, checked, None)

    def map(
        self,
        name: str,
        graph: Graph | GraphSpec | KaasRequest | Workflow | FlowSpec,
        /,
        *,
        over: Given | PlacedStep | None = None,
        count: int | Given | None = None,
        most: int | None = None,
        on: On = "completed",
        after: After = (),
        when: StepCondition | None = None,
        tolerate: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        repeat: Repeat | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> PlacedStep:
        """Add a graph to be run once for each item; the rest is as for ``step``.

        Its items are those of which it takes its own, ``.each``: of a list of inputs, or of a step in a map, which is
        in the same map then: an item of it waits for that item only. Or those of a list or step that it is ``over``; or
        ``count`` of them, a number or an output of a step. ``most``: with more, the workflow fails. Names of kept
        outputs have ``{item}`` in them, for the item's number.
        """
        options: dict[str, Any] = {"on": on, "after": after, "when": when, "tolerate": tolerate}
        options |= {"retries": retries, "timeout": timeout, "repeat": repeat}
        groups = given_groups(bindings, bind, scalars)
        with self._adding(name):
            checked = Options.of(self, **options)
            check_values(self, groups)
            for key, value in {"over": over, "count": count}.items():
                check_own(self, value, key)
            numbers = {each.name for each in _signature(self._spec_of(graph)).scalars}
            own = map_for(self._draft, name, groups, numbers, over=over, count=count, most=most)
            return self._add(name, graph, groups, keep or {}, checked, own)

    def output(self, name: str, given: Given) -> None:
        """Declare an output: one of a step, all items' in the case of a map.

        Without any, a workflow gives the outputs of its steps that nothing takes, as ``"step.output"``.
        """
        at = f"workflow.outputs.{name:.80}"
        check_printable(name, at)
        wrong: object = given
        if not isinstance(wrong, Given):
            raise BadRequest(f"expected an output of a step, step['out'], given {given!r:.80}", at=at)
        check_own(self, given, at)
        self._new(name, at)
        self._draft.outputs[name] = given.source(at)

    def to_json(self) -> bytes:
        """The workflow as JSON, to be run by ``kaasq flow run`` or started by any program.

        Raises BadRequest for what JSON cannot say: an infinite number, or one that is none.
        """
        spec = self.spec
        check_finite_flow(spec)
        return msgspec.json.format(msgspec.json.encode(spec))

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}: {len(self._draft.steps)} steps, {len(self._draft.maps)} maps>"

    def _input(self, name: str, shape: Shape | None, dtype: Any, nbytes: int | None, *, many: bool) -> Given:
        at = f"workflow.inputs[{len(self._draft.inputs)}]"
        self._new(name, at)
        buffer = declared_buffer(name, "input", shape, dtype, nbytes, at)
        self._draft.inputs[name] = FlowInput(
            name=name, nbytes=buffer.nbytes, dtype=buffer.dtype, shape=buffer.shape, many=many
        )
        return Given(self, f"{'list' if many else 'input'} {name!r}", From(input=name))

    def _new(self, name: str, at: str) -> None:
        """A name of an input, scalar or output."""
        draft = self._draft
        if name in draft.inputs or name in draft.scalars or name in draft.outputs:
            raise BadRequest(f"{name!r} is declared twice (inputs, scalars and outputs share one namespace)", at=at)
        self._checked = None

    @contextmanager
    def _adding(self, name: str) -> Iterator[None]:
        """Errors name the step, and leave the workflow as it was."""
        draft = self._draft.copy()
        with within(f"steps[{len(draft.steps)}] ({name})"):
            check_step_name(name, "name")
            if name in draft.steps:
                raise BadRequest("the workflow has a step of that name already", at="name")
            try:
                yield
            except BaseException:
                self._draft = draft
                raise
        self._checked = None

    def _spec_of(self, graph: object) -> GraphSpec | FlowSpec:
        match graph:
            case Workflow():
                return graph.spec
            case FlowSpec():
                return check_flow(graph, self.limits)
            case Graph():
                return graph.freeze(self.limits)
            case GraphSpec():
                return check_graph(graph, self.limits)
            case KaasRequest():
                return graph.graph
        raise BadRequest(f"expected a kaasq.Graph or a kaasq.Workflow, given a {type(graph).__name__}", at="graph")

    def _add(
        self, name: str, graph: object, groups: Groups, keep: Mapping[str, str], options: Options, own: str | None
    ) -> PlacedStep:
        spec = self._spec_of(graph)
        if isinstance(spec, FlowSpec):
            return self._inline(name, spec, groups, keep, options, own)
        if isinstance(graph, KaasRequest):
            groups, keep = with_defaults(graph, groups, keep)
        binder = self._binders.setdefault(spec.hash, Binder(spec))
        bound = binder.bind(*groups, takes=Given)
        binder.keep(bound, keep)
        step = FlowStep(
            name=name,
            graph=self._draft.graph_key(spec),
            map=own,
            bind={key: _bound(value) for key, value in {**bound.inline, **bound.stored}.items()},
            scalars=cast(dict[str, Number | Value], bound.scalars),
            keep=bound.keep,
            on=options.on,
            after=options.after,
            condition=options.condition,
            tolerate=options.tolerate,
            retries=options.retries,
            timeout_ms=options.timeout_ms,
            repeat=options.repeat,
        )
        self._draft.steps[name] = step
        check_step(self._draft.spec(), step, self.limits)
        return self._placed(step, spec)

    def _placed(self, step: FlowStep, graph: GraphSpec) -> PlacedStep:
        outputs = {each.name: From(step=step.name, output=each.name) for each in graph.buffers if each.returned}
        return PlacedStep(self, step.name, outputs, steps=(step.name,), in_map=step.map)

    def _inline(
        self, name: str, spec: FlowSpec, groups: Groups, keep: Mapping[str, str], options: Options, own: str | None
    ) -> PlacedStep:
        options.refuse_for_workflow()
        draft = self._draft
        many = {each.name for each in spec.inputs if each.many}
        given = {key: value for group in groups for key, value in group.items() if key in many}
        for each in many - given.keys():
            raise BufferMissing(f"nothing is bound to list {each!r}", buffer=each)
        rest = [{key: value for key, value in group.items() if key not in many} for group in groups]
        bound = Binder(signature(spec), "workflow").bind(*rest, takes=Given)
        keep = {**bound.keep, **keep}
        for each in keep.keys() - spec.outputs.keys():
            raise unknown("output", each, spec.outputs, f"keep.{each}")
        lists = {each: items_of(draft, given[each], each) for each in many}
        bind = {key: _bound(value) for key, value in {**bound.inline, **bound.stored}.items()}
        bind |= {key: value.source(f"bind.{key}") for key, value in given.items()}
        added, numbers = scalars_inside(spec, name, bound.scalars)
        graphs = {key: draft.graph_key(each) for key, each in spec.graphs.items()}
        around = Around(name, bind, numbers, graphs, lists, keep, own)
        inner = Inlining(spec, around, options)
        draft.scalars.update((each.name, each) for each in added)
        draft.maps |= inner.maps()
        steps = inner.steps()
        for step in steps:
            if step.name in draft.steps:
                raise BadRequest(f"the workflow has a step {step.name!r} already", at="name")
            draft.steps[step.name] = step
        return PlacedStep(self, name, inner.outputs(), steps=tuple(each.name for each in steps), in_map=own)


def _signature(spec: GraphSpec | FlowSpec) -> GraphSpec:
    return signature(spec) if isinstance(spec, FlowSpec) else spec


def _bound(value: Data | Stored) -> bytes | From:
    match value:
        case From():
            return value
        case Stored():
            return From(ref=value.ref, name=value.name, offset=value.offset)
        case _:
            return bytes(value)
