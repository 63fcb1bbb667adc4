"""Memory that operations use while they run: a piece for each stream, since those run beside each other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol

from kaasq_workers.devices.protocol import Memory

SCRATCH_BYTES = 64 << 20
PRODUCT_BYTES = 32 << 20  # what NVIDIA advises for cuBLASLt on Hopper; older GPUs need less
_ALIGNMENT_BYTES = 256


class Workspace:
    """One stream's: addresses of the scratch memory, and of what matrix products use."""

    def __init__(self, memory: Memory, scratch_bytes: int) -> None:
        self._memory = memory
        self.scratch = memory.address
        self.product = memory.address + scratch_bytes


class WithWorkspace(Protocol):
    """A stream."""

    workspace: Workspace | None


class Workspaces:
    """Gives every stream a workspace once an operation needs one: then, not when it runs, which may be in a capture."""

    def __init__(self, allocate: Callable[[int], Memory], scratch_bytes: int, product_bytes: int) -> None:
        self._allocate = allocate
        self.scratch_bytes = -(-scratch_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self.product_bytes = product_bytes
        self._needed = False
        self._streams: weakref.WeakSet[WithWorkspace] = weakref.WeakSet()

    def add(self, stream: WithWorkspace) -> None:
        """A new stream. Raises OutOfMemory."""
        self._streams.add(stream)
        if self._needed:
            self._provide(stream)

    def need(self) -> None:
        """An operation needs it, on whichever stream. Raises OutOfMemory."""
        for stream in self._streams:
            self._provide(stream)
        self._needed = True

    def _provide(self, stream: WithWorkspace) -> None:
        if stream.workspace is None:
            memory = self._allocate(self.scratch_bytes + self.product_bytes)
            stream.workspace = Workspace(memory, self.scratch_bytes)
