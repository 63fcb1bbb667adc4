"""How long an executor has given no sign of life, and whether that means that it is stuck. Pure.

Silence is counted in looks, each worth no more than ``MOST_S``: a front that stood still itself (a paused container, a
suspended machine) has not seen anything, and must not take its own absence for the executor's.
"""

from __future__ import annotations

from collections import deque

MOST_S = 1.0  # that one look adds


class Silence:
    """For how long a value has stood still."""

    def __init__(self) -> None:
        self._value: int | None = None
        self._looked_s = 0.0
        self.seconds = 0.0

    def look(self, value: int | None, now_s: float) -> None:
        """The value now; None: it need not move."""
        if value is None or value != self._value:
            self._value, self.seconds = value, 0.0
        else:
            self.seconds += min(max(0.0, now_s - self._looked_s), MOST_S)
        self._looked_s = now_s


class StartPatience:
    """For how long an executor may start: ``most_s``, until it is known how long it takes.

    Then ``TIMES`` as long as the slowest of the last ``LAST`` took, and twice that after each that was not ready by
    then: what hangs in a driver is not waited for like a first start, and a host that has become slow gets its time in
    the end.
    """

    LEAST_S = 15.0
    TIMES = 10.0
    LAST = 5

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._took_s: deque[float] = deque(maxlen=self.LAST)
        self._times = 1.0

    @property
    def seconds(self) -> float:
        """For the next one."""
        if not self._took_s:
            return self._most_s
        return min(self._most_s, max(self.LEAST_S, self.TIMES * max(self._took_s)) * self._times)

    def ready(self, took_s: float) -> None:
        """One was ready after so long."""
        self._took_s.append(took_s)
        self._times = 1.0

    def late(self) -> None:
        """One was not ready in time."""
        if self.seconds < self._most_s:
            self._times *= 2.0


class Vigil:
    """What is known of the life of one executor, from its start on."""

    def __init__(self, *, start_timeout_s: float, timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._timeout_s = timeout_s
        self._start = Silence()
        self._loop = Silence()
        self._process = Silence()

    def look(self, *, up: bool, turns: int, pulse: int, running: bool, now_s: float) -> str | None:
        """Why it counts as stuck, for people; None if it does not.

        While a request is running the loop may stand still: for that there are deadlines.
        """
        self._process.look(pulse or None, now_s)  # before the first beat it still loads what it needs
        self._start.look(None if up else 0, now_s)
        self._loop.look(turns if up and not running else None, now_s)
        if self._process.seconds > self._timeout_s:
            return f"its process stood still for {self._timeout_s:g} s"
        if self._start.seconds > self._start_timeout_s:
            return f"it was not ready within {self._start_timeout_s:g} s"
        if self._loop.seconds > self._timeout_s:
            return f"it did nothing for {self._timeout_s:g} s, though no request was running"
        return None
