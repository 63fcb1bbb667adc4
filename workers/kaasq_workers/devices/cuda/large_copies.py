"""The pinned memory that large copies of all streams share, and their threads; taken when first needed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cupy
from cupy.cuda import runtime

from kaasq_workers.devices.cuda.bulk import SLOTS_EACH, BulkCopies

FROM_BYTES = 4 << 20  # below, a stream's own staging is as fast and lets the caller go on
SLOT_BYTES = 4 << 20
LEAST_BYTES = 2 << 20  # of a piece: each costs the threads some 20 us in which they wait for one another
MOST_THREADS = 12  # more are no faster on sixteen cores


class _Event:
    """A slot's event, in whichever stream uses it."""

    def __init__(self) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)

    def record(self, stream: int) -> None:
        runtime.eventRecord(self._event.ptr, stream)

    def synchronize(self) -> None:
        runtime.eventSynchronize(self._event.ptr)


class LargeCopies:
    """One device's."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._pinned: Any = None
        self._threads: ThreadPoolExecutor | None = None
        self._copies: BulkCopies | None = None

    @property
    def copies(self) -> BulkCopies:
        """What does them. Raises CUDA's errors where there is no memory to pin."""
        if self._copies is None:
            count = min(MOST_THREADS, len(os.sched_getaffinity(0)))
            self._pinned = cupy.cuda.PinnedMemory(count * SLOTS_EACH * SLOT_BYTES)
            self._threads = ThreadPoolExecutor(
                count, "kaasq-copy", initializer=runtime.setDevice, initargs=(self._index,)
            )
            events = [_Event() for _ in range(count * SLOTS_EACH)]
            self._copies = BulkCopies(self._pinned.ptr, SLOT_BYTES, events, self._threads, least_bytes=LEAST_BYTES)
        return self._copies

    def close(self) -> None:
        """End the threads. Nothing may be on its way."""
        if self._threads is not None:
            self._threads.shutdown()
        self._copies = self._threads = self._pinned = None
