"""The suite's report as text: ``what | kaasq | peer | ratio (min-max) | bar``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kaasq_bench.figures import Row, Spread
from kaasq_bench.suite import PartReport

HEAD = ("what", "kaasq", "peer", "ratio (min-max)", "bar")


def table(report: PartReport) -> str:
    """A part's rows, then what it left out and what broke."""
    lines = [f"\n{report.part} ({report.took_s:.0f} s)", *_aligned([HEAD, *(_cells(each) for each in report.rows)])]
    lines += [f"left out: {case}: {reason}" for case, reason in report.left_out.items()]
    lines += [f"BROKEN: {case}: {reason}" for case, reason in report.broken.items()]
    return "\n".join(lines)


def verdict(row: Row) -> str:
    """The bar and whether it is met; nothing where there is none."""
    if row.bar is None:
        return ""
    unit = "x" if row.bar.of == "ratio" else f" {row.unit}".rstrip()
    sign = "<=" if row.bar.sense == "at most" else ">="
    return f"{sign} {row.bar.limit:g}{unit}: {'met' if row.bar.met(row) else 'NOT met'}"


def number(value: float) -> str:
    """Three digits or more."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row: Row) -> Sequence[str]:
    return (row.what, _figure(row.kaasq, row.unit), _beside(row), _ratio(row.ratio), verdict(row))


def _figure(spread: Spread, unit: str) -> str:
    return f"{number(spread.median)} {unit}".rstrip()


def _beside(row: Row) -> str:
    return "" if row.beside is None else f"{_figure(row.beside, row.unit)} {row.peer}"


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    given = list(rows)
    widths = [max(len(row[i]) for row in given) for i in range(len(HEAD))]
    return [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in given]
