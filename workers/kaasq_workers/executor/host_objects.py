"""Stored objects open in host memory, the large ones kept open for a while and pinned: read at the bus's full speed.

What is pinned stays mapped, and its bytes in memory, even if the object is deleted: so both are bounded, and what has
not been read for a while is given back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from kaasq_storage import BufferStore, Reading
from kaasq_workers.devices.protocol import Pinned

PINNED_FROM_BYTES = 1 << 20  # below, pinning costs more than it saves
PINNED_OBJECTS = 256
IDLE_S = 60.0

Pin = Callable[[memoryview], Pinned | None]
Key = tuple[str, str]


class HostObject:
    """An object's bytes, valid until each of its users has given it back."""

    def __init__(self, reading: Reading, pinned: Pinned | None) -> None:
        self._reading = reading
        self.pinned = pinned
        self.users = 1
        self.used_s = 0.0

    @property
    def data(self) -> memoryview:
        """Its bytes, read-only."""
        return self._reading.data

    @property
    def nbytes(self) -> int:
        """How many."""
        return self._reading.object.nbytes

    def close(self) -> None:
        """Unmap it. Nothing queued may read it any more."""
        self._unpin()
        self._reading.__exit__(None, None, None)

    def __del__(self) -> None:
        self._unpin()  # before the memory is unmapped

    def _unpin(self) -> None:
        pinned, self.pinned = self.pinned, None
        if pinned is not None:
            pinned.release()


class HostObjects:
    """Opens objects; keeps at most ``most_bytes`` of them pinned, those read last."""

    def __init__(
        self, store: BufferStore, pin: Pin, most_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._pin = pin
        self._most_bytes = most_bytes
        self._clock = clock
        self._kept: OrderedDict[Key, HostObject] = OrderedDict()  # least recently read first
        self.nbytes = 0
        """Bytes pinned."""

    def open(self, tenant: str, ref: str) -> HostObject:
        """The object, the caller's until given back. Raises NameNotFound."""
        key = (tenant, ref)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            kept.users += 1
            return kept
        reading = self._store.open(tenant, ref)
        opened = HostObject(reading, None)
        if PINNED_FROM_BYTES <= opened.nbytes <= self._most_bytes and self._make_room(opened.nbytes):
            opened.pinned = self._pin(opened.data)
            if opened.pinned is not None:
                self._kept[key] = opened
                self.nbytes += opened.nbytes
        return opened

    def give_back(self, opened: HostObject) -> None:
        """A user has done with it: nothing that it queued reads it any more."""
        opened.users -= 1
        opened.used_s = self._clock()
        if opened.pinned is None:
            opened.close()

    def tidy(self, idle_s: float = IDLE_S) -> None:
        """Close what has not been read for a while."""
        before = self._clock() - idle_s
        for key, kept in list(self._kept.items()):
            if not kept.users and kept.used_s <= before:
                self._drop(key)

    def _make_room(self, nbytes: int) -> bool:
        """Unpin until that much more may be pinned. False if what is being read forbids it."""
        for key, kept in list(self._kept.items()):
            if self.nbytes + nbytes <= self._most_bytes and len(self._kept) < PINNED_OBJECTS:
                return True
            if not kept.users:
                self._drop(key)
        return self.nbytes + nbytes <= self._most_bytes and len(self._kept) < PINNED_OBJECTS

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key)
        self.nbytes -= kept.nbytes
        kept.close()
