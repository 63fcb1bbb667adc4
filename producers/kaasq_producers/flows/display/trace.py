"""A workflow as a trace in Chrome's Trace Event Format, which Perfetto and ``chrome://tracing`` open."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from kaasq.flows.model import FAILED, FlowStatus, ItemStatus, StepStatus
from kaasq_producers.flows.display.bars import Bar, Lane, lanes
from kaasq_producers.flows.display.words import BETWEEN, PARTS, QUEUED, error_words, item_words, plainly

Event = dict[str, Any]

FLOW_PID = 1  # the workflow itself; workers follow


def trace(status: FlowStatus, *, now_ms: int | None = None) -> dict[str, Any]:
    """The trace, as a dict for ``json.dumps``. Times in microseconds since the epoch.

    The first process is the workflow, its threads are steps beside each other, with arrows from step to step along what
    waits for what. Then comes a process for each worker: threads for load, copy in, kernel, copy out and commit, as
    many of each as were under way at once, and requests that wait, as asynchronous events. ``now_ms``, since the
    epoch, is until when what has not ended lasts.
    """
    now_us = (round(time.time() * 1000) if now_ms is None else now_ms) * 1000
    events = list(_flow(status, now_us))
    steps = {each.name: each for each in status.steps}
    for number, lane in enumerate(lanes(status.items)):
        events += _worker(FLOW_PID + 1 + number, lane, steps)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "workflow": status.name,
            "id": status.id,
            "state": status.state,
            "started_ms": status.started_ms,
            "more_items": status.more,
        },
    }


# ------------------------------------------------------------------------------------------------------ the workflow


def _flow(status: FlowStatus, now_us: int) -> Iterator[Event]:
    yield from _process(FLOW_PID, f"workflow {plainly(status.name)}", 0)
    begun = [each for each in status.steps if each.since_ms is not None]
    steps = {each.name: each for each in begun}
    spans = {each.name: _span(each, now_us) for each in begun}
    rows = _rows((each.name, *spans[each.name]) for each in begun)
    for row in range(max(rows.values(), default=-1) + 1):
        yield from _thread(FLOW_PID, row + 1, f"steps {row + 1}" if row else "steps", row)
    for step in begun:
        begin, length = spans[step.name]
        args: dict[str, Any] = {"step": step.name, "graph": step.graph, "state": step.state}
        if step.map is not None:
            args |= {"map": step.map, "items": step.items, "completed": step.completed, "failed": step.failed}
        if step.error is not None:
            args["error"] = error_words(step.error)
        yield _complete(plainly(step.name), "step", FLOW_PID, rows[step.name] + 1, begin, length, args)
    arrow = 0
    for step in begun:
        for name in dict.fromkeys(step.waits_for):
            if name in spans and name != step.name:
                arrow += 1
                yield from _arrow(arrow, rows[name] + 1, spans[name], rows[step.name] + 1, spans[step.name])
    for item in status.items:
        if item.state in FAILED and item.ended_ms is not None and item.step in steps:
            yield {
                "ph": "i",
                "s": "t",
                "name": f"{item_words(item, steps[item.step])} {item.state}",
                "cat": item.state,
                "pid": FLOW_PID,
                "tid": rows[item.step] + 1,
                "ts": item.ended_ms * 1000,
                "args": _args(item),
            }


def _span(step: StepStatus, now_us: int) -> tuple[int, int]:
    """When a step began, and how long it lasted: a microsecond at least, for arrows to have something to hold on to."""
    assert step.since_ms is not None
    begin = step.since_ms * 1000
    end = now_us if step.ended_ms is None else step.ended_ms * 1000
    return begin, max(1, end - begin)


def _arrow(number: int, tid: int, span: tuple[int, int], to_tid: int, to_span: tuple[int, int]) -> Iterator[Event]:
    """From the end of one step to the beginning of another, or from within if that began before: both are maps, then,
    of which each item waits for its own. Each end lies within the step that it belongs to.
    """
    start = max(span[0], min(sum(span) - 1, to_span[0]))
    common = {"name": "waits for", "cat": "step", "id": number, "pid": FLOW_PID}
    if start < sum(to_span):
        yield {"ph": "s", "tid": tid, "ts": start, **common}
        yield {"ph": "f", "bp": "e", "tid": to_tid, "ts": max(start, to_span[0]), **common}


# -------------------------------------------------------------------------------------------------------- workers


def _worker(pid: int, lane: Lane, steps: dict[str, StepStatus]) -> Iterator[Event]:
    worker = lane.worker
    yield from _process(pid, f"{plainly(worker.device)} of {plainly(worker.host)}, process {worker.pid}", pid)
    bars = sorted((bar for row in lane.rows for bar in row), key=lambda bar: (bar.begin_us, bar.item.number))
    names = [item_words(bar.item, steps.get(bar.item.step)) for bar in bars]
    first = 1
    for part, called in PARTS.items():
        if part == BETWEEN:  # nothing that the worker does by itself
            continue
        found = {
            number: (begin, length)
            for number, bar in enumerate(bars)
            for name, begin, length in bar.parts()
            if name == part
        }
        rows = _rows((number, *span) for number, span in found.items())
        count = max(rows.values(), default=-1) + 1
        for row in range(count):
            yield from _thread(pid, first + row, f"{called} {row + 1}" if row else called, first + row)
        for number, (begin, length) in found.items():
            yield _complete(names[number], part, pid, first + rows[number], begin, length, _args(bars[number].item))
        first += count
    for bar, name in zip(bars, names, strict=True):
        yield from _wait(pid, bar, name)


def _wait(pid: int, bar: Bar, name: str) -> Iterator[Event]:
    """A request in the queue. Any number wait at a time, which threads cannot show."""
    if bar.queued_us:
        common = {"name": QUEUED, "cat": QUEUED, "id": bar.item.id or name, "pid": pid, "tid": 0}
        args = {"request": name} | _args(bar.item)
        yield {"ph": "b", "ts": bar.begin_us - bar.queued_us, "args": args, **common}
        yield {"ph": "e", "ts": bar.begin_us, **common}


def _args(item: ItemStatus) -> dict[str, Any]:
    args: dict[str, Any] = {"id": item.id, "step": item.step, "item": item.item, "attempt": item.attempt}
    if item.timings is not None:
        args["queued_us"], args["total_us"] = item.timings.queued, item.timings.total
    if item.repeat is not None:
        args["runs"] = item.repeat.runs
    if item.error is not None:
        args["error"] = error_words(item.error)
    return args


# --------------------------------------------------------------------------------------------------------- events


def _rows(spans: Iterable[tuple[Any, int, int]]) -> dict[Any, int]:
    """A row for each key, in which nothing overlaps: the first that is free at its begin."""
    ends: list[int] = []
    found: dict[Any, int] = {}
    for key, begin, length in sorted(spans, key=lambda span: span[1]):
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + length]
        found[key] = row
    return found


def _process(pid: int, name: str, place: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": place}}


def _thread(pid: int, tid: int, name: str, place: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}}
    yield {"ph": "M", "name": "thread_sort_index", "pid": pid, "tid": tid, "args": {"sort_index": place}}


def _complete(
    name: str, category: str, pid: int, tid: int, begin_us: int, length_us: int, args: dict[str, Any]
) -> Event:
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": pid,
        "tid": tid,
        "ts": begin_us,
        "dur": length_us,
        "args": args,
    }
