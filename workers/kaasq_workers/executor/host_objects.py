"""Stored objects open in host memory; the large ones are kept open for a while, and pinned if they are read again.

What is pinned the device reads at the bus's full speed, and no processor takes part. Where pinning takes no longer than
copying by threads, as it may with huge pages and few processors, the first reading does it, ahead of the device. Else
it is left to when there is nothing else to do, or to the second reading. It goes piece by piece: everything else on the
device waits meanwhile.

What is kept open stays mapped, and its bytes in memory, even if the object is deleted: so both are bounded, and what
has not been read for a while is given back. (Unmapping small pages is dear, too: 256 MiB of them
take longer than to be read.)
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from kaasq_storage import BufferStore, Reading
from kaasq_workers.devices.protocol import Pinned

PINNED_FROM_BYTES = 1 << 20  # below, pinning costs more than it saves
PINNED_OBJECTS = 256
PIECE_BYTES = 16 << 20  # pinned at once: about a millisecond
COPY_S = 3.6e-3  # for a piece, by one thread
COPIERS = 12  # at most
IDLE_S = 60.0

Pin = Callable[[memoryview], Pinned | None]
Key = tuple[str, str]


class Pinner:
    """The device's way of pinning, and how quick it was lately."""

    def __init__(self, pin: Pin, timer: Callable[[], float], copiers: int) -> None:
        """``copiers``: how many threads would copy a piece instead."""
        self._pin = pin
        self._quick_s = COPY_S / copiers
        self._timer = timer
        self._took_s = deque([0.0], maxlen=2)  # by whole pieces; the very first one may take long for other reasons

    @property
    def quick(self) -> bool:
        """Whether pinning pays for what may be read only once."""
        return min(self._took_s) <= self._quick_s

    def pin(self, piece: memoryview) -> Pinned | None:
        """None where the device does not."""
        start = self._timer()
        pinned = self._pin(piece)
        if piece.nbytes == PIECE_BYTES:
            self._took_s.append(self._timer() - start)
        return pinned


class HostObject:
    """An object's bytes, valid until each of its users has given it back."""

    def __init__(self, key: Key, reading: Reading, pin: Pinner | None = None) -> None:
        """``pin`` None: it is not to be kept."""
        self.key = key
        self._reading = reading
        self._pin = pin
        self._pinned: list[Pinned] = []
        self.users = 0
        self.readings = 0
        self.used_s = 0.0

    @property
    def refused(self) -> bool:
        """Whether the device does not pin it, so that there is no use in keeping it."""
        return self._pin is None

    @property
    def data(self) -> memoryview:
        """Its bytes, read-only."""
        return self._reading.data

    @property
    def nbytes(self) -> int:
        """How many."""
        return self._reading.object.nbytes

    def pieces(self, offset: int, nbytes: int) -> Iterator[memoryview]:
        """Those bytes in pieces, each pinned as a whole or not at all.

        What is read again is pinned before it comes, and so is what is read first as long as that is quick.
        """
        at, end = offset, offset + nbytes
        while at < end:
            stop = min((at // PIECE_BYTES + 1) * PIECE_BYTES, self.nbytes)
            while self._pinned_bytes <= at and self._gains(at, stop, end) and self.pin_piece():
                pass
            stop = min(stop, end) if self._pinned_bytes > at else end
            yield self.data[at:stop]
            at = stop

    @property
    def _pinned_bytes(self) -> int:
        return len(self._pinned) * PIECE_BYTES

    def _gains(self, at: int, stop: int, end: int) -> bool:
        """Whether to pin before reading from ``at`` to ``end``, when the piece that has its start ends at ``stop``."""
        if self.readings > 1:
            return True
        large, next_one = self.nbytes >= PIECE_BYTES, at - self._pinned_bytes < PIECE_BYTES
        return large and next_one and stop <= end and self._pin is not None and self._pin.quick

    def pin_piece(self) -> bool:
        """Pin the next piece; False if there is none, or it cannot be."""
        start = self._pinned_bytes
        if self._pin is None or start >= self.nbytes:
            return False
        with self.data[start : start + PIECE_BYTES] as piece:
            pinned = self._pin.pin(piece)
        if pinned is None:
            self._pin = None
            return False
        self._pinned.append(pinned)
        return True

    def close(self) -> None:
        """Unmap it. Nothing queued may read it any more."""
        self._unpin()
        self._reading.__exit__(None, None, None)

    def __del__(self) -> None:
        self._unpin()  # before the memory is unmapped

    def _unpin(self) -> None:
        self._pin = None
        while self._pinned:
            self._pinned.pop().release()


class HostObjects:
    """Opens objects; keeps at most ``most_bytes`` of them pinned, those read last."""

    def __init__(
        self,
        store: BufferStore,
        pin: Pin,
        most_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] = time.perf_counter,
        copiers: int | None = None,
    ) -> None:
        """``copiers``: threads that copy what is not pinned; by default, one for each processor, up to ``COPIERS``."""
        self._store = store
        self._pinner = Pinner(pin, timer, copiers or min(COPIERS, len(os.sched_getaffinity(0))))
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[Key, HostObject] = OrderedDict()  # least recently read first
        self.nbytes = 0
        """Bytes kept, pinned or not."""

    def open(self, tenant: str, ref: str) -> HostObject:
        """The object, the caller's until given back. Raises NameNotFound."""
        key = (tenant, ref)
        opened = self._kept.get(key)
        if opened is not None:
            self._kept.move_to_end(key)
        else:
            reading = self._store.open(tenant, ref)
            nbytes = reading.object.nbytes
            keep = PINNED_FROM_BYTES <= nbytes <= self._most_bytes and self._make_room(nbytes)
            opened = HostObject(key, reading, self._pinner if keep else None)
            if keep:
                self._kept[key] = opened
                self.nbytes += nbytes
        opened.users += 1
        opened.readings += 1
        return opened

    def give_back(self, opened: HostObject) -> None:
        """A user has done with it: nothing that it queued reads it any more."""
        opened.users -= 1
        opened.used_s = self._clock()
        if opened.users:
            return
        if self._kept.get(opened.key) is not opened:
            opened.close()
        elif opened.refused:
            self._drop(opened.key)

    def pin_some(self) -> bool:
        """Use time that nobody else wants: pin a piece of what was read. False if there is nothing to do."""
        for key, kept in reversed(list(self._kept.items())):
            if kept.pin_piece():
                return True
            if kept.refused and not kept.users:
                self._drop(key)
        return False

    def tidy(self, idle_s: float = IDLE_S) -> None:
        """Close what has not been read for a while."""
        before = self._clock() - idle_s
        for key, kept in list(self._kept.items()):
            if not kept.users and kept.used_s <= before:
                self._drop(key)

    def _make_room(self, nbytes: int) -> bool:
        """Close others until that much more may be kept. False if what is being read forbids it."""
        for key, kept in list(self._kept.items()):
            if self._has_room(nbytes):
                return True
            if not kept.users:
                self._drop(key)
        return self._has_room(nbytes)

    def _has_room(self, nbytes: int) -> bool:
        return self.nbytes + nbytes <= self._most_bytes and len(self._kept) < PINNED_OBJECTS

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key)
        self.nbytes -= kept.nbytes
        kept.close()
