"""What the JSON files hold, and what the short version found, for a terminal. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
from rich.markup import escape
from rich.table import Table

from kaasq_bench.figures import Row
from kaasq_bench.machine import Machine
from kaasq_bench.suite import PartReport
from kaasq_bench.table import bar_words, beside_words, kaasq_words, ratio_words


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


def rich_table(reports: Sequence[PartReport], machine: Machine) -> Table:
    """Each part's rows, then what it left out and what broke. A bar that a busy machine misses is marked so."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", ratio=3)
    table.add_column("kaasq", no_wrap=True, justify="right")
    table.add_column("beside", ratio=2)
    for name in ("ratio (min-max)", "bar", ""):
        table.add_column(name, no_wrap=True)
    for report in reports:
        table.add_row(f"[bold]{report.part}[/]")
        for row in report.rows:
            cells = (f"  {row.what}", kaasq_words(row), beside_words(row), ratio_words(row), bar_words(row))
            table.add_row(*map(escape, cells), _verdict(row, busy=machine.busy))
        for case, reason in report.left_out.items():
            table.add_row(f"  [dim]{escape(case)}[/]", "", f"[dim]left out: {escape(reason)}[/]")
        for case, reason in report.broken.items():
            table.add_row(f"  {escape(case)}", "", f"[bold red]broken: {escape(reason)}[/]")
    return table


def summary(reports: Sequence[PartReport], machine: Machine | None = None) -> str:
    """How many bars are met, and whether that can be told on that machine."""
    barred = [row for each in reports for row in each.rows if row.bar is not None]
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
