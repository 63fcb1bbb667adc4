"""Slots: the places where requests are queued, each with a stream of its own and memory that it keeps between them."""

from __future__ import annotations

from collections.abc import Callable, Container

from kaasq_workers.devices.protocol import Device, Mark, Memory, Stream
from kaasq_workers.executor.layout import Layout

ROUND_BYTES = 64 << 10  # what an arena's size is a multiple of, so that a little more often fits

MARKS = 4  # in one request

Allocate = Callable[[int], Memory]


class Arena:
    """Memory for one request's buffers at a time. What a request of one tenant left, another never sees."""

    def __init__(self) -> None:
        self.memory: Memory | None = None
        self._tenant: str | None = None
        self._soiled = 0  # how far from its start there may be anything but zeros

    @property
    def nbytes(self) -> int:
        """What it holds at present."""
        return self.memory.nbytes if self.memory is not None else 0

    def room(self, nbytes: int, allocate: Allocate) -> Memory:
        """The memory, grown to that many bytes if need be. Raises what ``allocate`` does."""
        if self.memory is not None and self.memory.nbytes >= nbytes:
            return self.memory
        self.free()
        self.memory = memory = allocate(-(-max(nbytes, 1) // ROUND_BYTES) * ROUND_BYTES)
        self._tenant, self._soiled = None, memory.nbytes
        return memory

    def hand_over(self, tenant: str, layout: Layout, stream: Stream, *, zeroing: bool = True) -> None:
        """Zero what has to be for the tenant's next request: for one of another tenant, everything.

        Not ``zeroing``: what is to start as zeros comes with the inputs.
        """
        assert self.memory is not None
        if tenant != self._tenant:
            self._tenant = tenant
            stream.zero(self.memory.part(0, self._soiled))
            self._soiled = layout.nbytes
            return
        if zeroing and layout.zeroed.nbytes:
            stream.zero(self.memory.part(*layout.zeroed))
        self._soiled = max(self._soiled, layout.nbytes)

    def free(self) -> None:
        """Give the memory back. Only while nothing queued uses it."""
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.free()


class Slot:
    """A place for one request at a time. ``marks``: those of the last one, to be moved for the next."""

    def __init__(self, index: int, stream: Stream) -> None:
        self.index = index
        self.stream = stream
        self.arena = Arena()
        self.marks: list[Mark | None] = [None] * MARKS


class Slots:
    """At most ``most`` slots, made as they are needed. Idle ones keep ``kept_bytes`` of memory together at most."""

    def __init__(self, device: Device, most: int, kept_bytes: int) -> None:
        self._device = device
        self._kept_bytes = kept_bytes
        self.most = most
        self._all: list[Slot] = []
        self._idle: list[Slot] = []

        self._add()

    @property
    def first(self) -> Slot:
        """The one that is used when only one is."""
        return self._all[0]

    def take(self, preferred: Container[int]) -> Slot:
        """A slot: one of those ``preferred`` by index if idle, so that a plan's recording and its tenant's memory serve
        again; else the one given back last.
        """
        if not self._idle:
            self._add()
        for at in range(len(self._idle) - 1, -1, -1):
            if self._idle[at].index in preferred:
                return self._idle.pop(at)
        return self._idle.pop()

    def give(self, slot: Slot) -> None:
        """It is idle again: nothing queued on it is still running."""
        self._idle.append(slot)
        if sum(each.arena.nbytes for each in self._idle) > self._kept_bytes:
            slot.arena.free()

    def shed(self, nbytes: int) -> int:
        """Give back at least that many bytes of idle slots' memory if there are; how many were."""
        given = 0
        for slot in self._idle:
            if given >= nbytes:
                break
            given += slot.arena.nbytes
            slot.arena.free()
        return given

    def _add(self) -> None:
        if len(self._all) >= self.most:
            raise RuntimeError(f"all {self.most} slots are in use")
        slot = Slot(len(self._all), self._device.stream())
        self._all.append(slot)
        self._idle.append(slot)
