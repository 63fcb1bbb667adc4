"""Draws the demo's picture: before, after, the brightness histogram, and where the microseconds went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from kaasq.units import duration
from kaasq_producers.demo.execution import Execution, Run
from kaasq_producers.demo.photo import Photo
from kaasq_producers.demo.pipeline import Bytes
from kaasq_producers.demo.reference import Counts

DPI = 160
NIGHT, INK, MUTED, FAINT = "#0b0d18", "#eceaf4", "#8f90a8", "#2a2c40"
CYAN, AMBER = "#4fd6f5", "#ffb454"
TONES = LinearSegmentedColormap.from_list("tones", ["#2b2f5c", "#6f66a8", "#cfc6ee"])

# Inches.
IMAGE_AREA = 23.0
IMAGE_WIDTH = (4.6, 6.6)
IMAGE_HEIGHT = (2.6, 5.6)
MARGIN, GUTTER = 0.62, 0.42
HEADER, CAPTION, CHART, FOOTER = 1.42, 0.86, 2.25, 0.62
CAPTION_LETTERS = 52

STAGES = (
    ("queue", "waiting in the queue"),
    ("load", "loading the module"),
    ("h2d", "copying in, clearing"),
    ("kernel", "running the kernels"),
    ("d2h", "copying out"),
    ("commit", "committing the outcome"),
    ("client", "client and messages"),
)

STYLE: Any = {  # Matplotlib types the keys as literals, which a plain dict is not
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": NIGHT,
    "figure.facecolor": NIGHT,
    "savefig.facecolor": NIGHT,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


def draw(path: Path, photo: Photo, after: Bytes, histogram: Counts, execution: Execution, facts: str) -> None:
    """Write the PNG, with ``facts`` below its title. Raises OSError."""
    with mpl.rc_context(STYLE):
        page = _Page(*photo.pixels.shape[:2])
        page.figure.text(*page.at(0, 0.80), "Edges as light", fontsize=25, fontweight="bold")
        page.figure.text(*page.at(0, 1.13), facts, fontsize=11, color=MUTED)
        _image(page.image(0), photo.pixels, "Before", photo.caption)
        _image(page.image(1), after, "After", "upright edges shine blue, level ones amber")
        _tones(page.chart(0), histogram)
        _stages(page.chart(1), execution)
        page.figure.savefig(path, format="png", dpi=DPI)


class _Page:
    """The layout: two columns, as wide as the pictures need, measured in inches from the top left."""

    def __init__(self, height: int, width: int) -> None:
        aspect = width / height
        self.column = float(np.clip((IMAGE_AREA * aspect) ** 0.5, *IMAGE_WIDTH))
        self.tall = float(np.clip(self.column / aspect, *IMAGE_HEIGHT))
        self.width = 2 * MARGIN + 2 * self.column + GUTTER
        self.height = HEADER + self.tall + CAPTION + CHART + FOOTER
        self.figure = Figure(figsize=(self.width, self.height), dpi=DPI)

    def at(self, right: float, down: float) -> tuple[float, float]:
        return (MARGIN + right) / self.width, 1 - down / self.height

    def image(self, column: int) -> Axes:
        return self._axes(column, HEADER, self.tall)

    def chart(self, column: int) -> Axes:
        return self._axes(column, HEADER + self.tall + CAPTION, CHART)

    def _axes(self, column: int, top: float, tall: float) -> Axes:
        left, bottom = self.at(column * (self.column + GUTTER), top + tall)
        return self.figure.add_axes((left, bottom, self.column / self.width, tall / self.height))


def _image(axes: Axes, pixels: Bytes, name: str, caption: str) -> None:
    axes.imshow(pixels, interpolation="antialiased")
    axes.set_anchor("NW")
    axes.set_axis_off()
    if len(caption) > CAPTION_LETTERS:
        caption = caption[: CAPTION_LETTERS - 1] + "…"
    below: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "baseline"}
    axes.annotate(name, (0, 0), (0, -17), fontsize=11, fontweight="bold", **below)
    axes.annotate(caption, (0, 0), (6 + 8 * len(name), -17), fontsize=9.5, color=MUTED, parse_math=False, **below)


def _tones(axes: Axes, histogram: Counts) -> None:
    share = histogram / histogram.sum()
    levels = np.arange(len(share))
    axes.bar(levels, share, width=1.0, color=TONES(levels / levels[-1]))
    axes.set(xlim=(-0.5, 255.5), ylim=(0, share.max() * 1.06), yticks=[], xticks=[0, 64, 128, 192, 255])
    axes.tick_params(length=0, labelsize=9)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.spines[["left", "top", "right"]].set_visible(False)
    _heading(axes, "Brightness", f"{int(histogram.sum()):,} pixels, counted in shared memory")


def _stages(axes: Axes, execution: Execution) -> None:
    warm, cold = _by_stage(execution.warm), _by_stage(execution.cold)
    longest = max(*warm.values(), 1)
    # From 0 to 1: words, then bars, then two columns of figures.
    words, bars, first, second = 0.0, (0.385, 0.70), 0.845, 1.0
    axes.set(xlim=(0, 1), ylim=(len(STAGES) + 0.55, -0.5))
    axes.set_axis_off()
    for row, (key, meaning) in enumerate(STAGES):
        length = (bars[1] - bars[0]) * warm[key] / longest
        axes.barh(row, length, left=bars[0], height=0.5, color=AMBER if key == "kernel" else CYAN)
        axes.text(words, row, meaning, va="center", fontsize=9.5)
        axes.text(first, row, duration(warm[key]), ha="right", va="center", fontsize=9.5)
        axes.text(second, row, duration(cold[key]), ha="right", va="center", fontsize=9.5, color=MUTED)
    sums = len(STAGES) + 0.15
    axes.plot([0, 1], [sums - 0.6] * 2, color=FAINT, linewidth=1)
    axes.text(words, sums, "the whole request", va="center", fontsize=9.5, fontweight="bold")
    for x, run, color in ((first, execution.warm, INK), (second, execution.cold, MUTED)):
        whole = duration(run.request_us)
        axes.text(x, sums, whole, ha="right", va="center", fontsize=9.5, fontweight="bold", color=color)
    _heading(axes, "Where the time went", "first run")
    _above(axes, first, "warm", ha="right", color=INK)


def _heading(axes: Axes, name: str, detail: str) -> None:
    _above(axes, 0, name, fontsize=11, fontweight="bold")
    _above(axes, 1, detail, ha="right", color=MUTED)


def _above(axes: Axes, x: float, words: str, *, fontsize: float = 9.5, **style: Any) -> None:
    axes.annotate(words, (x, 1), (0, 8), "axes fraction", "offset points", fontsize=fontsize, **style)


def _by_stage(run: Run) -> dict[str, int]:
    timings = run.timings
    return {
        "queue": timings.queued,
        "load": timings.load,
        "h2d": timings.h2d,
        "kernel": timings.kernel,
        "d2h": timings.d2h,
        "commit": timings.commit,
        "client": run.client_us,
    }
