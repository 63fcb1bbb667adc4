"""A workflow's timeline as SVG: when each step was under way, and what each worker did for whom: a Gantt chart."""

from __future__ import annotations

import time
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from kaasq.flows.model import FAILED, FlowStatus, ItemStatus, StepStatus
from kaasq.units import duration, moment
from kaasq_producers.flows.display import svg as shapes
from kaasq_producers.flows.display.axis import Axis
from kaasq_producers.flows.display.bars import Bar, Lane, lanes
from kaasq_producers.flows.display.bundles import Bundle, bundled
from kaasq_producers.flows.display.page import page
from kaasq_producers.flows.display.words import (
    PARTS,
    QUEUED,
    count_words,
    error_words,
    item_words,
    plainly,
    repeat_words,
    state_word,
    tally,
)

WIDTH, LEFT, RIGHT, MARGIN = 1200, 210, 190, 16
STEP, BAR, TIGHT, LOOSE = 18, 10, 14, 26  # heights; a loose row has room for names
LANE = 32  # the least height of a worker's lane: two lines of text
HEAD, LEGEND, AXIS, HEADING, FOOT = 58, 22, 22, 26, 18
MOST_STEPS, MOST_LANES, MOST_ROWS = 250, 32, 12
NAMED = 24.0  # a bar from this width on may bear a name
VISIBLE = 0.2  # a part narrower than this is left out
MARKS_APART = 5.0  # crosses closer than this are one


def svg(status: FlowStatus, *, now_ms: int | None = None) -> str:
    """The timeline as an SVG document, 1200 wide; what it says when pointed at needs a browser.

    ``status`` with its ``items``. ``now_ms``, since the epoch, is until when what has not ended is drawn.
    """
    return ET.tostring(_Timeline(status, _now(now_ms)).drawn(heading=True), encoding="unicode")


def html(status: FlowStatus, *, now_ms: int | None = None) -> str:
    """The timeline and the same in figures as one HTML document, which fetches nothing and runs no script."""
    now = _now(now_ms)
    return page(status, _Timeline(status, now).drawn(heading=False), now)


def _now(now_ms: int | None) -> int:
    return round(time.time() * 1000) if now_ms is None else now_ms


@dataclass(frozen=True, slots=True)
class _Rows:
    """A worker's lane as it is drawn."""

    lane: Lane
    row_height: int

    @property
    def height(self) -> float:
        return max(LANE, self.row_height * len(self.lane.rows) + 6)


class _Timeline:
    def __init__(self, status: FlowStatus, now_ms: int) -> None:
        self._status = status
        self._now_us = now_ms * 1000
        self._steps = {each.name: each for each in status.steps}
        self._failed: dict[str, list[ItemStatus]] = {}
        for each in status.items:
            if each.state in FAILED and each.ended_ms is not None:
                self._failed.setdefault(each.step, []).append(each)
        found = lanes(status.items, MOST_ROWS)
        bars = [bar for lane in found for row in lane.rows for bar in row]
        self._axis = self._axis_of(bars)
        self._parts = {QUEUED: QUEUED} if bars else {}
        self._parts |= {name: called for name, called in PARTS.items() if any(bar.lengths[name] for bar in bars)}
        self._shown = list(status.steps[:MOST_STEPS])
        self._lanes = [_Rows(each, LOOSE if self._any_named(each) else TIGHT) for each in found[:MOST_LANES]]
        self._lanes_left = len(found) - len(self._lanes)
        self._notes = list(self._noted())

    def drawn(self, *, heading: bool) -> ET.Element:
        """The picture; without its heading where another one says the same."""
        head = HEAD if heading else 0
        steps_at = head + LEGEND + AXIS
        lanes_at = steps_at + HEADING + STEP * len(self._shown) + 8
        lanes_end = lanes_at + (HEADING + sum(each.height for each in self._lanes) if self._lanes else 0)
        height = lanes_end + AXIS + FOOT * len(self._notes) + MARGIN
        status = self._status
        lasted = duration(self._lasted_us(status.started_ms, status.ended_ms))
        title = f"{plainly(status.name)}: {status.state}, {lasted}"
        described = f"Workflow {plainly(status.id)}, started {moment(status.started_ms)}; {tally(status)}"
        root = shapes.picture(WIDTH, height, title, described)
        if heading:
            shapes.words(root, MARGIN, 26, title, size=17, bold=True, room=WIDTH - 2 * MARGIN)
            shapes.words(root, MARGIN, 46, described, size=11, colour="faint", room=WIDTH - 2 * MARGIN)
        self._legend(root, head + 4)
        self._ticks(root, steps_at, lanes_end)
        self._draw_steps(root, steps_at)
        if self._lanes:
            self._draw_lanes(root, lanes_at)
        for number, note in enumerate(self._notes):
            y = lanes_end + AXIS + FOOT * (number + 1) - 4
            shapes.words(root, MARGIN, y, note, colour="faint", room=WIDTH - 2 * MARGIN)
        return root

    # -------------------------------------------------------------------------------------------------- measures

    def _axis_of(self, bars: list[Bar]) -> Axis:
        status = self._status
        zero = status.started_ms * 1000
        begins = [zero, *(each.begin_us for each in bars)]
        ends = [each.end_us for each in bars]
        ended = [*(each.ended_ms for each in status.steps), *(each.ended_ms for each in status.items)]
        ends += [each * 1000 for each in ended if each is not None]
        ends.append(self._now_us if status.ended_ms is None else status.ended_ms * 1000)
        begin = min(begins)
        end = max(*ends, begin + 1)
        return Axis(zero, begin, end, LEFT, WIDTH - LEFT - RIGHT)

    def _any_named(self, lane: Lane) -> bool:
        return any(self._width(each.begin_us, each.end_us) >= NAMED for row in lane.rows for each in row)

    def _width(self, begin_us: float, end_us: float) -> float:
        return self._axis.x(end_us) - self._axis.x(begin_us)

    def _lasted_us(self, since_ms: int, ended_ms: int | None) -> int:
        return max(0, (self._now_us if ended_ms is None else ended_ms * 1000) - since_ms * 1000)

    def _noted(self) -> list[str]:
        status, notes = self._status, []
        if len(status.steps) > len(self._shown):
            notes.append(f"{len(status.steps) - len(self._shown)} more steps are not drawn.")
        if self._lanes_left:
            notes.append(f"{self._lanes_left} more workers are not drawn.")
        left_out = sum(each.lane.left_out for each in self._lanes)
        if left_out:
            notes.append(f"{left_out} items that ran beside {MOST_ROWS} others on their worker are not drawn.")
        if status.more:
            notes.append(f"The workflow has more than these {len(status.items)} items.")
        if self._lanes:
            notes.append("Ends are exact to a millisecond: what overlaps by less is drawn one after the other.")
            notes.append("Waiting is drawn as far as there is room before the bar; point at a bar for its figures.")
        return notes

    # --------------------------------------------------------------------------------------------------- drawing

    def _legend(self, root: ET.Element, y: float) -> None:
        x = float(MARGIN)
        for name, called in self._parts.items():
            height = 3 if name == QUEUED else 10
            shapes.rect(root, x, y + (10 - height) / 2, 14, height, name)
            shapes.words(root, x + 19, y + 9, called)
            x += 19 + shapes.width_of(called, 11) + 18
        x += 12 if self._parts else 0
        for state in ("completed", "running", "cancelled"):
            shapes.rect(root, x, y, 14, 10, state)
            shapes.words(root, x + 19, y + 9, f"step {state}")
            x += 19 + shapes.width_of(f"step {state}", 11) + 18
        shapes.cross(root, x + 7, y + 5, "failed")
        shapes.words(root, x + 19, y + 9, "failed or expired")

    def _ticks(self, root: ET.Element, top: float, bottom: float) -> None:
        for x, said in self._axis.ticks():
            shapes.line(root, x, top - 4, x, bottom, "line")
            for y in (top - 8, bottom + 13):
                shapes.words(root, x, y, said, size=10, colour="faint", anchor="middle")

    def _draw_steps(self, root: ET.Element, top: float) -> None:
        shapes.words(root, MARGIN, top + 16, "Steps", size=12, bold=True)
        for number, step in enumerate(self._shown):
            y = top + HEADING + STEP * number
            made = shapes.group(root, self._step_hover(step))
            if number % 2 == 0:
                shapes.rect(made, MARGIN, y, WIDTH - 2 * MARGIN, STEP, "band").set("fill-opacity", "0.6")
            shapes.words(made, MARGIN + 4, y + 13, plainly(step.name), room=LEFT - MARGIN - 12)
            if step.since_ms is not None:
                begin = self._axis.x(step.since_ms * 1000)
                end = self._axis.x(self._now_us if step.ended_ms is None else step.ended_ms * 1000)
                shapes.rect(made, begin, y + 4, max(1.5, end - begin), BAR, step.state)
            said = " ".join(filter(None, (state_word(step), count_words(step))))
            shapes.words(made, WIDTH - RIGHT + 10, y + 13, said, colour=step.state, room=RIGHT - MARGIN - 10)
            self._crosses(root, step, y + STEP / 2)

    def _crosses(self, root: ET.Element, step: StepStatus, y: float) -> None:
        """Where items failed: they have no place on a worker."""
        failed = sorted(self._failed.get(step.name, []), key=lambda each: (each.ended_ms or 0, each.item))
        start = 0
        while start < len(failed):
            x = self._axis.x((failed[start].ended_ms or 0) * 1000)
            end = start + 1
            while end < len(failed) and self._axis.x((failed[end].ended_ms or 0) * 1000) - x < MARKS_APART:
                end += 1
            first = failed[start]
            hover = f"{item_words(first, step)}: {first.state}"
            hover += f", {error_words(first.error)}" if first.error else ""
            hover += f"\nand {end - start - 1} more" if end - start > 1 else ""
            made = shapes.group(root, hover)
            shapes.rect(made, x - 4.5, y - 5, 9, 10, "paper").set("rx", "2")
            shapes.cross(made, x, y, "failed")
            start = end

    def _draw_lanes(self, root: ET.Element, top: float) -> None:
        shapes.words(root, MARGIN, top + 16, "Workers", size=12, bold=True)
        y = float(top + HEADING)
        for number, rows in enumerate(self._lanes):
            lane = rows.lane
            if number % 2 == 0:
                shapes.rect(root, MARGIN, y, WIDTH - 2 * MARGIN, rows.height, "band").set("fill-opacity", "0.6")
            room = LEFT - MARGIN - 12
            shapes.words(root, MARGIN + 4, y + 13, plainly(lane.worker.device), bold=True, room=room)
            host = f"{plainly(lane.worker.host)}, process {lane.worker.pid}"
            shapes.words(root, MARGIN + 4, y + 26, host, size=10, colour="faint", room=room)
            count = sum(map(len, lane.rows)) + lane.left_out
            shapes.words(root, WIDTH - RIGHT + 10, y + 13, f"{count} item{'s' if count != 1 else ''}")
            for place, row in enumerate(lane.rows):
                self._draw_row(root, row, y + 3 + rows.row_height * place, loose=rows.row_height == LOOSE)
            y += rows.height

    def _draw_row(self, root: ET.Element, row: list[Bar], y: float, *, loose: bool) -> None:
        free = float(LEFT)
        for bundle in bundled(row, self._axis):
            begin = self._axis.x(bundle.begin_us)
            width = max(1.0, self._width(bundle.begin_us, bundle.end_us))
            made = shapes.group(root, self._hover(bundle))
            if len(bundle.bars) == 1:
                queued = max(free, self._axis.x(bundle.begin_us - bundle.bars[0].queued_us))
                if begin - queued >= VISIBLE:
                    shapes.rect(made, queued, y + BAR / 2 - 1.5, begin - queued, 3, QUEUED)
            total = max(1, sum(bundle.lengths.values()))
            x = begin
            for name, length in bundle.lengths.items():
                share = width * length / total
                if share >= VISIBLE:
                    shapes.rect(made, x, y, share, BAR, name)
                x += share
            if loose and width >= NAMED:
                item = bundle.bars[0].item
                name = item_words(item, self._steps.get(item.step))
                if shapes.width_of(name, 9) <= width or len(row) == 1:
                    shapes.words(made, begin, y + BAR + 10, name, size=9, colour="faint")
            free = begin + width + 1

    # ----------------------------------------------------------------------------------------- when pointed at

    def _step_hover(self, step: StepStatus) -> str:
        lines = [f"{plainly(step.name)}: {state_word(step)} {count_words(step)}".rstrip()]
        if step.since_ms is not None:
            after = duration(max(0, step.since_ms - self._status.started_ms) * 1000)
            lines.append(f"due after {after}, took {duration(self._lasted_us(step.since_ms, step.ended_ms))}")
        if step.runs:
            lines.append(f"ran {step.runs} times")
        if step.waits_for:
            lines.append(plainly(f"waits for {', '.join(step.waits_for)}"))
        if step.error is not None:
            lines.append(error_words(step.error))
        return "\n".join(lines)

    def _hover(self, bundle: Bundle) -> str:
        bars = bundle.bars
        if len(bars) == 1:
            item = bars[0].item
            tried = f", try {item.attempt}" if item.attempt > 1 else ""
            lines = [f"{item_words(item, self._steps.get(item.step))}: {item.state}{tried} ({plainly(item.id)})"]
            lines.append(f"queued {duration(bars[0].queued_us)}")
            if item.repeat is not None:
                lines.append(f"runs {repeat_words(item.repeat)}")
        else:
            names = ", ".join(dict.fromkeys(plainly(each.item.step) for each in bars))
            lines = [f"{len(bars)} items of {plainly(names)}, in all:"]
        lines += [
            f"{called} {duration(bundle.lengths[name])}" for name, called in PARTS.items() if bundle.lengths[name]
        ]
        return "\n".join(lines)
