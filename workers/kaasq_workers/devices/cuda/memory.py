"""Device memory from a CuPy pool of our own: bounded, kept warm, aligned to 512 bytes."""

from __future__ import annotations

from typing import Any

import cupy
from cupy.cuda.memory import OutOfMemoryError
from cupy.cuda.runtime import CUDARuntimeError

from kaasq.errors import OutOfMemory
from kaasq_workers.devices.cuda.errors import Poisonable, run_error


class _Allocation:
    """What the pool handed out; the pool has it back once ``piece`` is dropped."""

    __slots__ = ("piece",)

    def __init__(self, piece: Any) -> None:
        self.piece = piece


class CudaMemory:
    """A piece of device memory, whole or part."""

    __slots__ = ("_allocation", "address", "nbytes")

    def __init__(self, allocation: _Allocation, address: int, nbytes: int) -> None:
        self._allocation = allocation
        self.address = address
        self.nbytes = nbytes

    def part(self, offset: int, nbytes: int) -> CudaMemory:
        """Memory in the same allocation."""
        return CudaMemory(self._allocation, self.address + offset, nbytes)

    def free(self) -> None:
        """Give the whole allocation back to the pool; idempotent."""
        self._allocation.piece = None


class MemoryPool:
    """At most ``limit`` bytes of the device's memory.

    The pool hands freed memory out again at once, to whichever stream comes next. That is safe because memory is
    freed only when nothing queued uses it any more (the engine's promise): CuPy's per-stream arenas, which would allow
    freeing earlier but strand memory in each stream, are not used; all of it lies in the default stream's.
    """

    def __init__(self, device: Poisonable, limit: int) -> None:
        self._device = device
        self.limit = limit
        self._pool = cupy.cuda.MemoryPool()
        self._pool.set_limit(size=limit)

    def allocate(self, nbytes: int) -> CudaMemory:
        """Memory with undefined contents. Raises OutOfMemory."""
        if nbytes > self.limit:
            raise self._out_of_memory(nbytes)
        size = nbytes or 1  # an empty buffer has an address too
        try:
            try:
                piece = self._pool.malloc(size)
            except OutOfMemoryError:
                # At its limit CuPy's pool gives up with memory still cached in blocks of other sizes.
                self._pool.free_all_blocks()
                piece = self._pool.malloc(size)
        except OutOfMemoryError as error:
            raise self._out_of_memory(nbytes) from error
        except CUDARuntimeError as error:
            raise run_error(error, self._device, f"an allocation of {nbytes} bytes") from error
        return CudaMemory(_Allocation(piece), piece.ptr, nbytes)

    def used_bytes(self) -> int:
        """Bytes handed out and not yet freed."""
        return int(self._pool.used_bytes())

    def close(self) -> None:
        """Give what is cached back to the device."""
        self._pool.free_all_blocks()

    def _out_of_memory(self, nbytes: int) -> OutOfMemory:
        used = self.used_bytes()
        return OutOfMemory(
            f"{nbytes} bytes of device memory do not fit: {self._device.name} has {self.limit}, {used} of them in use",
            needed=nbytes,
            capacity=self.limit,
            used=used,
            device=self._device.name,
        )
