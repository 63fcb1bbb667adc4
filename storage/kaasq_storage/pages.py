"""Gives a file its pages before anything is written: huge ones in shared memory, where they are to be had.

Small ones take the kernel longer to find, to enter and to zero than they take to be filled, most of it in one thread;
mapping, pinning and unmapping them takes long again, each time. With huge ones there is next to nothing of that to do,
and several threads bring them in. A mount with ``huge=`` has them by itself. /dev/shm has not, but any range of a file
in shared memory that has a page can be collapsed into a huge one, if the kernel is asked to (madvise).
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from typing import Final

from kaasq_storage.mapping import HUGE_PAGE_BYTES, Mapping

FROM_BYTES: Final = 4 << 20
"""Smaller files are as fast with small pages."""
_PIECE_BYTES: Final = 16 << 20
_MOST_THREADS: Final = 12
_SLOW_S: Final = 0.1
"""For a piece, of which a few milliseconds are to be expected: memory is in too small pieces, and is being moved."""
_MADV_COLLAPSE: Final = 25  # Linux 6.1; earlier ones refuse it

_madvise: Final = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def allocate(fd: int, start: int, end: int, *, memory: bool) -> None:
    """Bring the file to a size of ``end``, from ``start`` on with pages. ``memory``: it lies in shared memory.

    Raises OSError if there is no room. After it, no write to a mapping of the file fails for want of room.
    """
    if memory and HUGE_PAGE_BYTES and end >= FROM_BYTES:
        os.ftruncate(fd, end)
        _bring_huge_ones(fd, -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES)
    # Not ftruncate alone: writing to a hole of a mapped file on a full disk kills the process.
    os.posix_fallocate(fd, start, end - start)


def _bring_huge_ones(fd: int, start: int, end: int) -> None:
    """Fill that range with huge pages as far as there are any."""
    if start >= end:
        return
    try:
        for at in range(start, end, HUGE_PAGE_BYTES):
            os.posix_fallocate(fd, at, 1)  # an empty range is not collapsed
        mapping = Mapping(fd, end, writable=True)
    except OSError:
        return  # whoever asked sees it, allocating the rest
    left = deque((at, min(_PIECE_BYTES, end - at)) for at in range(start, end, _PIECE_BYTES))

    def take_part() -> None:
        while left:
            try:
                at, nbytes = left.popleft()
            except IndexError:  # another thread was faster
                return
            began = time.monotonic()
            if _madvise(mapping.address + at, nbytes, _MADV_COLLAPSE) or time.monotonic() - began > _SLOW_S:
                left.clear()

    count = min(_MOST_THREADS, len(os.sched_getaffinity(0)), len(left))
    helping: list[threading.Thread] = []
    try:
        for _ in range(count - 1):
            thread = threading.Thread(target=take_part, name="kaasq-pages")
            thread.start()
            helping.append(thread)
    except RuntimeError:
        pass  # the system gives no more threads
    take_part()
    for each in helping:
        each.join()
