"""Devices that show what is done with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from kaasq_workers.devices.protocol import Device, Memory


class Poisoned:
    """A device whose memory comes filled with what nobody should ever see. It counts what it copies, in bytes."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self.allocations = 0
        self.copied: Counter[str] = Counter()

    def stream(self) -> Any:
        made: Any = self._device.stream()
        copy_in, copy_out, copy = made.copy_in, made.copy_out, made.copy

        def counted_in(memory: Memory, data: memoryview, offset: int = 0) -> None:
            self.copied["in"] += data.nbytes
            copy_in(memory, data, offset)

        def counted_out(memory: Memory, data: memoryview, offset: int = 0) -> None:
            self.copied["out"] += data.nbytes
            copy_out(memory, data, offset)

        def counted(destination: Memory, source: Memory) -> None:
            self.copied["here"] += source.nbytes
            copy(destination, source)

        made.copy_in, made.copy_out, made.copy = counted_in, counted_out, counted
        return made

    def allocate(self, nbytes: int) -> Memory:
        memory = self._device.allocate(nbytes)
        self._stream.copy_in(memory, memoryview(b"\xab" * nbytes))
        self._stream.synchronize()
        self.allocations += 1
        return memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)
