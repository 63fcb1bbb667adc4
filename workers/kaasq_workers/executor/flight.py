"""A request on a slot, from its first queued copy until it has ended: what it uses, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import NamedTuple

from kaasq.errors import KaasqError
from kaasq.messages import CacheUse, Output, Timings
from kaasq.model import Buffer
from kaasq_storage import Staged
from kaasq_workers.devices.protocol import Mark, Memory
from kaasq_workers.executor.bound import BoundPlan
from kaasq_workers.executor.device_cache import Entry
from kaasq_workers.executor.host_objects import HostObject
from kaasq_workers.executor.plan import Plan
from kaasq_workers.executor.resident import Resident, Taken
from kaasq_workers.executor.slots import MARKS, Slot

BEGIN, READY, DONE, END = range(MARKS)  # of copying in, then of launching, then of copying out


class Produced(NamedTuple):
    """An output: its bytes inline, or staged in the store."""

    buffer: Buffer
    data: bytearray | Staged


def output_of(buffer: Buffer, inline: bytes | None = None) -> Output:
    """How a reply describes it, with its bytes if it has them."""
    return Output(nbytes=buffer.nbytes, dtype=buffer.dtype, shape=buffer.shape, inline=inline)


class Executed(NamedTuple):
    """What running a request gave. ``held``: outputs that stayed on the device, and are not among the others."""

    outputs: list[Produced]
    timings: Timings
    cache: CacheUse
    held: Mapping[str, Resident] = {}


class Flight:
    """A request on its slot. The engine's own: others only hold it between ``begin`` and ``end``."""

    __slots__ = (
        "bound", "direct", "entries", "hits", "hold", "late", "loaded_ns", "loading", "memory", "misses", "objects",
        "outputs", "own", "plan", "slot", "started_ns", "taken", "tenant",
    )  # fmt: skip

    def __init__(self, tenant: str, slot: Slot, plan: Plan, bound: BoundPlan, started_ns: int) -> None:
        self.tenant = tenant
        self.slot = slot
        self.plan = plan
        self.bound = bound
        self.started_ns = started_ns
        self.loaded_ns = started_ns
        self.memory: dict[str, Memory] = {}
        self.entries: list[Entry] = []  # of the cache, in use
        self.loading: list[Entry] = []  # those of them that it loads
        self.objects: list[HostObject] = []  # open: the device reads them in place
        self.own: list[Memory] = []  # to be freed at the end
        self.outputs: dict[str, Produced] = {}
        self.late: list[tuple[Memory, memoryview]] = []  # outputs to copy once everything before them has run
        self.hold: AbstractSet[str] = frozenset()  # outputs that are to stay on the device
        self.taken: Mapping[str, Taken] = {}  # inputs that were there already
        self.direct: set[str] = set()  # those of them that are used where they lie
        self.hits = 0
        self.misses = 0

    @property
    def done(self) -> Mark:
        """Where its launches are over."""
        return self._mark(DONE)

    @property
    def finished(self) -> bool:
        """Whether ending it would not wait long."""
        return self._mark(DONE if self.late else END).passed

    def mark(self, index: int) -> Mark:
        """Mark this point of its stream: BEGIN, READY, DONE or END."""
        marks = self.slot.marks
        mark = marks[index] = self.slot.stream.mark(marks[index])
        return mark

    def _mark(self, index: int) -> Mark:
        mark = self.slot.marks[index]
        assert mark is not None
        return mark

    def settle(self) -> None:
        """After a failure: wait for what is still queued, since it uses memory about to be given back."""
        with suppress(KaasqError):
            self.slot.stream.synchronize()

    def discard(self) -> None:
        """Nobody wants the outputs; staged ones give their space back."""
        self.late.clear()
        for each in self.outputs.values():
            if not isinstance(each.data, bytearray):
                each.data.discard()

    def timings(self, now_ns: int) -> Timings:
        """Where its time went; its stream must have passed all marks."""
        begin, ready, done, end = self.slot.marks
        assert begin is not None and ready is not None and done is not None and end is not None  # noqa: PT018
        return Timings(
            load=(self.loaded_ns - self.started_ns) // 1000,
            h2d=round(ready.us_since(begin)),
            kernel=round(done.us_since(ready)),
            d2h=round(end.us_since(done)),
            total=(now_ns - self.started_ns) // 1000,
        )
