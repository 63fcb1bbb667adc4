"""A time axis: where its ticks are, and what they say. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

MOST_TICKS = 9
SECOND, MINUTE, HOUR, DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
STEPS_US = [*(base * 10**power for power in range(7) for base in (1, 2, 5)), 10 * SECOND, 15 * SECOND, 30 * SECOND]
STEPS_US += [*(each * MINUTE for each in (1, 2, 5, 10, 15, 30)), *(each * HOUR for each in (1, 2, 3, 6, 12))]


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``begin_us`` to ``end_us`` over ``width`` units from ``left`` on; ticks count from ``zero_us``."""

    zero_us: int
    begin_us: int
    end_us: int
    left: float
    width: float

    def x(self, us: float) -> float:
        """Where a time is drawn; what is beyond the ends, at the end."""
        share = (us - self.begin_us) / max(1, self.end_us - self.begin_us)
        return self.left + self.width * min(1.0, max(0.0, share))

    def ticks(self) -> list[tuple[float, str]]:
        """Where, and what is written there: round times since the start."""
        span = max(1, self.end_us - self.begin_us)
        step = next((each for each in STEPS_US if span / each <= MOST_TICKS), 0)
        if not step:  # days: as round as they get
            days = span / MOST_TICKS / DAY
            power = 10 ** math.floor(math.log10(max(1.0, days)))
            step = math.ceil(days / power) * power * DAY
        first = math.ceil((self.begin_us - self.zero_us) / step)
        last = (self.end_us - self.zero_us) // step
        return [(self.x(self.zero_us + each * step), tick(each * step, step)) for each in range(first, last + 1)]


def tick(us: int, step_us: int) -> str:
    """A time since the start, as exact as the ticks are: ``0``, ``1.5 s``, ``2:30 min``, ``1:15 h``."""
    if us == 0:
        return "0"
    sign, us = ("-", -us) if us < 0 else ("", us)
    if us < 1000 or (step_us < 10 and us < SECOND):
        words = f"{us} µs"
    elif us < SECOND:
        words = f"{us / 1000:g} ms"
    elif us < MINUTE:
        words = f"{us / SECOND:g} s"
    elif us < HOUR:
        minutes, rest = divmod(us, MINUTE)
        words = f"{minutes}:{rest // SECOND:02} min"
    elif us < 2 * DAY:
        hours, rest = divmod(us, HOUR)
        words = f"{hours}:{rest // MINUTE:02} h"
    else:
        words = f"{us / DAY:g} d"
    return sign + words
