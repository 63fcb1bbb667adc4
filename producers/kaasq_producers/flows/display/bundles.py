"""Bars that would be too narrow to see, drawn together: a picture's size does not grow with the items. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kaasq_producers.flows.display.axis import Axis
from kaasq_producers.flows.display.bars import Bar
from kaasq_producers.flows.display.words import PARTS

NARROW = 3.0  # units of the picture
CLOSE = 1.0


@dataclass(slots=True)
class Bundle:
    """Neighbours in a row: one, or several that are narrow and close. ``lengths`` are of all of them, in each part."""

    begin_us: int
    end_us: int
    bars: list[Bar] = field(default_factory=list)
    lengths: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))

    def add(self, bar: Bar) -> None:
        self.bars.append(bar)
        self.end_us = bar.end_us
        for name, length in bar.lengths.items():
            self.lengths[name] += length


def bundled(row: Iterable[Bar], axis: Axis) -> Iterator[Bundle]:
    """The bars of a row, in their order."""
    current: Bundle | None = None
    for bar in row:
        if current is not None and not _narrow(current, bar, axis):
            yield current
            current = None
        if current is None:
            current = Bundle(bar.begin_us, bar.end_us)
        current.add(bar)
    if current is not None:
        yield current


def _narrow(current: Bundle, bar: Bar, axis: Axis) -> bool:
    begin, end = axis.x(current.begin_us), axis.x(current.end_us)
    return end - begin < NARROW and axis.x(bar.begin_us) - end < CLOSE and axis.x(bar.end_us) - begin < 2 * NARROW
