"""Requests as bytes: a graph is encoded once, and sent as its hash when the workers know it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

import msgspec

from kaasq.checks import check_graph
from kaasq.continuations import by_hash
from kaasq.errors import BadRequest
from kaasq.graph import Graph
from kaasq.kaas import KaasRequest
from kaasq.messages import Binding, Continuation, Repeat, RequestOf
from kaasq.model import GraphSpec, Number
from kaasq.settings import Settings
from kaasq_producers.inputs import Binder, Bound

LESSONS = 8  # enough for a pool of 8 in one go; a larger one takes a few

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RequestOf[msgspec.Raw]).decode


class KnownGraph:
    """A graph that this client has sent before: both its encodings, and what binding to it needs."""

    __slots__ = ("binder", "by_hash", "lessons", "spec", "whole")

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec
        self.whole = msgspec.Raw(_encode(spec))
        self.by_hash = msgspec.Raw(_encode(spec.hash))
        self.binder = Binder(spec)
        self.lessons = 1
        """How many requests still carry it whole, so that the workers learn it, before the hash will do."""

    def taught(self) -> None:
        """A worker ran it after it had come whole."""
        if self.lessons:
            self.lessons -= 1

    def unknown(self) -> None:
        """A worker did not know it. There may be more of them, and they take turns: one whole graph may well go to
        the worker that knows it already, again and again.
        """
        self.lessons = LESSONS


class GraphBook:
    """The graphs in use, by hash; the oldest is forgotten when there are too many."""

    def __init__(self, settings: Settings, *, capacity: int = 1024) -> None:
        self._limits = settings.graph_limits
        self._capacity = capacity
        self._known: dict[str, KnownGraph] = {}
        self._lock = threading.Lock()  # for changes; finding a known graph needs none

    def find(self, graph: Graph | GraphSpec | KaasRequest) -> KnownGraph:
        """The graph's entry. Raises BadRequest if the graph is wrong."""
        if isinstance(graph, KaasRequest):
            graph = graph.graph
        if isinstance(graph, Graph):
            spec = graph.freeze(self._limits)
        elif isinstance(graph, GraphSpec):
            # A spec with the hash of a checked one is equal to it but for signatures, so it needs no checking again.
            known = self._known.get(graph.hash)
            if known is not None and not _signs_more(graph, known.spec):
                return known
            spec = check_graph(graph, self._limits)
        else:
            raise BadRequest(f"expected a kaasq.Graph, given a {type(graph).__name__}", at="graph")
        known = self._known.get(spec.hash)
        return self._remember(spec) if known is None or _signs_more(spec, known.spec) else known

    def _remember(self, spec: GraphSpec) -> KnownGraph:
        with self._lock:
            known = self._known.get(spec.hash)
            if known is not None and not _signs_more(spec, known.spec):
                return known
            while known is None and len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            made = self._known[spec.hash] = KnownGraph(spec)
            return made


def _signs_more(spec: GraphSpec, known: GraphSpec) -> bool:
    """Whether modules of that graph have signatures that the graph as it is known lacks: workers may want them."""
    return spec is not known and any(
        each.signature and each.signature != known.modules[name].signature for name, each in spec.modules.items()
    )


def encode(
    graph: KnownGraph,
    bound: Bound,
    timeout_ms: int,
    *,
    whole: bool,
    repeat: Repeat | None = None,
    then: tuple[Continuation, ...] = (),
    following: Sequence[KnownGraph] = (),
) -> bytes:
    """The request's body. ``following``: the graphs of what is to follow it."""
    bind = {**bound.inline, **bound.stored} if bound.stored else bound.inline
    request = RequestOf(
        graph=graph.whole if whole else graph.by_hash,
        bind=cast(dict[str, Binding], bind),  # memoryviews are encoded as bytes are, without a copy
        scalars=cast(dict[str, Number], bound.scalars),  # elements of outputs are in continuations only
        keep=bound.keep,
        timeout_ms=timeout_ms,
        repeat=repeat,
        graphs={each.spec.hash: each.whole for each in following} if whole else {},
        then=by_hash(then) if then else (),
    )
    return _encode(request)


def with_whole_graphs(body: bytes, graph: KnownGraph, following: Sequence[KnownGraph] = ()) -> bytes:
    """The same request with its graphs whole. Rare, so that decoding it again is cheaper than keeping it."""
    request = _decode(body).with_graph(graph.whole)
    return _encode(msgspec.structs.replace(request, graphs={each.spec.hash: each.whole for each in following}))
