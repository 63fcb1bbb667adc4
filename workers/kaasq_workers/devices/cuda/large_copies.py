"""The ring of pinned memory that large copies of all streams share, and its threads; taken when first needed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cupy
from cupy.cuda import runtime

from kaasq_workers.devices.cuda.bulk import BulkRing

FROM_BYTES = 8 << 20  # below, a stream's own staging is as fast and lets the caller go on
SLOT_BYTES = 4 << 20
SLOTS = 12
MOST_THREADS = 8


class _Event:
    """A slot's event, in whichever stream uses it."""

    def __init__(self) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)

    def record(self, stream: int) -> None:
        runtime.eventRecord(self._event.ptr, stream)

    def synchronize(self) -> None:
        runtime.eventSynchronize(self._event.ptr)


class LargeCopies:
    """One device's ring."""

    def __init__(self) -> None:
        self._pinned: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._ring: BulkRing | None = None

    @property
    def ring(self) -> BulkRing:
        """The ring. Raises CUDA's errors where there is no memory to pin."""
        if self._ring is None:
            self._pinned = cupy.cuda.PinnedMemory(SLOTS * SLOT_BYTES)
            count = min(MOST_THREADS, max(1, len(os.sched_getaffinity(0)) // 2))
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="kaasq-copy")
            self._ring = BulkRing(self._pinned.ptr, SLOT_BYTES, [_Event() for _ in range(SLOTS)], self._threads)
        return self._ring

    def close(self) -> None:
        """End the threads. Nothing may be on its way."""
        if self._threads is not None:
            self._threads.shutdown()
        self._ring = self._threads = self._pinned = None
