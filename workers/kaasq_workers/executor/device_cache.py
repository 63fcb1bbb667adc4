"""Parts of stored objects that stay on the device, by tenant. They are never written to.

A stored object is immutable, so a copy can never be stale; a kernel that might write gets a copy of the copy. What an
unfinished request uses stays. Who comes in, and for whom: ``retention.py``.
"""

from __future__ import annotations

from typing import NamedTuple

from kaasq_workers.devices.protocol import Mark, Memory
from kaasq_workers.executor.retention import Retention


class Key(NamedTuple):
    """Part of a tenant's object."""

    tenant: str
    ref: str
    offset: int
    nbytes: int


class Entry:
    """Memory holding such a part, once ``loaded``; ``ready``: what other streams have to wait for until then."""

    def __init__(self, key: Key, memory: Memory) -> None:
        self.key = key
        self.memory = memory
        self.users = 1
        self.loaded = False
        self.ready: Mark | None = None


class DeviceCache:
    """At most ``capacity`` bytes of device memory."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._held: dict[Key, Entry] = {}
        self._retention: Retention[Key] = Retention(capacity)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._retention.nbytes

    def use(self, key: Key) -> Entry | None:
        """The part's entry, the caller's until ``release``; None if it is not here."""
        entry = self._held.get(key)
        if entry is not None:
            self._retention.used(key)
            entry.users += 1
        return entry

    def admit(self, key: Key) -> bool:
        """Whether to keep this part, which is not here: room has been made then, and ``put`` is to follow."""
        evicted = self._retention.admit(key, key.nbytes, lambda each: not self._held[each].users)
        if evicted is None:
            return False
        for each in evicted:
            self._held.pop(each).memory.free()
        return True

    def put(self, key: Key, memory: Memory) -> Entry:
        """Take memory for a part just admitted, the caller's until ``release``; it is yet to be loaded."""
        entry = self._held[key] = Entry(key, memory)
        self._retention.add(key, key.nbytes)
        return entry

    def release(self, entry: Entry) -> None:
        """A request that used it is done. What was never loaded is dropped."""
        entry.users -= 1
        if not entry.loaded and not entry.users and self._held.pop(entry.key, None) is not None:
            self._retention.remove(entry.key)
            entry.memory.free()

    def shed(self, nbytes: int) -> int:
        """Give back at least that many bytes to the device if possible; how many were."""
        before = self.nbytes
        for key in self._retention.order():
            if before - self.nbytes >= nbytes:
                break
            if not self._held[key].users:
                self._retention.remove(key)
                self._held.pop(key).memory.free()
        return before - self.nbytes
