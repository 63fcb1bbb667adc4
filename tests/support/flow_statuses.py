"""Workflows' statuses as workers would tell them, without workers: a map over tiles between two steps, and the like."""

from __future__ import annotations

import random

import msgspec

from kaasq.flows.model import FlowStatus, ItemStatus, State, StepStatus
from kaasq.messages import ErrorBody, Timings, WorkerInfo

STARTED_MS = 1_795_700_000_000
GPUS = [WorkerInfo(host="node-a", pid=4711, device="cuda:0"), WorkerInfo(host="node-a", pid=4712, device="cuda:1")]


def step(name: str, *waits_for: str, state: State = "completed", at_ms: int = 0, ms: int = 10, **more) -> StepStatus:
    """A step that was due so many milliseconds after the start, and took so many."""
    since = None if state in {"waiting", "skipped"} else STARTED_MS + at_ms
    ended = None if since is None or state == "running" else since + ms
    return StepStatus(name=name, graph=name, state=state, since_ms=since, ended_ms=ended, waits_for=waits_for, **more)


def item(
    name: str, number: int, end_ms: int, timings: Timings | None, worker: WorkerInfo | None = GPUS[0], **more
) -> ItemStatus:
    """An item that has completed, so many milliseconds after the start."""
    more = {"id": f"flow+{number}", "number": number, "state": "completed"} | more
    return ItemStatus(step=name, ended_ms=STARTED_MS + end_ms, timings=timings, worker=worker, **more)


def flow(*steps: StepStatus, items: tuple[ItemStatus, ...] = (), state: State = "completed", **more) -> FlowStatus:
    """A workflow of those steps."""
    ends = [each.ended_ms for each in steps if each.ended_ms is not None]
    ended = None if state == "running" else max(ends, default=STARTED_MS)
    more = {"id": "01935a7e-0c1d-7d10-9b64-0f5c2a7e8d41", "name": "images"} | more
    return FlowStatus(state=state, started_ms=STARTED_MS, ended_ms=ended, steps=steps, items=items, **more)


def tiles(count: int, *, slots: int = 3, kernel_us: int = 9_000, failed: int = 0, running: bool = False) -> FlowStatus:
    """A picture is cut, each tile blurred on two GPUs with ``slots`` slots each, and the tiles are put together."""
    chance = random.Random(count)
    first = Timings(queued=2000, load=300, h2d=2500, kernel=1200, d2h=900, commit=800, total=8000)
    items = [item("cut", 1, 8, first)]
    free = [(8_000, worker) for worker in GPUS for _ in range(slots)]
    ends = [8_000]
    for number in range(count):
        free.sort(key=lambda each: each[0])
        begin, worker = free.pop(0)
        begin += chance.randrange(100)
        timings = Timings(
            queued=(begin - 8_000) // 1000 * 1000,
            load=chance.randrange(20, 60),
            h2d=chance.randrange(1000, 2000) * kernel_us // 9000,
            kernel=round(kernel_us * chance.uniform(0.6, 1.4)),
            d2h=chance.randrange(400, 900) * kernel_us // 9000,
            commit=chance.randrange(300, 900),
        )
        ran = timings.load + timings.h2d + timings.kernel + timings.d2h + timings.commit + chance.randrange(200, 900)
        timings = Timings(
            **{name: getattr(timings, name) for name in timings.__struct_fields__[:-1]}, total=timings.queued + ran
        )
        ends.append(begin + ran)
        free.append((begin + ran, worker))
        end_ms = (begin + ran) // 1000
        if number < failed:
            lost = ErrorBody(
                code="kernel_failed", message="an illegal memory access", detail={"step": "blur", "item": number}
            )
            items.append(
                item("blur", number + 2, end_ms, None, None, item=number, state="failed", error=lost, attempt=3)
            )
        else:
            items.append(item("blur", number + 2, end_ms, timings, worker, item=number, attempt=1 + (number % 50 == 7)))
    end = max(ends) // 1000
    error = items[1].error if failed else None
    told = error and msgspec.structs.replace(error, message=f"step 'blur', item 0: {error.message}")
    done = count - failed
    if running:
        items = [each for each in items if each.ended_ms is None or each.ended_ms - STARTED_MS <= end // 2]
        done = sum(each.step == "blur" and each.state == "completed" for each in items)
    blur = step(
        "blur", "cut", map="tiles", at_ms=8, ms=end - 8, items=count, completed=done, failed=failed, error=error,
        state="running" if running else "failed" if failed else "completed",
    )  # fmt: skip
    last: State = "waiting" if running else "failed" if failed else "completed"
    join = step("join", "blur", "cut", at_ms=end, ms=6, state=last, error=error)
    if last == "completed":
        items.append(item("join", count + 2, end + 6, msgspec.structs.replace(first, total=6000), GPUS[1]))
    state: State = "running" if running else last
    return flow(
        step("cut", ms=8), blur, join, items=tuple(items), state=state, error=told,
        deadline_ms=STARTED_MS + 60_000,
    )  # fmt: skip


def chain(count: int) -> FlowStatus:
    """One step after another."""
    steps = [
        step(f"step-{number}", *([f"step-{number - 1}"] if number else []), at_ms=3 * number, ms=3)
        for number in range(count)
    ]
    timings = Timings(queued=1000, load=20, h2d=0, kernel=900, d2h=0, commit=400, total=2900)
    items = [item(each.name, number + 1, 3 * number + 3, timings) for number, each in enumerate(steps)]
    return flow(*steps, items=tuple(items), name="chain")
