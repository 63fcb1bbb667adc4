"""Draws a part's ratios: one line each, from the least to the greatest round, with the bars."""

from __future__ import annotations

from pathlib import Path

from kaasq_bench.figures import Row
from kaasq_bench.suite import PartReport

LINE_INCH = 0.24
MET, MISSED, PLAIN = "#2a7f4f", "#c0392b", "#34495e"


def draw(report: PartReport, subtitle: str, path: Path) -> bool:
    """Write the picture as PNG; False where there is no ratio to draw. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window, wherever this runs
    import matplotlib.pyplot as plt

    rows = [row for row in report.rows if row.ratio is not None and row.ratio.low > 0]
    if not rows:
        return False
    figure, axes = plt.subplots(figsize=(11, 1.6 + LINE_INCH * len(rows)))
    try:
        for y, row in enumerate(rows):
            assert row.ratio is not None
            colour = _colour(row)
            axes.plot([row.ratio.low, row.ratio.high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot(row.ratio.median, y, "o", color=colour, markersize=5)
            if row.bar is not None and row.bar.of == "ratio":
                marker = "<" if row.bar.sense == "at most" else ">"
                axes.plot(row.bar.limit, y, marker=marker, color="black", markersize=6, fillstyle="none")
        axes.set_xscale("log")
        axes.axvline(1.0, color="#bbbbbb", linewidth=1, zorder=0)
        axes.set_yticks(range(len(rows)), [f"{row.what}  /  {row.peer}" for row in rows], fontsize=7)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", which="both", color="#eeeeee", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(
            "kaasq / peer: median, least and greatest round; triangle: the bar, pointing to where it is met"
        )
        axes.set_title(f"{report.part}: {subtitle}", fontsize=9)
        figure.tight_layout()
        figure.savefig(path, dpi=130)
    finally:
        plt.close(figure)
    return True


def _colour(row: Row) -> str:
    if row.bar is None:
        return PLAIN
    return MET if row.bar.met(row) else MISSED
