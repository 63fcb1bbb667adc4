"""Large copies between pageable and device memory: threads move the bytes to and from pinned slots, the GPU the rest.

One thread copies at a tenth to a fifth of the bus's speed, less where it touches pages for the first time, as in a new
file's mapping; a dozen together come near it. Each has two slots of its own and takes piece after piece of the copy, so
that nothing is handed from thread to thread: the GPU works on one slot while the thread works on the other. One copy at
a time, and the caller takes part in it. Knows no CUDA: the device passes in memory and events.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from typing import Protocol

_MADV_POPULATE_WRITE = 23  # Linux 5.14 and later; older ones refuse it, and pages come in one by one
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

SLOTS_EACH = 2
_ROUND_BYTES = 64 << 10  # what a piece's size is a multiple of

Piece = tuple[int, int]
Move = Callable[[int, int, int], None]


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

    def mark(self, stream: int) -> None:
        """The GPU is done with it once the stream gets here."""
        self._event.record(stream)
        self._recorded = True

    def settle(self) -> None:
        """Wait until the GPU does not use it."""
        recorded, self._recorded = self._recorded, False
        if recorded:
            self._event.synchronize()


class BulkCopies:
    """Pinned slots, ``SLOTS_EACH`` for each thread, the caller's among them."""

    def __init__(
        self, address: int, slot_bytes: int, events: Sequence[StreamEvent], threads: Executor, *, least_bytes: int
    ) -> None:
        """``events``: one for each slot. Pieces have ``least_bytes``, and more where all have something to do."""
        self._slot_bytes = slot_bytes
        self._least_bytes = least_bytes
        slots = [_Slot(address + index * slot_bytes, event) for index, event in enumerate(events)]
        self._lanes = [slots[at : at + SLOTS_EACH] for at in range(0, len(slots), SLOTS_EACH)]
        self._threads = threads

    def copy_in(self, source: int, nbytes: int, stream: int, send: Move) -> None:
        """Host memory to the device: ``send(offset, slot address, bytes)`` queues each piece's copy on the stream.

        The source may change as soon as this returns; the last pieces are still on their way then.
        """

        def fill(lane: list[_Slot], pieces: Iterator[Piece]) -> None:
            for (offset, size), slot in zip(pieces, itertools.cycle(lane), strict=False):
                slot.settle()
                ctypes.memmove(slot.address, source + offset, size)
                send(offset, slot.address, size)
                slot.mark(stream)

        self._together(fill, nbytes)

    def copy_out(self, destination: int, nbytes: int, stream: int, fetch: Move) -> None:
        """The device to host memory: ``fetch(offset, slot address, bytes)`` queues each piece's copy on the stream.

        The destination holds the bytes when this returns.
        """

        def land(slot: _Slot, offset: int, size: int) -> None:
            slot.settle()
            _land(destination + offset, slot.address, size)

        def drain(lane: list[_Slot], pieces: Iterator[Piece]) -> None:
            arriving: tuple[_Slot, int, int] | None = None
            for (offset, size), slot in zip(pieces, itertools.cycle(lane), strict=False):
                slot.settle()
                fetch(offset, slot.address, size)
                slot.mark(stream)
                if arriving is not None:
                    land(*arriving)
                arriving = slot, offset, size
            if arriving is not None:
                land(*arriving)

        self._together(drain, nbytes)

    def _together(self, work: Callable[[list[_Slot], Iterator[Piece]], None], nbytes: int) -> None:
        """Have all threads take pieces until there are none; raises what one of them did, once all have stopped."""
        step = -(-nbytes // len(self._lanes))
        step = min(self._slot_bytes, max(self._least_bytes, -(-step // _ROUND_BYTES) * _ROUND_BYTES))
        pieces = [(offset, min(step, nbytes - offset)) for offset in range(0, nbytes, step)]
        left = iter(pieces)  # of a list: the interpreter lets one thread at a time take the next

        def take_part(lane: list[_Slot]) -> None:
            try:
                work(lane, left)
            except BaseException:
                for _ in left:  # nothing is left for the others
                    pass
                raise

        helping = [self._threads.submit(take_part, lane) for lane in self._lanes[1 : len(pieces)]]
        try:
            take_part(self._lanes[0])
        finally:
            wait(helping)  # no thread may touch the caller's memory any more
        for each in helping:
            each.result()


def _land(target: int, source: int, nbytes: int) -> None:
    """Move bytes to where they may be the first: threads that fault page after page would wait for each other."""
    start = target - target % mmap.PAGESIZE
    _madvise(start, target + nbytes - start, _MADV_POPULATE_WRITE)
    ctypes.memmove(target, source, nbytes)
