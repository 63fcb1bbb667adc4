"""Device memory on a CPU: page-aligned host memory, counted against the device's limit."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from kaasq.errors import OutOfMemory

_HUGE_BYTES = 4 << 20
_MADV_HUGEPAGE = 14
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class CpuMemory:
    """An allocation, or a part of one. ``bytes`` is a NumPy view of it."""

    def __init__(self, address: int, nbytes: int, allocation: _Allocation) -> None:
        self._allocation = allocation
        self.address = address
        self.nbytes = nbytes
        self.bytes: np.ndarray[Any, np.dtype[np.uint8]] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(address)
        )

    def part(self, offset: int, nbytes: int) -> CpuMemory:
        """Memory in the same allocation."""
        return CpuMemory(self.address + offset, nbytes, self._allocation)

    def free(self) -> None:
        """Give the allocation back; idempotent."""
        self._allocation.free()


class _Allocation:
    """Mapped pages, with inaccessible ones of ``fence`` bytes on either side."""

    def __init__(self, nbytes: int, fence: int, owner: Allocator) -> None:
        self._owner = owner
        self._nbytes = nbytes
        self._mapped = 0
        usable = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        start = _libc.mmap(None, usable + 2 * fence, 0 if fence else access, flags, -1, 0)
        if start in {None, _MAP_FAILED}:
            raise self._refused()
        self._start, self._mapped = start, usable + 2 * fence
        self.address: int = start + fence
        if fence and _libc.mprotect(self.address, usable, access):
            refused = self._refused()
            _libc.munmap(start, self._mapped)
            self._mapped = 0
            raise refused
        if usable >= _HUGE_BYTES:
            _libc.madvise(self.address, usable, _MADV_HUGEPAGE)  # fewer page faults; only a hint

    def _refused(self) -> OutOfMemory:
        reason = os.strerror(ctypes.get_errno())
        return OutOfMemory(f"{self._nbytes} bytes of memory: {reason}", needed=self._nbytes)

    def free(self) -> None:
        mapped, self._mapped = self._mapped, 0
        if mapped:
            _libc.munmap(self._start, mapped)
            self._owner.freed(self._nbytes)

    def __del__(self) -> None:
        if getattr(self, "_mapped", 0):
            self.free()


class Allocator:
    """Hands out memory up to a limit in bytes, each piece between ``fence`` bytes of inaccessible address space."""

    def __init__(self, limit: int, fence: int = 0) -> None:
        self.limit = limit
        self._fence = fence
        self.used = 0
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> CpuMemory:
        """Memory for that many bytes. Raises OutOfMemory."""
        with self._lock:
            used = self.used
            if used + nbytes <= self.limit:
                self.used += nbytes
        if used + nbytes > self.limit:
            raise OutOfMemory(
                f"{nbytes} bytes of device memory are needed; {self.limit - used} of {self.limit} are free",
                needed=nbytes,
                capacity=self.limit,
            )
        try:
            allocation = _Allocation(nbytes, self._fence, self)
        except OutOfMemory as error:
            self.freed(nbytes)
            error.detail["capacity"] = self.limit
            raise
        return CpuMemory(allocation.address, nbytes, allocation)

    def freed(self, nbytes: int) -> None:
        """An allocation came back."""
        with self._lock:
            self.used -= nbytes


def default_limit() -> int:
    """Half of the memory that this process may use: of the machine's, or of its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(name).read_text()))
        except (OSError, ValueError):
            continue  # another version of control groups, or "max"
    return total // 2
