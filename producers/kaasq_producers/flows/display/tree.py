"""A workflow in the terminal: its steps along what waits for what, how far each is, and what went wrong."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from kaasq.flows.model import FAILED, FlowStatus, ItemStatus, State, StepStatus
from kaasq.units import duration, moment
from kaasq_producers.flows.display.outline import Line, outline
from kaasq_producers.flows.display.words import (
    cause_of,
    count_words,
    error_words,
    plainly,
    repeat_words,
    state_word,
    tally,
)

MOST_ERRORS = 10
MOST_DEVICES = 2  # by name
NARROWEST_STEP = 20  # columns, before others are left out
GAP = 2
LEFT_OUT_FIRST = ("AT", "DEVICE", "TRIES", "RUNS", "TOOK")  # where the terminal is narrow
STYLES: dict[State, str] = {
    "waiting": "dim",
    "running": "bold blue",
    "completed": "green",
    "failed": "bold red",
    "expired": "bold red",
    "cancelled": "yellow",
    "skipped": "dim",
}


def tree(status: FlowStatus, *, items: int = 0, now_ms: int | None = None, error: bool = True) -> RenderableType:
    """The workflow for a rich console, as wide as that is; each step on one line.

    ``items``: so many of each map are listed, of ``status.items``, those first that failed. The others only say where
    and how often their steps ran. ``now_ms``, since the epoch, is until when what has not ended has lasted.
    ``error`` False: the workflow's own is told elsewhere.
    """
    return _Tree(status, items, round(time.time() * 1000) if now_ms is None else now_ms, error)


@dataclass(frozen=True, slots=True)
class _Row:
    name: Text
    style: str
    cells: dict[str, str]


@dataclass(slots=True)
class _Tree:
    status: FlowStatus
    most_items: int
    now_ms: int
    error: bool
    _items: dict[str, list[ItemStatus]] = field(default_factory=lambda: defaultdict(list))
    _hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for each in self.status.items:
            self._items[each.step].append(each)
            if each.worker is not None:
                self._hosts.add(each.worker.host)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._heading()
        yield self._table(options.max_width)
        yield from self._errors()

    def _heading(self) -> RenderResult:
        status = self.status
        lasted = duration(self._lasted_us(status.started_ms, status.ended_ms))
        word = {"running": "for", "completed": "in"}.get(status.state, "after")
        limit = ""
        if status.state == "running" and status.deadline_ms is not None:
            limit = f" ({duration(max(0, status.deadline_ms - status.started_ms) * 1000)} at most)"
        yield _line(
            ("workflow ", ""),
            (plainly(status.name), "bold"),
            (" ", ""),
            (status.state, STYLES[status.state]),
            (f" {word} {lasted}{limit}", ""),
        )
        yield _line((f"{plainly(status.id)}, started {moment(status.started_ms)}", "dim"))
        yield _line((tally(status), ""))

    def _table(self, width: int) -> Table:
        rows = list(self._rows())
        wanted = ["STATE", "ITEMS", "AT", "TOOK", "RUNS", "TRIES", "DEVICE"]
        widths = {name: max((cell_len(row.cells[name]) for row in rows), default=0) for name in wanted}
        widths = {name: max(each, len(name)) for name, each in widths.items() if each}  # empty columns say nothing
        longest = max((row.name.cell_len for row in rows), default=4)
        for name in LEFT_OUT_FIRST:
            if width - sum(widths.values()) - GAP * len(widths) >= min(longest, NARROWEST_STEP):
                break
            widths.pop(name, None)
        room = max(4, width - sum(widths.values()) - GAP * len(widths))
        made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        made.add_column("STEP", width=min(max(longest, 4), room), no_wrap=True, overflow="ellipsis")
        for name, columns in widths.items():
            right = name in {"AT", "TOOK", "RUNS", "TRIES"}
            made.add_column(name, width=columns, no_wrap=True, justify="right" if right else "left")
        for row in rows:
            cells = [Text(row.cells[name], row.style if name == "STATE" else "") for name in widths]
            made.add_row(row.name, *cells)
        return made

    def _rows(self) -> list[_Row]:
        rows: list[_Row] = []
        for line in outline(self.status.steps):
            rows.append(self._step(line))
            if self.most_items and line.step.map is not None:
                rows += self._items_of(line)
        return rows

    def _step(self, line: Line) -> _Row:
        step = line.step
        ran = self._items[step.name]
        name = Text.assemble((line.before, "dim"), plainly(step.name))
        if line.after:
            names = ", ".join(plainly(each) for each in line.after)
            name.append(f" after {names}", "dim")
        tries = max((each.attempt for each in ran), default=1)
        return _Row(
            name,
            STYLES[step.state] if cause_of(step) is None else "red",
            {
                "STATE": state_word(step),
                "ITEMS": count_words(step),
                "AT": self._at(step),
                "TOOK": "" if step.since_ms is None else duration(self._lasted_us(step.since_ms, step.ended_ms)),
                "RUNS": self._runs(step, ran),
                "TRIES": str(tries) if tries > 1 else "",
                "DEVICE": self._devices(ran),
            },
        )

    def _items_of(self, line: Line) -> list[_Row]:
        ran = sorted(self._items[line.step.name], key=lambda each: (each.state not in FAILED, each.item))
        rows = []
        for each in ran[: self.most_items]:
            took = "" if each.timings is None else duration(each.timings.total)
            cells = {"STATE": each.state, "ITEMS": "", "AT": "", "TOOK": took, "DEVICE": self._devices([each])}
            cells["TRIES"] = str(each.attempt) if each.attempt > 1 else ""
            cells["RUNS"] = repeat_words(each.repeat)
            rows.append(_Row(Text(f"{line.below}  [{each.item}]", "dim"), STYLES[each.state], cells))
        return rows

    def _runs(self, step: StepStatus, ran: list[ItemStatus]) -> str:
        alone = ran[0].repeat if step.map is None and ran else None
        return repeat_words(alone) or (str(step.runs) if step.runs else "")

    def _at(self, step: StepStatus) -> str:
        return "" if step.since_ms is None else f"+{duration(max(0, step.since_ms - self.status.started_ms) * 1000)}"

    def _lasted_us(self, since_ms: int, ended_ms: int | None) -> int:
        return max(0, (self.now_ms if ended_ms is None else ended_ms) - since_ms) * 1000

    def _devices(self, items: list[ItemStatus]) -> str:
        found = dict.fromkeys((each.worker.host, each.worker.device) for each in items if each.worker is not None)
        if len(found) > MOST_DEVICES:
            return f"{len(found)} devices"
        return ", ".join(
            plainly(device) + (f" of {plainly(host)}" if len(self._hosts) > 1 else "") for host, device in sorted(found)
        )

    def _errors(self) -> RenderResult:
        """The workflow's own error whole, then a line for each other step that failed by itself."""
        status = self.status
        said = None
        if status.error is not None:
            said = status.error.detail.get("step")
            if self.error:
                yield Text(error_words(status.error), "red")
        found = [
            each
            for each in status.steps
            if each.error is not None and each.name != said and each.error.detail.get("step", each.name) == each.name
        ]
        for each in found[:MOST_ERRORS]:
            if each.error is not None:
                named = "" if "step" in each.error.detail else f"step {plainly(each.name)!r}: "  # the message says it
                yield _line((named + error_words(each.error), "red"))
        if len(found) > MOST_ERRORS:
            yield _line((f"and {len(found) - MOST_ERRORS} more steps failed", "red"))
        lost: dict[str, list[str]] = defaultdict(list)
        for step in status.steps:
            cause = cause_of(step)
            if cause is not None:
                lost[cause].append(plainly(step.name))
        states = {each.name: each.state for each in status.steps}
        for cause, names in [*lost.items()][:MOST_ERRORS]:
            why = f"not run, since step {plainly(cause)!r} {states.get(cause, 'failed')}: "
            yield _line((why + ", ".join(names[:MOST_ERRORS]) + (", ..." if len(names) > MOST_ERRORS else ""), "dim"))
        if status.more:
            yield _line((f"tries and devices are those of the first {len(status.items)} items", "dim"))


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
