"""Large arrays in blocks that fit the cache, spread over the cores: NumPy's loops release the GIL.

Blocks never depend on how many cores there are, so neither does any result.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Block = tuple[slice, ...]

BLOCK_BYTES = 120 << 10  # several fit a core's second-level cache, and malloc maps no fresh pages for them (128 KiB)
PASS_BYTES = 512 << 10  # where one pass over the data is all
SPREAD_BYTES = 2 << 20  # what is smaller is done before another thread has woken up


def blocks(shape: Sequence[int], limit: int) -> list[Block]:
    """Slices that cover an array of that shape in C order, each of at most ``limit`` elements (and at least one)."""
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= limit:
        axis -= 1
        inner *= shape[axis]
    whole = tuple(slice(0, size) for size in shape[axis:])
    if axis == 0:
        return [whole]
    step = max(1, limit // inner)
    cut = [slice(start, min(start + step, shape[axis - 1])) for start in range(0, shape[axis - 1], step)]
    outer = itertools.product(*([slice(i, i + 1) for i in range(size)] for size in shape[: axis - 1]))
    return [(*before, each, *whole) for before in outer for each in cut]


def spread(tasks: Sequence[Block], work: Callable[[Block], None], nbytes: int) -> None:
    """Do the work for each block, with all cores if ``nbytes``, what it touches, makes it worth that."""
    threads = min(_threads(), len(tasks))
    if threads < 2 or nbytes < SPREAD_BYTES:
        for task in tasks:
            work(task)
        return
    pending = iter(tasks)  # shared: who is done takes the next

    def share() -> None:
        with np.errstate(all="ignore"):  # which each thread has of its own
            for task in pending:
                work(task)

    others = [_pool().submit(share) for _ in range(threads - 1)]
    try:
        share()
    finally:
        wait(others)  # also after a failure: they write into memory that is about to be freed
    for each in others:
        each.result()


def per_block(itemsize: int, width: int = 1) -> int:
    """How many lines of ``width`` elements make up a block of several steps, in which float16 is widened."""
    return max(1, BLOCK_BYTES // (max(itemsize, 4) * width))


def per_pass(itemsize: int, width: int = 1) -> int:
    """The same for a single step."""
    return max(1, PASS_BYTES // (itemsize * width))


def lanes(x: Array, axis: int) -> Array:
    """A contiguous array seen as (before, along ``axis``, behind)."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)


def lane_blocks(seen: Array, *, once: bool = False) -> list[Block]:
    """Blocks of whole lanes, of ``lanes(x, axis)``; neighbours together, since they share cache lines."""
    before, along, behind = seen.shape
    limit = max((per_pass if once else per_block)(seen.itemsize, along), min(behind, 64))
    return [(outer, slice(None), inner) for outer, inner in blocks((before, behind), limit)]


def _threads() -> int:
    return len(os.sched_getaffinity(0))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, _threads() - 1), thread_name_prefix="kaasq-cpu")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of its threads
