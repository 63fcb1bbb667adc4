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
    return "" if row.bar is None else f"{bar_words(row)}: {'met' if row.bar.met(row) else 'NOT met'}"


def bar_words(row: Row) -> str:
    """The bar; nothing where there is none."""
    if row.bar is None:
        return ""
    unit = "x" if row.bar.of == "ratio" else f" {row.unit}".rstrip()
    return f"{'<=' if row.bar.sense == 'at most' else '>='} {row.bar.limit:g}{unit}"


def kaasq_words(row: Row) -> str:
    """Kaasq's figure."""
    return _figure(row.kaasq, row.unit)


def beside_words(row: Row) -> str:
    """The peer's figure and its name; nothing where there is none."""
    return "" if row.beside is None else f"{_figure(row.beside, row.unit)} {row.peer}"


def ratio_words(row: Row) -> str:
    """The ratio with its spread; nothing where there is none."""
    if row.ratio is None:
        return ""
    return f"{number(row.ratio.median)} ({number(row.ratio.low)}-{number(row.ratio.high)})"


def number(value: float) -> str:
    """Three digits or more."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row: Row) -> Sequence[str]:
    return (row.what, kaasq_words(row), beside_words(row), ratio_words(row), verdict(row))


def _figure(spread: Spread, unit: str) -> str:
    return f"{number(spread.median)} {unit}".rstrip()


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    given = list(rows)
    widths = [max(len(row[i]) for row in given) for i in range(len(HEAD))]
    return [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in given]
