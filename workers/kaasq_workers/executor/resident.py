"""Outputs that stay on the device for a later request, instead of going to the host: in the slot where they came to be.

The slot is not given back as long as one of them is wanted. So memory changes hands without being copied, what a tenant
left stays in memory that is known to be the tenant's, and two requests that take turns find the same addresses again.
Where others need the memory or the slot, outputs go to the host after all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kaasq_workers.devices.protocol import Memory
from kaasq_workers.executor.slots import Slot


class Lease:
    """A slot whose memory is wanted."""

    def __init__(self, slot: Slot, give: Callable[[Slot], None]) -> None:
        self.slot = slot
        self.uses = 0
        self._give = give

    def drop(self) -> None:
        """One use less; after the last one the slot is idle."""
        self.uses -= 1
        if not self.uses:
            self._give(self.slot)


class Resident:
    """An output that stayed."""

    def __init__(self, tenant: str, nbytes: int) -> None:
        self.tenant = tenant
        self.nbytes = nbytes
        self.memory: Memory | None = None
        """Where it lies; None if it went to the host."""
        self.lease: Lease | None = None
        """Of the slot in which it lies."""
        self.data = b""
        """What it holds, if it went to the host."""
        self.busy = 0
        """Requests on their way that use it."""

    def read(self, offset: int, into: memoryview) -> None:
        """Bring as many bytes of it to the host as there is room. Raises KernelFailed."""
        if self.memory is None or self.lease is None:
            into[:] = memoryview(self.data)[offset : offset + into.nbytes]
            return
        stream = self.lease.slot.stream
        stream.copy_out(self.memory.part(offset, into.nbytes), into)
        stream.synchronize()


class Taken(NamedTuple):
    """As much of a resident output as an input has, from ``offset`` on.

    ``last``: nobody else needs it, so that the request may write to it, and it is let go when the request has ended.
    """

    resident: Resident
    offset: int = 0
    last: bool = False


class Left(NamedTuple):
    """What an input starts from that is on the device. ``own``: it may be written to."""

    memory: Memory
    own: bool


class Residents:
    """All of an engine's, in ``most`` slots at most."""

    def __init__(self, most: int, give: Callable[[Slot], None]) -> None:
        self._most = most
        self._give = give
        self._all: dict[Resident, None] = {}  # oldest first

    def lease(self, slot: Slot) -> Lease:
        """Of a slot in which something may stay."""
        return Lease(slot, self._give)

    def keep(self, tenant: str, memory: Memory, lease: Lease) -> Resident:
        """An output that stays where it is."""
        made = Resident(tenant, memory.nbytes)
        made.memory, made.lease = memory, lease
        lease.uses += 1
        self._all[made] = None
        return made

    def let_go(self, resident: Resident) -> None:
        """Nobody needs it any more; idempotent."""
        self._all.pop(resident, None)
        lease, resident.lease, resident.memory = resident.lease, None, None
        if lease is not None:
            lease.drop()

    def limit(self) -> None:
        """Have no more slots in use than may be. Raises KernelFailed."""
        while len(self._all) > self._most and len({each.lease for each in self._all}) > self._most:
            if not self._spill_oldest():
                return

    def spill(self) -> bool:
        """Bring to the host what no request uses; whether there was anything. Raises KernelFailed."""
        found = False
        while self._spill_oldest():
            found = True
        return found

    def close(self) -> None:
        """Let all go."""
        for each in list(self._all):
            self.let_go(each)

    def _spill_oldest(self) -> bool:
        oldest = next((each for each in self._all if not each.busy), None)
        if oldest is None:
            return False
        data = bytearray(oldest.nbytes)
        oldest.read(0, memoryview(data))
        oldest.data = bytes(data)
        self.let_go(oldest)
        return True
