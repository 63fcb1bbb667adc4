"""Maps files where their huge pages fit: at a multiple of these, which the system's own choice of an address is not."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

_SIZE: Final = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_NO_ACCESS: Final = 0  # PROT_NONE and MAP_FIXED, which Python has no names for
_FIXED: Final = 0x10
_FAILED: Final = ctypes.c_void_p(-1).value

_libc: Final = ctypes.CDLL(None, use_errno=True)
_mmap: Final = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_munmap: Final = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def _huge_page_bytes() -> int:
    try:
        return int(_SIZE.read_text())
    except (OSError, ValueError):
        return 0


HUGE_PAGE_BYTES: Final = _huge_page_bytes()
"""0 where the system has none."""


class Mapping:
    """Bytes of a file from its start, mapped for as long as this lives; so are the file's locks of this descriptor."""

    __slots__ = ("__array_interface__", "_fd", "address", "nbytes")

    def __init__(self, fd: int, nbytes: int, *, writable: bool) -> None:
        """Raises OSError."""
        self.address, self._fd, self.nbytes = 0, -1, nbytes
        room = nbytes + HUGE_PAGE_BYTES
        start = _checked(_mmap(None, room, _NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0))
        aligned = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        try:
            self._fd = os.dup(fd)
            self.address = _checked(_mmap(aligned, nbytes, protection, mmap.MAP_SHARED | _FIXED, fd, 0))
        except OSError:
            _munmap(start, room)
            raise
        end = -(-(aligned + nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE
        if aligned > start:
            _munmap(start, aligned - start)
        if start + room > end:
            _munmap(end, start + room - end)
        self.__array_interface__ = {
            "version": 3, "shape": (nbytes,), "typestr": "|u1", "data": (self.address, not writable),
        }  # fmt: skip

    def __del__(self) -> None:
        if self.address:
            _munmap(self.address, self.nbytes)
        if self._fd >= 0:
            os.close(self._fd)


def mapped(fd: int, nbytes: int, *, writable: bool = False) -> Bytes:
    """The first bytes of a file as an array that keeps them mapped. Raises OSError."""
    if HUGE_PAGE_BYTES and nbytes >= HUGE_PAGE_BYTES:
        return np.asarray(Mapping(fd, nbytes, writable=writable))
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return np.frombuffer(mmap.mmap(fd, nbytes, prot=protection), np.uint8)


def _checked(address: int | None) -> int:
    if address is None or address == _FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return address
