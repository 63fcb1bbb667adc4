"""Large copies between pageable and device memory: threads move the bytes to and from pinned slots, the GPU the rest.

One thread copies at a tenth to a fifth of the bus's speed, less where it touches pages for the first time, as in a new
file's mapping; several together come near it. One copy at a time, and the caller waits for it. Knows no CUDA: the
device passes in memory and events.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Protocol

_MADV_POPULATE_WRITE = 23  # Linux 5.14 and later; older ones refuse it, and pages come in one by one
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

AHEAD_IN = 8  # pieces being filled while an older one is sent
AHEAD_OUT = 3  # pieces that the GPU is filling while older ones are moved on


class StreamEvent(Protocol):
    """A point in whichever stream it was recorded in last."""

    def record(self, stream: int) -> None:
        """Move it to that stream's end."""

    def synchronize(self) -> None:
        """Wait until the stream has passed it."""


class _Slot:
    def __init__(self, address: int, event: StreamEvent) -> None:
        self.address = address
        self._event = event
        self._recorded = False
        self._moving: Future[object] | None = None

    def fill(self, threads: Executor, source: int, nbytes: int) -> None:
        """Have a thread bring bytes here."""
        self._moving = threads.submit(ctypes.memmove, self.address, source, nbytes)

    def land(self, threads: Executor, target: int, nbytes: int) -> None:
        """Have a thread move bytes on from here."""
        self._moving = threads.submit(_land, target, self.address, nbytes)

    def mark(self, stream: int) -> None:
        """The GPU is done with it once the stream gets here."""
        self._event.record(stream)
        self._recorded = True

    def settle(self) -> None:
        """Wait until neither a thread nor the GPU uses it."""
        moving, self._moving = self._moving, None
        if moving is not None:
            moving.result()
        recorded, self._recorded = self._recorded, False
        if recorded:
            self._event.synchronize()


class BulkRing:
    """Pinned slots in turn, more of them than pieces are ahead."""

    def __init__(self, address: int, slot_bytes: int, events: Sequence[StreamEvent], threads: Executor) -> None:
        self._slot_bytes = slot_bytes
        self._slots = [_Slot(address + index * slot_bytes, event) for index, event in enumerate(events)]
        self._threads = threads
        assert len(self._slots) > max(AHEAD_IN, AHEAD_OUT)

    def copy_in(self, source: int, nbytes: int, stream: int, send: Callable[[int, int, int], None]) -> None:
        """Host memory to the device: ``send(offset, slot address, bytes)`` queues each piece's copy on the stream.

        The source may change as soon as this returns; the last pieces are still on their way then.
        """
        pieces = self._pieces(nbytes)
        try:
            for index in range(len(pieces) + AHEAD_IN):
                if index < len(pieces):
                    offset, size = pieces[index]
                    slot = self._slot(index)
                    slot.settle()
                    slot.fill(self._threads, source + offset, size)
                if index >= AHEAD_IN:
                    offset, size = pieces[index - AHEAD_IN]
                    slot = self._slot(index - AHEAD_IN)
                    slot.settle()
                    send(offset, slot.address, size)
                    slot.mark(stream)
        except BaseException:
            self._abandon()
            raise

    def copy_out(self, destination: int, nbytes: int, stream: int, fetch: Callable[[int, int, int], None]) -> None:
        """The device to host memory: ``fetch(offset, slot address, bytes)`` queues each piece's copy on the stream.

        The destination holds the bytes when this returns.
        """
        pieces = self._pieces(nbytes)
        try:
            for index in range(len(pieces) + AHEAD_OUT):
                if index < len(pieces):
                    offset, size = pieces[index]
                    slot = self._slot(index)
                    slot.settle()
                    fetch(offset, slot.address, size)
                    slot.mark(stream)
                if index >= AHEAD_OUT:
                    offset, size = pieces[index - AHEAD_OUT]
                    slot = self._slot(index - AHEAD_OUT)
                    slot.settle()
                    slot.land(self._threads, destination + offset, size)
            for slot in self._slots:
                slot.settle()
        except BaseException:
            self._abandon()
            raise

    def _pieces(self, nbytes: int) -> list[tuple[int, int]]:
        step = self._slot_bytes
        return [(offset, min(step, nbytes - offset)) for offset in range(0, nbytes, step)]

    def _slot(self, index: int) -> _Slot:
        return self._slots[index % len(self._slots)]

    def _abandon(self) -> None:
        """After a failure: no thread may touch the caller's memory any more."""
        for slot in self._slots:
            try:
                slot.settle()
            except Exception:  # noqa: BLE001, S112 - the failure that is being reported, once more
                continue


def _land(target: int, source: int, nbytes: int) -> None:
    """Move bytes to where they may be the first: threads that fault page after page would wait for each other."""
    start = target - target % mmap.PAGESIZE
    _madvise(start, target + nbytes - start, _MADV_POPULATE_WRITE)
    ctypes.memmove(target, source, nbytes)
