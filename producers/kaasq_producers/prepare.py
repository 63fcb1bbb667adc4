"""From what a user gives (a graph, values by name, a timeout) to what the core can send. May write to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from kaasq.errors import BadRequest
from kaasq.flows.model import FlowSpec
from kaasq.graph import Graph
from kaasq.kaas import KaasRequest
from kaasq.messages import Condition, Continuation, Element, Repeat, Source, Stored
from kaasq.model import GraphSpec, Number
from kaasq.settings import Settings
from kaasq.then_checks import check_form, check_repeat, check_runs, check_then, within
from kaasq_producers.buffers import Buffers
from kaasq_producers.flows.calls import PreparedStart
from kaasq_producers.flows.known import AnyFlow
from kaasq_producers.flows.prepare import FlowPreparer
from kaasq_producers.flows.workflow import Workflow
from kaasq_producers.inputs import LIST_EFFORT, Bound, given_groups, too_large
from kaasq_producers.kaas import with_defaults
from kaasq_producers.known_graphs import GraphBook, KnownGraph
from kaasq_producers.requests import Prepared
from kaasq_producers.storing import Storing, checked_timeout
from kaasq_producers.then import Output, Then, named
from kaasq_producers.values import Data

QUICK_BYTES = 256 << 10  # 20 us as arrays, 300 us as lists; handing them to another thread and back costs 100 us

AnyGraph = Graph | GraphSpec | KaasRequest
AnyPrepared = Prepared | PreparedStart


class Preparer:
    """Checks requests against their graphs, and brings what is too large for a message to the store. Thread-safe."""

    def __init__(self, settings: Settings, buffers: Buffers | None) -> None:
        self._timeout_s = settings.timeout
        self._inline_limit = settings.inline_limit
        self._storing = Storing(buffers, settings.inline_limit)
        self.flows = FlowPreparer(settings, self._storing)
        self._limits = settings.graph_limits
        self._graphs = GraphBook(settings)

    def prepare(
        self,
        graph: AnyGraph | AnyFlow,
        bindings: Mapping[str, Any],
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Sequence[Then] = (),
    ) -> AnyPrepared:
        """Raises BadRequest, BufferSize, BufferMissing, and what the store raises if it is needed."""
        if isinstance(graph, (Workflow, FlowSpec)):
            for what, given in (("repeat", repeat), ("then", then)):
                if given:
                    raise BadRequest("a workflow has none itself; its steps may have", at=what)
            return self.flows.run(graph, bindings, timeout=timeout, bind=bind, scalars=scalars, keep=keep)
        timeout_s = checked_timeout(self._timeout_s if timeout is None else timeout)
        known = self._graphs.find(graph)
        groups = given_groups(bindings, bind, scalars)
        if isinstance(graph, KaasRequest):
            groups, keep = with_defaults(graph, groups, keep or {})
        bound = known.binder.bind(*groups)
        if keep:
            known.binder.keep(bound, keep)
        if known.binder.given_bytes > self._inline_limit:
            self._store(bound, known, self._inline_limit, timeout_s)
        if repeat is not None:
            self._check_repeat(known, repeat)
        if not then:
            return Prepared(known, bound, timeout_s, repeat)
        graphs: dict[str, KnownGraph] = {}
        share = self._inline_limit // len(named(then))  # they all come in one message
        following = self._following(then, graphs, timeout_s, share, "then")
        check_form(following, self._limits)
        check_then(known.spec, following)
        return Prepared(known, bound, timeout_s, repeat, following, tuple(graphs.values()))

    def is_quick(
        self,
        graph: AnyGraph | AnyFlow,
        bindings: Mapping[str, Any],
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        then: Sequence[Then] = (),
    ) -> bool:
        """Whether ``prepare`` would take microseconds and touch no store. Raises BadRequest if the graph is wrong, or
        nothing is given by name.
        """
        if then or isinstance(graph, (Workflow, FlowSpec)):
            return False
        binder = self._graphs.find(graph).binder
        limit = min(self._inline_limit, QUICK_BYTES)
        groups = given_groups(bindings, bind, scalars)
        return binder.given_bytes * LIST_EFFORT <= limit or binder.effort(*groups) <= limit

    def _check_repeat(self, known: KnownGraph, repeat: object) -> None:
        if not isinstance(repeat, Repeat):
            raise BadRequest(f"expected what kaasq.repeat() gives, given a {type(repeat).__name__}", at="repeat")
        check_runs(repeat, self._limits)
        check_repeat(known.spec, repeat)

    def _following(
        self, then: Sequence[Then], graphs: dict[str, KnownGraph], timeout_s: float, share: int, at: str
    ) -> tuple[Continuation, ...]:
        """What follows, as data; its graphs are added to ``graphs``. Of each, ``share`` bytes stay in the message."""
        made: list[Continuation] = []
        for index, each in enumerate(then):
            place = f"{at}[{index}]"
            with within(place):
                known = self._graphs.find(each.graph)
                groups, keep = list(each.groups), each.keep
                if isinstance(each.graph, KaasRequest):
                    groups, keep = with_defaults(each.graph, groups, keep)
                bound = known.binder.bind(*groups, takes=Output)
                known.binder.keep(bound, keep)
                own_s = None if each.timeout is None else checked_timeout(each.timeout)
                if each.repeat is not None:
                    self._check_repeat(known, each.repeat)
                if each.when is not None and not isinstance(each.when, Condition):
                    raise BadRequest(f"expected a comparison of an Output, given {each.when!r:.60}", at="when")
            self._store(bound, known, share, timeout_s)
            graphs[known.spec.hash] = known
            made.append(
                Continuation(
                    graph=known.spec,
                    name=each.name,
                    condition=each.when,
                    bind={name: _source(value) for name, value in {**bound.inline, **bound.stored}.items()},
                    scalars=cast(dict[str, Number | Element], bound.scalars),  # what was bound takes no Value
                    keep=bound.keep,
                    timeout_ms=None if own_s is None else max(1, round(own_s * 1000)),
                    pool=each.pool,
                    repeat=each.repeat,
                    then=self._following(each.then, graphs, timeout_s, share, f"{place}.then"),
                )
            )
        return tuple(made)

    def _store(self, bound: Bound, known: KnownGraph, limit: int, timeout_s: float) -> None:
        """Leave ``limit`` bytes in the message."""
        moved = too_large(bound.inline, limit)
        put = self._storing.store([(bound.inline.pop(name), known.binder.buffer(name)) for name in moved], timeout_s)
        bound.stored.update(zip(moved, put, strict=True))


def _source(value: Data | Stored) -> bytes | Source:
    match value:
        case Source():
            return value
        case Stored():
            return Source(ref=value.ref, name=value.name, offset=value.offset)
        case _:
            return bytes(value)
