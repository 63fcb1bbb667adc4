"""What follows when something in a workflow ends: which steps and items are due, which never run. Pure.

Every terminal state counts, so nothing waits for ever: what cannot run any more ends at once, with the reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from kaasq.checks import GraphLimits
from kaasq.continuations import compare
from kaasq.errors import (
    BadArguments,
    BadRequest,
    BufferMissing,
    BufferSize,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    KaasqError,
    ModuleRejected,
    OutOfMemory,
    QuotaExceeded,
    StoreFull,
    StoreUnavailable,
    WorkerFailed,
)
from kaasq.flows.edges import Edges
from kaasq.flows.model import ENDED, FAILED, FlowSpec, FlowStep, State, StepCondition, Value
from kaasq.flows.start_checks import check_together
from kaasq.messages import ErrorBody
from kaasq.model import Number
from kaasq_workers.flows.pending import Ready, all_due, caused_by
from kaasq_workers.flows.records import Book, ItemRecord

SHOWN = 500  # characters of an error's message in the records; the whole of it is in the item's outcome
PASSING_MOST = 6  # attempts where the fault is not the step's and may pass
PUT_OFF = frozenset({"queued", "device_seconds"})  # quotas that pass by themselves: it comes again until they have
PUT_OFF_MS = 2000
PASSING_PAUSE_MS = 500  # before the second attempt; doubled for each later one

# Doing the same again gives the same.
FINAL = frozenset(
    each.code
    for each in (
        BadRequest, BadArguments, BufferMissing, BufferSize, Cancelled, Conflict, Forbidden, ModuleRejected
    )
)  # fmt: skip
PASSING = frozenset(each.code for each in (OutOfMemory, QuotaExceeded, StoreFull, StoreUnavailable, WorkerFailed))

_STATES: dict[str, State] = {DeadlineExceeded.code: "expired", Cancelled.code: "cancelled"}

Read = Callable[[Value, int], Number]
"""A scalar of the workflow, or a number of an output of a step that has ended: of that item, if it is in a map.

Raises KaasqError.
"""


class Progress:
    """Changes the records of one workflow."""

    def __init__(
        self, spec: FlowSpec, edges: Edges, book: Book, read: Read, *, now_ms: int, limits: GraphLimits
    ) -> None:
        self._spec = spec
        self._edges = edges
        self._book = book
        self._read = read
        self._now_ms = now_ms
        self._limits = limits
        self._ready: list[Ready] = []
        self._cause = 0
        self._steps: deque[int] = deque()  # to look at: something that they wait for has ended
        self._items: deque[tuple[int, int]] = deque()

    def begin(self) -> list[Ready]:
        """Nothing has run yet: what is due."""
        self._book.head.open = len(self._spec.steps)
        self._steps.extend(range(len(self._spec.steps)))
        return self._settle(0)

    def ended(self, number: int, step: int, item: int, error: ErrorBody | None) -> list[Ready]:
        """That attempt has ended, with an error or without: what is due now.

        Nothing changes if it was not the last attempt, or has been told already.
        """
        of = self._book.step(step)
        if self._book.head.state != "running" or of.state != "running" or item >= (of.items or 0):
            return []
        record = self._book.item(step, item)
        if record.number != number or record.state != "running":
            return []
        if error is not None and self._tries_again(step, item, record, error):
            return self._settle(number)
        self._end_item(step, item, "completed" if error is None else state_of(error), error)
        return self._settle(number)

    def again(self, number: int, step: int | None = None, item: int = 0) -> list[Ready]:
        """What the end of that one, of that step and item, made due and has not ended. See ``caused_by``."""
        return caused_by(self._book, self._edges, number, step, item)

    def due(self) -> list[Ready]:
        """All that is due and has not ended."""
        return all_due(self._book, len(self._spec.steps))

    def verdict(self) -> tuple[State, ErrorBody | None]:
        """How the workflow has ended, once all steps have: with the error of the first step that nobody tolerates."""
        for step in self._edges.order:
            record = self._book.step(step)
            if record.state not in FAILED:
                continue
            takers = [self._spec.steps[each] for each in (*self._edges.after[step], *self._edges.after_own[step])]
            if takers and all(each.tolerate or each.on == "always" for each in takers):
                continue
            error = record.error or ErrorBody(code=WorkerFailed.code, message="it failed")
            return state_of(error), error
        return "completed", None

    # -- inside ------------------------------------------------------------------------------------------------------

    def _settle(self, cause: int) -> list[Ready]:
        """Look at all that has changed, until nothing more follows."""
        self._cause = cause
        while self._steps or self._items:
            if self._items:
                self._look_at_item(*self._items.popleft())
            else:
                self._look_at_step(self._steps.popleft())
        head = self._book.head
        if head.open == 0 and not head.concluding:
            head.number += 1
            head.concluding, head.cause = head.number, cause
            self._ready.append(Ready(head.concluding))
        ready, self._ready = self._ready, []
        return ready

    def _look_at_step(self, step: int) -> None:
        record, spec = self._book.step(step), self._spec.steps[step]
        if record.state != "waiting":
            return
        before = [self._book.step(each) for each in self._edges.before[step]]
        if any(each.state not in ENDED for each in before):
            return
        record.since_ms, record.cause = self._now_ms, self._cause
        state, error = _fate(spec, [(each.state, each.error) for each in before])
        items = 0
        if state == "running":
            try:
                state, items = self._start(spec)
            except KaasqError as raised:
                state, error = "failed", self._placed(step, None, _short(ErrorBody.of(raised)))
        if state != "running":
            self._end_step(step, state, error)
            return
        record.state, record.items = "running", items
        own = self._edges.own[step]
        if not own:
            head = self._book.head
            record.first = head.number + 1
            head.number += items
            self._ready.extend(Ready(record.first + item, step, item) for item in range(items))
        else:
            self._items.extend((step, item) for item in range(items))
        if items == 0:
            self._end_step(step, "completed", None)

    def _start(self, spec: FlowStep) -> tuple[State, int]:
        """Whether its condition holds, and over how many items it runs."""
        condition = spec.condition
        if condition is not None and not self._is_own(spec, condition) and not self._holds(condition, 0):
            return "skipped", 0
        return "running", 1 if spec.map is None else self._count(spec.map)

    def _holds(self, condition: StepCondition, item: int) -> bool:
        return compare(condition.op, self._number(condition, item), condition.value)

    def _number(self, value: Value, item: int) -> Number:
        if value.count is not None:
            return self._count(value.count)
        return item if value.item else self._read(value, item)

    def _count(self, name: str) -> int:
        """How many items a map has, from now on."""
        head, spec = self._book.head, self._spec.maps[name]
        if name not in head.counts:
            assert spec.count is not None, "the number of a list's items is known from the start"
            count = self._number(spec.count, 0) if isinstance(spec.count, Value) else spec.count
            most = self._limits.items if spec.most is None else min(self._limits.items, spec.most)
            if count != count or not 0 <= count <= most or count != int(count):  # noqa: PLR0124 - NaN
                raise BadRequest(f"the map has {count} items; from 0 to {most} are possible", at=f"maps.{name}.count")
            check_together(self._spec, {**head.counts, name: int(count)}, self._limits.items_together)
            head.counts[name] = int(count)
        return head.counts[name]

    def _look_at_item(self, step: int, item: int) -> None:
        """An item that waits for the same item of other steps."""
        if self._book.step(step).state != "running" or self._book.item(step, item).number:
            return
        record, spec = self._book.item(step, item), self._spec.steps[step]
        if record.state != "running":
            return
        before: list[tuple[State, ErrorBody | None]] = []
        for each in self._edges.own[step]:
            of = self._book.step(each)
            if of.items is None and of.state in ENDED:  # it never ran
                before.append((of.state, of.error))
                continue
            if of.items is None:
                return
            its = self._book.item(each, item)
            if its.state not in ENDED:
                return
            before.append((its.state, its.error and self._placed(each, item, its.error)))
        state, error = _fate(spec, before)
        condition = spec.condition
        if state == "running" and condition is not None and self._is_own(spec, condition):
            try:
                if not self._holds(condition, item):
                    state = "skipped"
            except KaasqError as raised:
                state, error = "failed", _short(ErrorBody.of(raised))
        record = self._book.change(step, item)
        record.cause, record.since_ms = self._cause, self._now_ms
        if state != "running":
            self._end_item(step, item, state, error)
            return
        head = self._book.head
        head.number += 1
        record.number = head.number
        self._ready.append(Ready(record.number, step, item))

    def _tries_again(self, step: int, item: int, record: ItemRecord, error: ErrorBody) -> bool:
        """Whether it is run once more; if so, it is due, now or later."""
        if error.code == QuotaExceeded.code and error.detail.get("which") in PUT_OFF:
            self._again_at(step, item, record, error, self._now_ms + PUT_OFF_MS)
            return True
        passing = error.code in PASSING
        if error.code in FINAL or record.attempt > self._spec.steps[step].retries + (PASSING_MOST - 1) * passing:
            return False
        due_ms = self._now_ms + PASSING_PAUSE_MS * 2 ** (record.attempt - 1) if passing else None
        self._again_at(step, item, record, error, due_ms)
        record.attempt += 1
        self._ready[-1] = self._ready[-1]._replace(attempt=record.attempt)
        return True

    def _again_at(self, step: int, item: int, record: ItemRecord, error: ErrorBody, due_ms: int | None) -> None:
        """It gets another number, and is due then."""
        head = self._book.head
        self._book.change(step, item)
        head.number += 1
        record.cause, record.number = record.number, head.number
        record.since_ms, record.due_ms, record.error = self._now_ms, due_ms, _short(error)
        self._ready.append(Ready(record.number, step, item, record.attempt, due_ms))

    def _end_item(self, step: int, item: int, state: State, error: ErrorBody | None) -> None:
        of, record = self._book.step(step), self._book.change(step, item)
        record.state, record.ended_ms, record.due_ms = state, self._now_ms, None
        record.error = error = None if error is None else _short(error)
        if state == "completed":
            of.completed += 1
        elif state == "skipped":
            of.skipped += 1
        else:
            of.failed += 1
            if of.error is None and error is not None:
                of.error = self._placed(step, item, error)
        self._items.extend((each, item) for each in self._edges.after_own[step])
        if of.ended == of.items:
            ended: State = "completed"
            if of.error is not None:
                ended = state_of(of.error)
            elif of.items and of.skipped == of.items:
                ended = "skipped"
            self._end_step(step, ended, of.error)

    def _end_step(self, step: int, state: State, error: ErrorBody | None) -> None:
        record = self._book.step(step)
        record.state, record.ended_ms, record.error = state, self._now_ms, error
        self._book.head.open -= 1
        self._steps.extend(self._edges.after[step])
        for each in self._edges.after_own[step]:  # those of its items that never were
            if record.items is None:
                self._items.extend((each, item) for item in range(self._book.step(each).items or 0))

    def _placed(self, step: int, item: int | None, error: ErrorBody) -> ErrorBody:
        """An error that says which step it was first of."""
        if "step" in error.detail:
            return error
        spec = self._spec.steps[step]
        detail, where = {**error.detail, "step": spec.name}, ""
        if item is not None and spec.map is not None:
            detail["item"], where = item, f", item {item}"
        return ErrorBody(code=error.code, message=f"step {spec.name!r}{where}: {error.message}", detail=detail)

    def _is_own(self, spec: FlowStep, value: Value) -> bool:
        """Whether a number is one of the same item."""
        of = None if value.step is None else self._spec.step(value.step)
        return of is not None and spec.map is not None and of.map == spec.map


def state_of(error: ErrorBody) -> State:
    """The state of what ended with that error."""
    return _STATES.get(error.code, "failed")


def _fate(spec: FlowStep, before: Iterable[tuple[State, ErrorBody | None]]) -> tuple[State, ErrorBody | None]:
    """What becomes of what waited for those, which have all ended: it runs, is skipped, or has failed with a cause."""
    failed, skipped = None, False
    for state, error in before:
        if state in FAILED and failed is None:
            failed = error or ErrorBody(code=WorkerFailed.code, message="what it waited for failed")
        skipped = skipped or state == "skipped"
    if spec.on == "failed":
        return ("running" if failed is not None else "skipped"), None
    if spec.on == "always" or spec.tolerate:
        return "running", None
    if failed is not None:
        return state_of(failed), failed
    return ("skipped" if skipped else "running"), None


def _short(error: ErrorBody) -> ErrorBody:
    """As much of an error as its record keeps."""
    message = error.message if len(error.message) <= SHOWN else error.message[: SHOWN - 3] + "..."
    kept = {key: value for key, value in error.detail.items() if key in {"step", "item", "at", "kills", "attempts"}}
    return ErrorBody(code=error.code, message=message, detail=kept)
