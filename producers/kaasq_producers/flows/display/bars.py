"""When each item ran where, from its timings: bars in lanes, a lane for each worker. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kaasq.flows.model import ItemStatus
from kaasq.messages import WorkerInfo
from kaasq_producers.flows.display.words import BETWEEN, PARTS

EXACT_US = 1000
"""``ended_ms`` says no more. What overlaps by less may have run one after the other, and is drawn so."""


@dataclass(frozen=True, slots=True)
class Bar:
    """An item on its worker, from when that took it to its end; times in microseconds since the epoch.

    ``queued_us``: how long it waited before. ``lengths``: of each of ``PARTS``.
    """

    item: ItemStatus
    begin_us: int
    queued_us: int
    lengths: dict[str, int]

    @property
    def end_us(self) -> int:
        return self.begin_us + sum(self.lengths.values())

    def parts(self) -> Iterator[tuple[str, int, int]]:
        """Each part that took time: which, its begin, its length."""
        begin = self.begin_us
        for name, length in self.lengths.items():
            if length:
                yield name, begin, length
            begin += length


@dataclass(frozen=True, slots=True)
class Lane:
    """What ran on one worker. In a row, no two bars overlap. ``left_out``: bars for which there was no row."""

    worker: WorkerInfo
    rows: list[list[Bar]]
    left_out: int


def bar_of(item: ItemStatus) -> Bar | None:
    """The bar of an item; None where it is not known when or where it ran.

    It ends as the item ended and is as long as ``total``, which includes ``queued`` and ``commit``. What the parts
    leave of that was spent on the worker around them; it is drawn before the commit.
    """
    timings = item.timings
    if timings is None or item.worker is None or item.ended_ms is None:
        return None
    queued = max(0, timings.queued)
    lengths = {name: 0 if name == BETWEEN else max(0, getattr(timings, name)) for name in PARTS}
    known = sum(lengths.values())
    ran = max(timings.total - queued, known)  # device and host measure with clocks of their own
    if not ran:
        return None
    lengths[BETWEEN] = ran - known
    return Bar(item, item.ended_ms * 1000 - ran, queued, lengths)


def lanes(items: Iterable[ItemStatus], most_rows: int | None = None) -> list[Lane]:
    """A lane for each worker, by host and device. What runs beside others is in further rows, up to ``most_rows``."""
    found: dict[tuple[str, str, int], tuple[WorkerInfo, list[Bar]]] = {}
    for item in items:
        bar = bar_of(item)
        if bar is not None and item.worker is not None:
            worker = item.worker
            found.setdefault((worker.host, worker.device, worker.pid), (worker, []))[1].append(bar)
    return [Lane(worker, *_rows(bars, most_rows)) for _, (worker, bars) in sorted(found.items())]


def _rows(bars: list[Bar], most: int | None) -> tuple[list[list[Bar]], int]:
    rows: list[list[Bar]] = []
    ends: list[int] = []
    left_out = 0
    for bar in sorted(bars, key=lambda each: (each.begin_us, each.item.number)):
        fits = [(end, row) for row, end in enumerate(ends) if end <= bar.begin_us + EXACT_US]
        # the row that became free last, but rather without moving the bar
        row = max(fits, key=lambda each: (each[0] <= bar.begin_us, each), default=(0, None))[1]
        if row is not None:
            rows[row].append(replace(bar, begin_us=max(bar.begin_us, ends[row])))
        elif most is None or len(rows) < most:
            row = len(rows)
            rows.append([bar])
            ends.append(0)
        else:
            left_out += 1
            continue
        ends[row] = rows[row][-1].end_us
    return rows, left_out
