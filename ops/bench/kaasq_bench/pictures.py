"""Draws a report's ratios: a row each, grouped by peer, with the spread, the bar, and whether it is met."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kaasq_bench.figures import Row
from kaasq_bench.picture_rows import by_peer, chosen, has_mark, limits, more_is_better
from kaasq_bench.report import Report, summary
from kaasq_bench.table import bar_words, kaasq_words, number, ratio_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_INCH, PLOT_INCH, LEGEND_INCH, DPI = 0.22, 5.2, 0.45, 110
TEXT, HEADING, TITLE = 8.0, 9.0, 12.0  # points
MET, MISSED, PLAIN = "#1a7f37", "#c62828", "#5f6b76"
MET_SIDE, LINES, PARITY = "#dff3e4", "#e9ebed", "#9aa3ab"
COLOURS = 256  # of the file: a third of the bytes
TICKS = {10.0: (1, 1.5, 2, 3, 5, 7), 100.0: (1, 2, 5)}  # of each decade, on axes that are shorter than that
LABEL, FIGURE, BAR, VERDICT = -0.02, 1.02, 1.31, 1.45  # where words stand, in widths of the plot
BAR_HALF = 0.42  # of a row
SIGNS = str.maketrans({"<": "\N{LESS-THAN OR EQUAL TO}", ">": "\N{GREATER-THAN OR EQUAL TO}", "=": None})
UP, DOWN, OVER, DOT = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}", "\N{DIVISION SIGN}", " \N{MIDDLE DOT} "


def draw(report: Report, path: Path) -> bool:
    """Write the picture as PNG; False where there is no ratio to draw. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")  # no window, wherever this runs
    import matplotlib.pyplot as plt
    from PIL import Image  # which matplotlib itself needs

    rows = chosen(report.part.rows)
    if not any(has_mark(row) for row in rows):
        return False
    groups = by_peer(rows)
    count = len(rows) + len(groups)
    figure, axes = plt.subplots(figsize=(PLOT_INCH, ROW_INCH * count), facecolor="white")
    try:
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)  # "tight" makes room for all words around it
        _axis(axes, rows)
        axes.set_ylim(count - 0.5, -0.5)
        y = 0
        for peer, members in groups.items():
            heading = f"beside {peer.removeprefix('with ')}" if peer else "without a peer"
            _word(axes, LABEL, y, heading, size=HEADING, weight="bold")
            for y, row in enumerate(members, y + 1):  # noqa: B020 - goes on where the group before ended
                _marks(axes, y, row)
                _words(axes, y, row)
            y += 1
        _legend(axes, rows, ROW_INCH * count)
        _title(axes, report, len(rows))
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
    finally:
        plt.close(figure)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    return True


def _axis(axes: Axes, rows: list[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = limits(rows)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = next((some for length, some in TICKS.items() if high / low < length), (1,))
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=TEXT)
    axes.set_yticks([])
    axes.grid(axis="x", which="major", color=LINES, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.axvline(1.0, color=PARITY, linewidth=1, zorder=1)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlabel(f"kaasq {OVER} peer, on a log axis ({UP} more is better, {DOWN} less is better)", fontsize=TEXT)


def _marks(axes: Axes, y: int, row: Row) -> None:
    """The bar and the side on which it is met; the rounds from least to greatest; the median."""
    left, right = axes.get_xlim()
    axes.axhline(y, color=LINES, linewidth=0.7, zorder=0.4)
    if row.bar is not None and row.bar.of == "ratio":
        end = left if row.bar.sense == "at most" else right
        height = (y - BAR_HALF, y + BAR_HALF)
        axes.fill_betweenx(height, row.bar.limit, end, color=MET_SIDE, linewidth=0, zorder=0.5)
        axes.plot([row.bar.limit] * 2, height, color="black", linewidth=1.4, zorder=2)
    if row.ratio is not None and has_mark(row):
        colour, shape = _look(row)
        spread = [max(row.ratio.low, left), row.ratio.high]  # a least of 0 lies beyond every log axis
        axes.plot(spread, [y, y], marker="|", color=colour, linewidth=1.6, markersize=5, zorder=3)
        axes.plot(row.ratio.median, y, shape, zorder=4, **_mark(colour, filled=row.bar is not None))


def _words(axes: Axes, y: int, row: Row) -> None:
    """What it is, its figures, its bar and the verdict."""
    _word(axes, LABEL, y, f"{row.what} {UP if more_is_better(row) else DOWN}")
    figures = ratio_words(row)
    if row.ratio is None:
        figures = kaasq_words(row)
    elif row.bar is not None and row.bar.of == "value":
        figures = f"ratio {number(row.ratio.median)}; {kaasq_words(row)}"
    _word(axes, FIGURE, y, figures)
    if row.bar is not None:
        met = row.bar.met(row)
        _word(axes, BAR, y, bar_words(row).translate(SIGNS))
        _word(axes, VERDICT, y, "met" if met else "NOT met", color=_look(row)[0], weight="normal" if met else "bold")


def _word(
    axes: Axes, x: float, y: float, text: str, *, size: float = TEXT, weight: str = "normal", color: str = "black"
) -> None:
    axes.text(
        x,
        y,
        text,
        transform=axes.get_yaxis_transform(),
        ha="right" if x < 0 else "left",
        va="center",
        fontsize=size,
        weight=weight,
        color=color,
    )


def _legend(axes: Axes, rows: list[Row], height_inch: float) -> None:
    """Of the marks that there are."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    meanings = {(MET, "o"): "met", (MISSED, "X"): "not met", (PLAIN, "o"): "no bar"}
    looks = {_look(row) for row in rows if has_mark(row)}
    handles: list[Line2D | Patch] = [
        Line2D([], [], linestyle="none", marker=shape, label=label, **_mark(colour, filled=colour != PLAIN))
        for (colour, shape), label in meanings.items()
        if (colour, shape) in looks
    ]
    if any(row.bar is not None and row.bar.of == "ratio" for row in rows):
        handles += [
            Line2D([], [], color="black", marker="|", markersize=9, linestyle="none", label="the bar"),
            Patch(color=MET_SIDE, label="where it is met"),
        ]
    place = (0.5, -LEGEND_INCH / height_inch)
    axes.legend(
        handles=handles, ncols=len(handles), loc="upper center", bbox_to_anchor=place, frameon=False, fontsize=TEXT
    )


def _title(axes: Axes, report: Report, shown: int) -> None:
    machine, part = report.machine, report.part
    gpu = f"{machine.gpu.partition(',')[0]}, " if machine.gpu else ""
    broker = [f"RabbitMQ {report.broker}"] if report.broker else []
    rounds = f"median, least and greatest of {report.rounds} rounds{', quick' if report.quick else ''}"
    lines = [
        f"{gpu}{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, load {machine.load:g} before",
        DOT.join([report.date, f"device {report.device}", *broker, rounds]),
    ]
    if shown < len(part.rows):
        lines.append(f"{shown} of {len(part.rows)} rows; all are in the figures")
    if part.broken:
        lines.append(f"broken: {', '.join(part.broken)}")
    common: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "ha": "center",
        "va": "bottom",
    }
    axes.annotate("\n".join(lines), (0.5, 1), xytext=(0, 8), fontsize=TEXT, color=PLAIN, **common)
    above = 18 + 1.3 * TEXT * len(lines)
    verdict = summary([part]).rstrip(".")
    title = f"{part.part}: {verdict[0].lower()}{verdict[1:]}"
    axes.annotate(title, (0.5, 1), xytext=(0, above), fontsize=TITLE, weight="bold", **common)


def _mark(colour: str, *, filled: bool) -> dict[str, Any]:
    """A mark with a rim that sets it off from its line."""
    return {
        "color": colour,
        "markerfacecolor": colour if filled else "white",
        "markeredgecolor": "white" if filled else colour,
        "markeredgewidth": 0.8 if filled else 1.2,
        "markersize": 8.5 if filled else 6.5,
    }


def _look(row: Row) -> tuple[str, str]:
    """Colour and shape."""
    if row.bar is None:
        return PLAIN, "o"
    return (MET, "o") if row.bar.met(row) else (MISSED, "X")
