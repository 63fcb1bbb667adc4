"""From what a user gives (a graph, values by name, a timeout) to what the core can send. May write to the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kaasq.errors import BadRequest, StoreUnavailable
from kaasq.graph import Graph
from kaasq.kaas import KaasRequest
from kaasq.messages import Stored
from kaasq.model import GraphSpec
from kaasq.settings import Settings
from kaasq_producers.buffers import Buffers
from kaasq_producers.inputs import LIST_EFFORT, Bound, too_large
from kaasq_producers.kaas import with_defaults
from kaasq_producers.known_graphs import GraphBook, KnownGraph

LONGEST_S = 10 * 365 * 24 * 3600.0
SHORTEST_S = 0.001  # what the message can say
QUICK_BYTES = 256 << 10  # 20 us as arrays, 300 us as lists; handing them to another thread and back costs 100 us
INPUT_TTL_S = 3600.0  # an input that went through the store outlives its request by this

AnyGraph = Graph | GraphSpec | KaasRequest


def checked_timeout(value: Any) -> float:
    """A request's timeout in seconds. Raises BadRequest for what is none."""
    if not isinstance(value, (int, float)) or not SHORTEST_S <= value <= LONGEST_S:  # refuses NaN, too
        raise BadRequest(
            f"expected a time from {SHORTEST_S:g} to {LONGEST_S:.0f} seconds (ten years), given {value!r}", at="timeout"
        )
    return value


class Prepared(NamedTuple):
    """A request, checked, with its data at hand."""

    graph: KnownGraph
    bound: Bound
    timeout_s: float


class Preparer:
    """Checks requests against their graphs, and brings what is too large for a message to the store. Thread-safe."""

    def __init__(self, settings: Settings, buffers: Buffers | None) -> None:
        self._timeout_s = settings.timeout
        self._inline_limit = settings.inline_limit
        self._buffers = buffers
        self._graphs = GraphBook(settings)

    def prepare(
        self,
        graph: AnyGraph,
        bindings: Mapping[str, Any],
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
    ) -> Prepared:
        """Raises BadRequest, BufferSize, BufferMissing, and what the store raises if it is needed."""
        timeout_s = checked_timeout(self._timeout_s if timeout is None else timeout)
        known = self._graphs.find(graph)
        groups = [bindings, *(each for each in (bind, scalars) if each)]
        if isinstance(graph, KaasRequest):
            groups, keep = with_defaults(graph, groups, keep or {})
        bound = known.binder.bind(*groups)
        if keep:
            known.binder.keep(bound, keep)
        if known.binder.given_bytes > self._inline_limit:
            for name in too_large(bound.inline, self._inline_limit):
                self._store(bound, known, name, timeout_s)
        return Prepared(known, bound, timeout_s)

    def is_quick(self, graph: AnyGraph, *groups: Mapping[str, Any]) -> bool:
        """Whether ``prepare`` would take microseconds and touch no store. Raises BadRequest if the graph is wrong."""
        binder = self._graphs.find(graph).binder
        limit = min(self._inline_limit, QUICK_BYTES)
        return binder.given_bytes * LIST_EFFORT <= limit or binder.effort(*groups) <= limit

    def _store(self, bound: Bound, known: KnownGraph, name: str, timeout_s: float) -> None:
        data = memoryview(bound.inline[name]).cast("B")
        if self._buffers is None:
            raise StoreUnavailable(
                f"input {name!r} has {data.nbytes} bytes, all inputs together may have {self._inline_limit} in a "
                f"message (inline_limit), and this client has no store to put it into",
                buffer=name,
            )
        buffer = known.spec.buffer(name)
        assert buffer is not None
        ref = self._buffers.put(data, ttl_s=timeout_s + INPUT_TTL_S, dtype=buffer.dtype, shape=buffer.shape)
        bound.stored[name] = Stored(ref=ref.ref)
        del bound.inline[name]
