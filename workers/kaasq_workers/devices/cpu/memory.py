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
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class CpuMemory:
    """One allocation. ``bytes`` is a NumPy view of it."""

    def __init__(self, nbytes: int, owner: Allocator) -> None:
        self._owner = owner
        self._mapped = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _libc.mmap(None, self._mapped, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if address in {None, _MAP_FAILED}:
            self._mapped = 0
            raise OutOfMemory(f"{nbytes} bytes of memory: {os.strerror(ctypes.get_errno())}", needed=nbytes)
        if self._mapped >= _HUGE_BYTES:
            _libc.madvise(address, self._mapped, _MADV_HUGEPAGE)  # fewer page faults; only a hint
        self.address: int = address
        self.nbytes = nbytes
        self.bytes: np.ndarray[Any, np.dtype[np.uint8]] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * nbytes).from_address(address)
        )

    def free(self) -> None:
        """Give it back; idempotent."""
        mapped, self._mapped = self._mapped, 0
        if mapped:
            _libc.munmap(self.address, mapped)
            self._owner.freed(self.nbytes)

    def __del__(self) -> None:
        if getattr(self, "_mapped", 0):
            self.free()


class Allocator:
    """Hands out memory up to a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
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
            return CpuMemory(nbytes, self)
        except OutOfMemory as error:
            self.freed(nbytes)
            error.detail["capacity"] = self.limit
            raise

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
