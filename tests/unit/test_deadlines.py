"""One timer for many deadlines, on a clock that the test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kaasq_producers.deadlines import COARSENESS_S, Deadlines


class Bench:
    """A clock, the timers that were asked for on it, and the pending deadlines."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pending: list[float] = []
        self.looks: list[float] = []
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self.deadlines = Deadlines(self, self._expire, lambda: self.now)  # type: ignore[arg-type]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        timer: Any = (self.now + delay_s, callback)
        self._timers.append(timer)
        return lambda: self._timers.remove(timer)

    def add(self, *deadlines: float) -> None:
        for each in deadlines:
            self.pending.append(each)
            self.deadlines.add(each)

    def run_until(self, end: float) -> None:
        while self._timers and min(self._timers)[0] <= end:
            timer = min(self._timers)
            self._timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end

    @property
    def timers(self) -> int:
        return len(self._timers)

    def _expire(self, now: float) -> float | None:
        self.looks.append(now)
        self.pending = [each for each in self.pending if each > now]
        return min(self.pending, default=None)


def test_each_deadline_is_looked_at_when_it_is_due() -> None:
    bench = Bench()
    bench.add(3.0, 1.0, 5.0, 2.0, 1.0)
    bench.run_until(4.0)
    assert bench.looks == pytest.approx([1.0, 2.0, 3.0])
    assert bench.pending == [5.0]
    assert bench.timers == 1


def test_equal_timeouts_need_one_timer_however_many_there_are() -> None:
    bench = Bench()
    bench.add(*(1.0 + i / 1000 for i in range(100)))
    assert bench.timers == 1
    bench.run_until(2.0)
    assert not bench.pending
    assert len(bench.looks) <= 0.1 / COARSENESS_S + 1
    assert bench.timers == 0


def test_deadline_that_is_over_is_looked_at_soon() -> None:
    bench = Bench()
    bench.run_until(10.0)
    bench.add(5.0)
    bench.run_until(11.0)
    assert bench.looks == pytest.approx([10.0 + COARSENESS_S])


def test_cancelled_deadlines_never_call_again() -> None:
    bench = Bench()
    bench.add(1.0)
    bench.deadlines.cancel()
    bench.add(2.0)
    bench.run_until(3.0)
    assert bench.looks == []
