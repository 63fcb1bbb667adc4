"""Which of a report's rows a picture shows, and how they are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from kaasq_bench.figures import Row

MOST_ROWS = 34  # what fits on a screen
MARGIN = 1.25
NUMBER = re.compile(r"\b\d[\d.,]*\b( [KMG]iB)?")


def chosen(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Row]:
    """All rows with a ratio or a bar, in their order, if there are no more than ``most``.

    Otherwise those with bars, even where they alone are more than ``most``; and of what is needed to read them, then of
    the rest, each group that fits as a whole. Of bars that are met and have no mark, each series has its last alone.
    """
    given = [row for row in rows if row.ratio is not None or row.bar is not None]
    if len(given) <= most:
        return given
    largest = {(_series(row), row.peer): row for row in given}  # the last of each, as sizes grow
    given = [row for row in given if not _says_little(row) or largest[_series(row), row.peer] is row]
    taken = _places(given, [row for row in given if row.bar is not None])
    for wanted in _groups(given, list(largest.values())):
        if len(taken | wanted) <= most:
            taken |= wanted
    return [row for i, row in enumerate(given) if i in taken] or given[:most]


def by_peer(rows: Iterable[Row]) -> dict[str | None, list[Row]]:
    """Rows beside each peer, in the order in which the peers come first; without a peer last."""
    found: dict[str | None, list[Row]] = {}
    for row in sorted(rows, key=lambda each: each.peer is None):
        found.setdefault(row.peer, []).append(row)
    return found


def has_mark(row: Row) -> bool:
    """Whether its ratio has a place on a log axis."""
    return row.ratio is not None and row.ratio.median > 0


def limits(rows: Iterable[Row]) -> tuple[float, float]:
    """Ends of the log axis: around what is drawn, its bars, and 1."""
    ends = [1.0]
    for row in rows:
        if row.ratio is not None and has_mark(row):
            ends += [row.ratio.low or row.ratio.median, row.ratio.high]
        if row.bar is not None and row.bar.of == "ratio":
            ends.append(row.bar.limit)
    return min(ends) / MARGIN, max(ends) * MARGIN


def more_is_better(row: Row) -> bool:
    """Whether a greater ratio is a better one."""
    if row.bar is not None:
        return row.bar.sense == "at least"
    return row.unit.endswith("/s") or not row.unit  # rates and shares; the others are times and bytes


def _says_little(row: Row) -> bool:
    """A bar that is met, and no mark."""
    return row.bar is not None and row.bar.met(row) and not has_mark(row)


def _groups(rows: Sequence[Row], largest: Sequence[Row]) -> Iterator[set[int]]:
    """Places of what is wanted next to the bars, then next, and so on."""
    barred = [row for row in rows if row.bar is not None]
    whats = {row.what for row in barred}
    yield _places(rows, [row for row in rows if row.what in whats])  # the same beside the other peers
    subjects = {_subject(row) for row in barred}
    yield _places(rows, [row for row in rows if _subject(row) in subjects])  # its other figures
    yield _places(rows, largest)
    fastest: dict[str, Row] = {}
    for row in largest:
        best = fastest.setdefault(row.what, row)
        if row.beside is not None and best.beside is not None and _faster(row, row.beside.median, best.beside.median):
            fastest[row.what] = row
    yield _places(rows, fastest.values())


def _places(rows: Sequence[Row], some: Iterable[Row]) -> set[int]:
    wanted = {id(row) for row in some}
    return {i for i, row in enumerate(rows) if id(row) in wanted}


def _subject(row: Row) -> str:
    return row.what.rpartition(": ")[0] or row.what


def _series(row: Row) -> str:
    return NUMBER.sub("#", row.what)


def _faster(row: Row, figure: float, than: float) -> bool:
    return figure > than if more_is_better(row) else figure < than
