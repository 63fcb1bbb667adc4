"""Stored objects that stay on the device, by tenant and content hash. They are never written to.

A stored object is immutable, so a copy can never be stale; a kernel that might write gets a copy of the copy. Kept
apart by tenant. Least recently used goes first; what a running request uses is never evicted.
"""

from __future__ import annotations

from collections import OrderedDict

from kaasq_workers.devices.protocol import Memory

Key = tuple[str, str]


class DeviceCache:
    """Device memory holding objects, at most ``capacity`` bytes of it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._held: OrderedDict[Key, Memory] = OrderedDict()
        self._pinned: set[Key] = set()

    def get(self, tenant: str, ref: str) -> Memory | None:
        """The object's memory, pinned until ``release``, or None."""
        key = (tenant, ref)
        memory = self._held.get(key)
        if memory is not None:
            self._held.move_to_end(key)
            self._pinned.add(key)
        return memory

    def put(self, tenant: str, ref: str, memory: Memory) -> bool:
        """Hand memory that holds the object to the cache, pinned. False if it does not fit: it stays the caller's."""
        key = (tenant, ref)
        if key in self._held or memory.nbytes > self.capacity:
            return False
        if not self.make_room(memory.nbytes):
            return False
        self._held[key] = memory
        self._pinned.add(key)
        self.nbytes += memory.nbytes
        return True

    def make_room(self, nbytes: int) -> bool:
        """Evict until that much more would fit within the capacity. False if what is pinned forbids it."""
        for key in list(self._held):
            if self.nbytes + nbytes <= self.capacity:
                return True
            if key not in self._pinned:
                self._evict(key)
        return self.nbytes + nbytes <= self.capacity

    def shed(self, nbytes: int) -> int:
        """Give back at least that many bytes to the device if possible; how many were."""
        before = self.nbytes
        for key in list(self._held):
            if before - self.nbytes >= nbytes:
                break
            if key not in self._pinned:
                self._evict(key)
        return before - self.nbytes

    def release(self) -> None:
        """The request that used the pinned ones is done."""
        self._pinned.clear()

    def _evict(self, key: Key) -> None:
        memory = self._held.pop(key)
        self.nbytes -= memory.nbytes
        memory.free()
