"""What the JSON files hold, and what the short version found, for a terminal. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from kaasq_bench.figures import Row
from kaasq_bench.machine import Machine
from kaasq_bench.suite import PartReport
from kaasq_bench.table import bar_words, beside_words, kaasq_words, ratio_words

HEAD = ("kaasq", "beside", "ratio (min-max)", "bar", "")
BESIDE = HEAD.index("beside")
GAP = 2
INDENT = "    "  # of figures under their name
ROOMY_COLUMNS = 110


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a JSON file of the suite holds: one part, and on what it was measured. ``broker``: RabbitMQ's version."""

    date: str
    machine: Machine
    device: str
    broker: str | None
    rounds: int
    window_s: float
    quick: bool
    part: PartReport


class BriefReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the short version's JSON file holds. ``on``: which broker and workers were measured."""

    date: str
    machine: Machine
    device: str
    on: str
    parts: list[PartReport]


class NotAReport(ValueError):
    """A file is none of the suite's; the message says in which way."""


def decoded(data: bytes) -> Report:
    """What a JSON file of the suite holds. Raises NotAReport for anything else, also what older versions wrote."""
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise NotAReport(str(error)) from error


def today() -> str:
    """The date as figures carry it."""
    return time.strftime("%Y-%m-%d")


def encoded(report: object) -> bytes:
    """As JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def rich_report(reports: Sequence[PartReport], machine: Machine, width: int) -> Group:
    """Each part's rows, then what was left out and what broke. A bar that a busy machine misses is marked so.

    Where so many columns leave names no room, each stands on a line of its own above its figures.
    """
    shown = _stacked(reports, machine, width) if width < ROOMY_COLUMNS else [_wide(reports, machine)]
    return Group(*shown, *_notes(reports))


def _wide(reports: Sequence[PartReport], machine: Machine) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="bold")
    table.add_column("", ratio=3)
    table.add_column(HEAD[0], no_wrap=True, justify="right")
    table.add_column(HEAD[1], ratio=2)
    for name in HEAD[2:]:
        table.add_column(name, no_wrap=True)
    for report in reports:
        table.add_row(f"[bold]{report.part}[/]")
        for row in report.rows:
            table.add_row(f"  {escape(row.what)}", *map(Text.from_markup, _figures(row, machine)))
    return table


def _stacked(reports: Sequence[PartReport], machine: Machine, width: int) -> Iterator[RenderableType]:
    lines = [[Text.from_markup(each) for each in _figures(row, machine)] for row in _rows(reports)]
    head = [Text(each, style="bold") for each in HEAD]
    widths = [max(cell.cell_len for cell in column) for column in zip(head, *lines, strict=True)]
    room = width - len(INDENT) - GAP * len(HEAD) - sum(widths)
    widths[BESIDE] = max(1, widths[BESIDE] + min(room, 0))  # the one that may wrap
    yield _line(head, widths)
    figures = iter(lines)
    for report in reports:
        yield Text(report.part, style="bold")
        for row in report.rows:
            yield Text(f"  {row.what}")
            yield _line(next(figures), widths)


def _line(cells: Sequence[Text], widths: Sequence[int]) -> Table:
    line = Table.grid(padding=(0, GAP, 0, 0))
    line.add_column(width=len(INDENT) - GAP)
    for name, width in zip(HEAD, widths, strict=True):
        line.add_column(width=width, justify="right" if name == HEAD[0] else "left")
    line.add_row("", *cells)
    return line


def _figures(row: Row, machine: Machine) -> list[str]:
    """The cells under HEAD, as markup."""
    words = (kaasq_words(row), beside_words(row), ratio_words(row), bar_words(row))
    return [*map(escape, words), _verdict(row, busy=machine.busy)]


def _notes(reports: Sequence[PartReport]) -> Iterator[Text]:
    for report in reports:
        for case, reason in report.left_out.items():
            yield Text(f"{report.part}: {case}: left out: {reason}", style="dim")
        for case, reason in report.broken.items():
            yield Text(f"{report.part}: {case}: broken: {reason}", style="bold red")


def _rows(reports: Sequence[PartReport]) -> list[Row]:
    return [row for each in reports for row in each.rows]


def summary(reports: Sequence[PartReport], machine: Machine | None = None) -> str:
    """How many bars are met, and whether that can be told on that machine."""
    barred = [row for row in _rows(reports) if row.bar is not None]
    met = sum(row.bar.met(row) for row in barred if row.bar is not None)
    if not barred:
        return "Nothing here has a bar."
    told = f"{met} of {len(barred)} bars met."
    if machine is not None and machine.busy and met < len(barred):
        told += f" Two cores were not free (load {machine.load} on {machine.cores}): a bar not met tells nothing."
    return told


def _verdict(row: Row, *, busy: bool) -> str:
    if row.bar is None:
        return ""
    if row.bar.met(row):
        return "[green]met[/]"
    return "[yellow]not met, busy[/]" if busy else "[red]not met[/]"
