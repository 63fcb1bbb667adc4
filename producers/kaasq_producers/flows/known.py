"""Workflows that a client has started before: checked, encoded, and what binding to them needs."""

from __future__ import annotations

import threading

import msgspec

from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest
from kaasq.flows.checks import check_flow
from kaasq.flows.model import FlowSpec
from kaasq.model import Buffer
from kaasq_producers.flows.signature import buffer_of, signature
from kaasq_producers.flows.workflow import Workflow
from kaasq_producers.inputs import Binder

AnyFlow = Workflow | FlowSpec

_encode = msgspec.msgpack.Encoder().encode

LARGEST = 3  # steps to be named when there is no room for all


class KnownFlow:
    """A workflow in its normal form."""

    def __init__(self, spec: FlowSpec) -> None:
        self.spec = spec
        self.encoded = msgspec.Raw(_encode(spec))
        self.binder = Binder(signature(spec), "workflow")
        self.lists = {each.name: each for each in spec.inputs if each.many}

    def item(self, name: str, index: int) -> Buffer:
        """An item of a list as a buffer, which is called by its place."""
        return buffer_of(self.lists[name], f"{name}[{index}]")

    def largest(self) -> str:
        """Its largest steps, each with its graph, for a person."""
        graphs = {key: len(_encode(each)) for key, each in self.spec.graphs.items()}
        sizes = {each.name: len(_encode(each)) + graphs[each.graph] for each in self.spec.steps}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:LARGEST]
        return ", ".join(f"{name!r} ({sizes[name]})" for name in largest)


class FlowBook:
    """The workflows in use; the oldest is forgotten when there are too many. Thread-safe."""

    def __init__(self, limits: GraphLimits, *, capacity: int = 64) -> None:
        self._limits = limits
        self._capacity = capacity
        self._known: dict[int, tuple[FlowSpec, KnownFlow]] = {}  # by the spec's identity: it is kept, so that holds
        self._lock = threading.Lock()

    def find(self, flow: object) -> KnownFlow:
        """The workflow's entry. Raises what its mistakes are."""
        spec = flow.spec if isinstance(flow, Workflow) else flow
        if not isinstance(spec, FlowSpec):
            raise BadRequest(f"expected a kaasq.Workflow, given a {type(flow).__name__}", at="workflow")
        entry = self._known.get(id(spec))
        if entry is not None:
            return entry[1]
        known = KnownFlow(check_flow(spec, self._limits))
        with self._lock:
            while len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            self._known[id(spec)] = (spec, known)
        return known
