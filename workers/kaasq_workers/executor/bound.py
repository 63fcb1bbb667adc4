"""A plan bound to a slot: its steps' arguments, where a request's addresses and scalars go, and a recording.

Each slot has its own, since what is queued on one still reads its arguments while another is prepared. Addresses repeat
from request to request, so as a rule there is nothing to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kaasq.dtypes import pack_number
from kaasq.model import GraphSpec, Number
from kaasq_workers.devices.protocol import Memory, Stream
from kaasq_workers.executor.launching import Check, Launches
from kaasq_workers.executor.layout import Layout
from kaasq_workers.executor.steps import Step


class Place(NamedTuple):
    """Where a buffer or scalar goes: an argument of a step."""

    step: int
    position: int


class BoundPlan:
    """One plan on one slot."""

    def __init__(
        self,
        graph: GraphSpec,
        steps: Sequence[Step],
        addresses: Mapping[str, Sequence[Place]],
        scalars: Mapping[str, Sequence[Place]],
    ) -> None:
        """``addresses`` and ``scalars``: where each buffer and scalar goes, by name."""
        self._graph = graph
        self._steps = [each.copy() for each in steps]
        self._addresses = addresses
        self._scalars = scalars
        self._launches = Launches(self._steps, graph.iterations)
        self._bound: dict[str, Memory] = {}
        self._numbers: dict[str, bytes] = {}
        self._changed: set[int] = set()  # steps whose arguments changed since they were queued last
        self._layout: Layout | None = None
        self._whole: Memory | None = None
        self._parts: dict[str, Memory] = {}

    @property
    def weight(self) -> int:
        """What it costs to keep, in launches."""
        return self._launches.weight

    def parts(self, layout: Layout, whole: Memory) -> dict[str, Memory]:
        """The buffers that lie in the slot's memory, by name."""
        if layout is not self._layout or whole is not self._whole:
            self._parts = {name: whole.part(*extent) for name, extent in layout.places.items()}
            self._layout, self._whole = layout, whole
        return self._parts

    def bind(self, memory: Mapping[str, Memory], scalars: Mapping[str, Number]) -> None:
        """Write this request's addresses and scalars into the arguments, as far as they are others than the last."""
        for name, places in self._addresses.items():
            given, before = memory[name], self._bound.get(name)
            if given is before:
                continue
            self._bound[name] = given
            moved = before is None or before.address != given.address
            for index, position in places:
                self._steps[index].set_memory(position, given)
                if moved:
                    self._changed.add(index)
        for scalar in self._graph.scalars:
            number = scalars.get(scalar.name, scalar.default)
            if number is None or scalar.name not in self._scalars:
                continue
            value = pack_number(scalar.dtype, number, f"scalars.{scalar.name}")
            if self._numbers.get(scalar.name) == value:
                continue
            self._numbers[scalar.name] = value
            for index, position in self._scalars[scalar.name]:
                self._steps[index].set_number(position, value)
                self._changed.add(index)

    def prepare(self, stream: Stream) -> None:
        """Have the launches ready, so that nothing is left between them and a mark before them."""
        self._launches.prepare(stream, self._changed)
        self._changed.clear()

    def launch(self, stream: Stream, after: Check | None = None, proceed: Check | None = None) -> None:
        """Queue every launch, as often as the graph says; prepare them first, unless they are watched.

        ``after`` is called behind each; ``proceed`` now and then, and ends it by raising.
        """
        if after is not None:
            self._launches.queue_watched(stream, after, proceed)
            return
        self._launches.queue(stream, proceed)
