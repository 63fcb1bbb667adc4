"""Pinned memory between pageable host memory and the device: slots filled in turn, so that copying overlaps. Pure.

The GPU copies pinned memory by itself at the bus's full speed; pageable memory the driver would copy first, with the
stream waiting. Here the host fills one slot while the GPU empties another. Small pieces share a slot. Knows no CUDA:
the stream passes in the slots' addresses and events.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

_ALIGNMENT = 256  # of each piece in a slot


class Event(Protocol):
    """A point in the stream."""

    def record(self) -> None:
        """Move it to the stream's end."""

    def synchronize(self) -> None:
        """Wait until the stream has passed it."""


class _Slot:
    def __init__(self, address: int, event: Event) -> None:
        self.address = address
        self.event = event
        self.used = 0
        # What the GPU copies into the slot and we copy on, once it has: (slot address, destination, bytes, owner).
        self.arriving: list[tuple[int, int, int, object]] = []

    def land(self) -> None:
        """Copy on what has arrived. The stream must have passed it."""
        for source, destination, nbytes, _ in self.arriving:
            ctypes.memmove(destination, source, nbytes)
        self.empty()

    def empty(self) -> None:
        self.arriving.clear()
        self.used = 0


class Staging:
    """A ring of slots of one stream. Bytes pass it in both directions, in the stream's order."""

    def __init__(self, address: int, slot_bytes: int, events: Sequence[Event]) -> None:
        self._slot_bytes = slot_bytes
        self._slots = [_Slot(address + index * slot_bytes, event) for index, event in enumerate(events)]
        self._current = 0

    def copy_in(self, source: int, nbytes: int, send: Callable[[int, int, int], None]) -> None:
        """Host memory towards the device: ``send(offset, slot address, bytes)`` queues each piece's copy.

        The source may change as soon as this returns.
        """
        offset = 0
        while offset < nbytes:
            slot, address, size = self._reserve(nbytes - offset)
            ctypes.memmove(address, source + offset, size)
            send(offset, address, size)
            slot.used += -(-size // _ALIGNMENT) * _ALIGNMENT
            offset += size

    def copy_out(self, destination: int, nbytes: int, owner: object, fetch: Callable[[int, int, int], None]) -> None:
        """The device towards host memory: ``fetch(offset, slot address, bytes)`` queues each piece's copy.

        The destination holds the bytes after ``drain``; ``owner`` is kept alive until then. What exceeds the slots
        waits for the stream here.
        """
        offset = 0
        while offset < nbytes:
            slot, address, size = self._reserve(nbytes - offset)
            fetch(offset, address, size)
            slot.used += -(-size // _ALIGNMENT) * _ALIGNMENT
            slot.arriving.append((address, destination + offset, size, owner))
            offset += size

    def drain(self, synchronize: Callable[[], None]) -> None:
        """Wait for the stream, and copy on what arrived: older slots while the GPU still fills newer ones."""
        count = len(self._slots)
        for step in range(1, count):
            slot = self._slots[(self._current + step) % count]
            if slot.arriving:
                slot.event.synchronize()
                slot.land()
        synchronize()
        self._slots[self._current].land()
        for slot in self._slots:
            if slot.used:
                slot.empty()

    def forget(self) -> None:
        """Drop what has not arrived: the stream failed."""
        for slot in self._slots:
            slot.empty()

    def _reserve(self, wanted: int) -> tuple[_Slot, int, int]:
        slot = self._slots[self._current]
        if slot.used >= self._slot_bytes:
            slot.event.record()
            self._current = (self._current + 1) % len(self._slots)
            slot = self._slots[self._current]
            if slot.used:
                slot.event.synchronize()
                slot.land()
        return slot, slot.address + slot.used, min(wanted, self._slot_bytes - slot.used)
