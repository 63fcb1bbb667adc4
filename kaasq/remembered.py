"""What was decoded before: graphs by encoded bytes and by hash, workflows; bounded by what they take."""

from __future__ import annotations

from typing import NamedTuple

from kaasq.flows.model import FlowSpec
from kaasq.kaas.request import KaasRequest
from kaasq.model import GraphSpec

LAUNCH_BYTES = 256  # decoded, as measured
ARGUMENT_BYTES = 64
STEP_BYTES = 512
TAKEN_BYTES = 192  # of one input, scalar, name of a step

Encoded = tuple[bytes, ...]
Decodable = GraphSpec | KaasRequest | FlowSpec


class _Known(NamedTuple):
    """What is remembered, and who has sent it whole."""

    made: Decodable
    tenants: set[str]


class Remembered:
    """``most`` of them, and as many as take ``nbytes``, encoded and decoded. The oldest are forgotten first."""

    def __init__(self, *, most: int, nbytes: int) -> None:
        self._most = most
        self._room = nbytes
        self._by_bytes: dict[Encoded, _Known] = {}
        self._by_hash: dict[tuple[str, str], GraphSpec] = {}  # by tenant and hash

    def get(self, encoded: Encoded, tenant: str) -> Decodable | None:
        """What those bytes, which the tenant sent, are, if they were seen."""
        known = self._by_bytes.get(encoded)
        if known is None:
            return None
        self._tell(tenant, known)
        return known.made

    def graph(self, digest: str, tenant: str) -> GraphSpec | None:
        """The graph with that hash, if the tenant sent it whole."""
        return self._by_hash.get((tenant, digest))

    def forget(self, digest: str, tenant: str) -> None:
        """The tenant may not name the graph with that hash until it sends it whole again."""
        self._by_hash.pop((tenant, digest), None)

    def add(self, encoded: Encoded, made: Decodable, tenant: str) -> None:
        """Remember what the tenant sent."""
        self._room -= _weight(encoded, made)
        # Oldest first: a graph in use is sent again, and remembered.
        while self._by_bytes and (len(self._by_bytes) >= self._most or self._room < 0):
            oldest = next(iter(self._by_bytes))
            forgotten = self._by_bytes.pop(oldest)
            self._room += _weight(oldest, forgotten.made)
            self._untell(forgotten)
        known = self._by_bytes[encoded] = _Known(made, set())
        self._tell(tenant, known)

    def _tell(self, tenant: str, known: _Known) -> None:
        """From now on the tenant may name it by its hash, which means the latest that came in new bytes."""
        graph = _graph(known.made)
        if graph is None:
            return
        if tenant in known.tenants:
            self._by_hash.setdefault((tenant, graph.hash), graph)
        else:
            known.tenants.add(tenant)
            self._by_hash[tenant, graph.hash] = graph

    def _untell(self, known: _Known) -> None:
        graph = _graph(known.made)
        if graph is None:
            return
        for each in known.tenants:
            if self._by_hash.get((each, graph.hash)) is graph:  # else known by another encoding, too
                del self._by_hash[each, graph.hash]


def _graph(made: Decodable) -> GraphSpec | None:
    if isinstance(made, FlowSpec):
        return None
    return made if isinstance(made, GraphSpec) else made.graph


def _weight(encoded: Encoded, made: Decodable) -> int:
    """What it takes to remember it. A launch of 30 bytes takes ten times as many once it is decoded."""
    graph = _graph(made)
    decoded = _graph_weight(graph) if graph is not None else _flow_weight(made) if isinstance(made, FlowSpec) else 0
    return sum(map(len, encoded)) + decoded


def _graph_weight(graph: GraphSpec) -> int:
    arguments = sum([len(each.args) for each in graph.launches])
    return LAUNCH_BYTES * len(graph.launches) + ARGUMENT_BYTES * arguments


def _flow_weight(flow: FlowSpec) -> int:
    """Its graphs count once more: they may be forgotten by themselves, and live on in it."""
    taken = len(flow.inputs) + len(flow.scalars) + len(flow.outputs) + len(flow.maps)
    taken += sum([len(each.bind) + len(each.scalars) + len(each.keep) + len(each.after) for each in flow.steps])
    return STEP_BYTES * len(flow.steps) + TAKEN_BYTES * taken + sum(map(_graph_weight, flow.graphs.values()))
