"""Measures several sides in turn, round by round, so that a machine's moods hit all of them. Times calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def interleaved(rounds: int, sides: Mapping[str, Callable[[], T]], *, warm_up: bool = True) -> dict[str, list[T]]:
    """What each side gave in each round. Another side begins each round; a first round for warming up is left out."""
    names = list(sides)
    given: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds + warm_up):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            value = sides[name]()
            if turn >= warm_up:
                given[name].append(value)
    return given


def seconds(call: Callable[[], object]) -> float:
    """How long one call took."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def us_per_call(call: Callable[[], object], budget_s: float, *, at_least: int = 3, batch: int = 1) -> float:
    """Microseconds per call, of as many as fit into the budget; ``batch`` of them between two looks at the clock."""
    done = 0
    start = time.perf_counter()
    while (spent := time.perf_counter() - start) < budget_s or done < at_least:
        for _ in range(batch):
            call()
        done += batch
    return spent / done * 1e6


def median_us(call: Callable[[], object], count: int) -> float:
    """Microseconds of the middle one of so many calls."""
    return statistics.median(seconds(call) for _ in range(count)) * 1e6
