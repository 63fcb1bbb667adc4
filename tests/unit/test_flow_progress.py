"""What is due in a workflow when something in it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest, KernelFailed, OutOfMemory, QuotaExceeded
from kaasq.flows.edges import dependencies
from kaasq.flows.model import ENDED, FlowSpec, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.messages import ErrorBody
from kaasq.model import Number
from kaasq_workers.flows.pending import Ready
from kaasq_workers.flows.progress import Progress
from kaasq_workers.flows.records import Book, Pages

FAILED = ErrorBody.of(KernelFailed("it crashed"))
WRONG = ErrorBody.of(BadRequest("no such kernel"))
FULL = ErrorBody.of(OutOfMemory("no room"))


LIMITS = GraphLimits(items=100, items_together=200)


class Flow:
    """A workflow whose steps end as a test says; every look at it goes through its encoded records."""

    def __init__(
        self, *steps: FlowStep, maps: Mapping[str, MapSpec] | None = None, lists: Mapping[str, int] = {}
    ) -> None:
        self.spec = FlowSpec(name="f", steps=steps, maps=dict(maps or {}))
        self.pages = Pages()
        self.numbers: dict[tuple[str, int], Number] = {}
        self.ready: dict[int, Ready] = {}
        self.now_ms = 1000
        book = Book(self.pages)
        book.head.counts = dict(lists or {})
        book.save()
        self.note(self.change(lambda progress: progress.begin()))

    def read(self, value: Value, item: int) -> Number:
        assert value.step is not None
        return self.numbers[value.step, item]

    def change(self, act: Any) -> list[Ready]:
        self.now_ms += 1
        self.book = Book(self.pages)
        progress = Progress(self.spec, dependencies(self.spec), self.book, self.read, now_ms=self.now_ms, limits=LIMITS)
        ready: list[Ready] = act(progress)
        self.book.save()
        return ready

    def note(self, ready: list[Ready]) -> list[str]:
        for each in ready:
            assert each.number not in self.ready, "a number means one thing"
            self.ready[each.number] = each
        return [self.name(each) for each in ready]

    def name(self, ready: Ready) -> str:
        if ready.step is None:
            return "end"
        step = self.spec.steps[ready.step]
        return step.name if step.map is None else f"{step.name}.{ready.item}"

    def end(self, name: str, error: ErrorBody | None = None) -> list[str]:
        """End the last attempt of that one: the names of what is due then."""
        number = max(number for number, each in self.ready.items() if self.name(each) == name)
        ready = self.ready[number]
        assert ready.step is not None
        return self.note(self.change(lambda progress: progress.ended(number, ready.step, ready.item, error)))

    def again(self, name: str) -> set[str]:
        number = max(number for number, each in self.ready.items() if self.name(each) == name)
        return self.caused_by(self.ready[number])

    def caused_by(self, ready: Ready) -> set[str]:
        return {
            self.name(each)
            for each in self.change(lambda progress: progress.again(ready.number, ready.step, ready.item))
        }

    def state(self, name: str) -> str:
        return self.book.step(self.spec.number_of(name)).state

    @property
    def first(self) -> list[str]:
        return [self.name(each) for each in self.change(lambda progress: progress.due())]

    @property
    def verdict(self) -> tuple[str, str | None]:
        book = Book(self.pages)
        progress = Progress(self.spec, dependencies(self.spec), book, self.read, now_ms=self.now_ms, limits=LIMITS)
        state, error = progress.verdict()
        return state, None if error is None else error.message


def step(name: str, *takes: str, **fields: Any) -> FlowStep:
    bind = {f"x{number}": From(step=each, output="out") for number, each in enumerate(takes)}
    return FlowStep(name=name, graph="g", bind=bind, **fields)


def item(name: str, *takes: str, **fields: Any) -> FlowStep:
    """A step of the map ``m`` that takes others' outputs item by item."""
    bind = {f"x{number}": From(step=each, output="out", each=True) for number, each in enumerate(takes)}
    return FlowStep(name=name, graph="g", map="m", bind=bind, **fields)


def test_steps_become_due_when_all_that_they_take_has_completed() -> None:
    flow = Flow(step("a"), step("b"), step("c", "a", "b"), step("d", "c"))
    assert flow.first == ["a", "b"]
    assert flow.end("a") == []
    assert flow.end("b") == ["c"]
    assert flow.end("c") == ["d"]
    assert flow.end("d") == ["end"]
    assert flow.verdict == ("completed", None)


def test_steps_may_stand_in_any_order() -> None:
    flow = Flow(step("b", "a"), step("a"))
    assert flow.first == ["a"]
    assert flow.end("a") == ["b"]


def test_what_ends_twice_changes_nothing_the_second_time() -> None:
    flow = Flow(step("a"), step("b", "a"))
    assert flow.end("a") == ["b"]
    assert flow.end("a") == []
    assert flow.end("a", FAILED) == []
    assert flow.state("a") == "completed"


def test_what_an_end_made_due_is_told_again_until_it_has_ended() -> None:
    flow = Flow(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
    flow.end("a")
    assert flow.again("a") == {"b", "c"}
    flow.end("b")
    assert flow.again("a") == {"c"}
    assert flow.again("b") == set()
    flow.end("c")
    assert flow.again("c") == flow.again("a") == {"d"}, "who went on from one to the next had one delivery"
    flow.end("d")
    assert flow.again("d") == flow.again("a") == flow.caused_by(Ready(0)) == {"end"}


def test_a_failed_step_fails_what_takes_it_and_others_go_on() -> None:
    flow = Flow(step("a"), step("b", "a"), step("c"), step("d", "c"), step("e", "b", "d"))
    assert flow.end("a", FAILED) == []
    assert flow.state("b") == "failed"
    assert flow.state("e") == "waiting"
    assert flow.end("c") == ["d"]
    assert flow.end("d") == ["end"]
    assert flow.state("e") == "failed"
    assert flow.verdict == ("failed", "step 'a': it crashed")


@pytest.mark.parametrize("how", [{"tolerate": True}, {"on": "always"}])
def test_a_join_that_tolerates_runs_and_the_workflow_has_not_failed(how: dict[str, Any]) -> None:
    flow = Flow(step("a"), step("b", "a", **how))
    assert flow.end("a", FAILED) == ["b"]
    assert flow.end("b") == ["end"]
    assert flow.verdict == ("completed", None)


def test_a_failure_that_somebody_does_not_tolerate_fails_the_workflow() -> None:
    flow = Flow(step("a"), step("b", "a", tolerate=True), step("c", "a"))
    assert flow.end("a", FAILED) == ["b"]
    assert flow.end("b") == ["end"]
    assert flow.verdict == ("failed", "step 'a': it crashed")


def test_an_error_step_runs_if_something_failed_and_else_is_skipped() -> None:
    flow = Flow(step("a"), step("undo", after=("a",), on="failed"))
    assert flow.end("a", FAILED) == ["undo"]
    assert flow.end("undo") == ["end"]
    assert flow.verdict == ("failed", "step 'a': it crashed")
    flow = Flow(step("a"), step("undo", after=("a",), on="failed"))
    assert flow.end("a") == ["end"]
    assert flow.state("undo") == "skipped"
    assert flow.verdict == ("completed", None)


def test_a_condition_that_does_not_hold_skips_a_step_and_what_takes_it() -> None:
    when = StepCondition(step="a", output="n", op=">", value=3)
    for number, due in ((4, ["b"]), (3, ["end"])):
        flow = Flow(step("a"), step("b", condition=when), step("c", "b"))
        flow.numbers["a", 0] = number
        assert flow.end("a") == due
        assert flow.state("c") == ("waiting" if number == 4 else "skipped")
        assert flow.verdict == ("completed", None)


def test_a_step_is_run_again_as_often_as_it_may() -> None:
    flow = Flow(step("a", retries=2), step("b", "a"))
    assert flow.end("a", FAILED) == ["a"]
    assert flow.again("a") == set()
    assert flow.end("a", FAILED) == ["a"]
    assert flow.end("a", FAILED) == ["end"]
    assert [each.attempt for each in flow.ready.values()] == [1, 2, 3, 1]
    assert flow.state("b") == "failed"


def test_an_attempt_that_was_given_up_counts_no_more() -> None:
    flow = Flow(step("a", retries=1), step("b", "a"))
    flow.end("a", FAILED)
    assert flow.note(flow.change(lambda progress: progress.ended(1, 0, 0, None))) == []
    assert flow.caused_by(Ready(1, 0)) == {"a"}
    assert flow.end("a") == ["b"]


def test_what_cannot_succeed_is_not_run_again() -> None:
    flow = Flow(step("a", retries=5))
    assert flow.end("a", WRONG) == ["end"]


def test_what_may_pass_is_run_again_later_without_being_asked_for() -> None:
    flow = Flow(step("a"))
    pauses = []
    for _ in range(5):
        assert flow.end("a", FULL) == ["a"]
        last = flow.ready[max(flow.ready)]
        assert last.due_ms is not None
        pauses.append(last.due_ms - flow.now_ms)
    assert pauses == [500, 1000, 2000, 4000, 8000]
    assert flow.end("a", FULL) == ["end"]
    assert flow.verdict == ("failed", "step 'a': no room")


def test_a_map_runs_once_for_each_item_and_a_join_waits_for_all() -> None:
    flow = Flow(item("a"), step("j", "a"), maps={"m": MapSpec(input="xs")}, lists={"m": 3})
    assert flow.first == ["a.0", "a.1", "a.2"]
    assert flow.end("a.1") == flow.end("a.0") == []
    assert flow.end("a.2") == ["j"]


def test_items_go_from_step_to_step_of_a_map_one_by_one() -> None:
    flow = Flow(item("a"), item("b", "a"), item("c", "b", "a"), step("j", "c"), maps={"m": MapSpec(count=2)})
    assert flow.end("a.1") == ["b.1"]
    assert flow.end("b.1") == ["c.1"]
    assert flow.again("a.1") == {"c.1"}
    assert flow.again("a.0") == set()
    assert flow.again("b.1") == {"c.1"}
    assert flow.end("a.0") == ["b.0"]
    assert flow.end("c.1") == []
    assert flow.end("b.0") == ["c.0"]
    assert flow.end("c.0") == ["j"]


def test_the_number_of_items_may_come_from_an_output() -> None:
    maps = {"m": MapSpec(count=Value(step="n", output="n"), most=5)}
    for count, due in ((2, ["a.0", "a.1"]), (0, ["j"]), (2.0, ["a.0", "a.1"])):
        flow = Flow(step("n"), item("a"), step("j", "a"), maps=maps)
        flow.numbers["n", 0] = count
        assert flow.end("n") == due
    for count in (6, -1, 1.5, float("nan"), float("inf")):
        flow = Flow(step("n"), item("a"), item("b", "a"), step("j", "b"), maps=maps)
        flow.numbers["n", 0] = count
        assert flow.end("n") == ["end"]
        state, why = flow.verdict
        assert state == "failed"
        assert why is not None
        assert why.startswith(f"step 'a': maps.m.count: the map has {count} items; from 0 to 5")
        assert {flow.state(each) for each in "abj"} == {"failed"}


def test_a_failed_item_fails_the_join_with_its_place_once_the_others_have_ended() -> None:
    flow = Flow(item("a"), item("b", "a"), step("j", "b"), maps={"m": MapSpec(count=3)})
    flow.end("a.0")
    assert flow.end("a.1", FAILED) == []
    flow.end("a.2")
    assert flow.end("b.0") == []
    assert flow.end("b.2") == ["end"]
    assert flow.state("j") == "failed"
    assert flow.verdict == ("failed", "step 'a', item 1: it crashed")


def test_a_join_may_tolerate_failed_items() -> None:
    flow = Flow(item("a"), step("j", "a", tolerate=True), maps={"m": MapSpec(count=2)})
    flow.end("a.0", FAILED)
    assert flow.end("a.1") == ["j"]
    flow.end("j")
    assert flow.verdict == ("completed", None)
    assert (flow.book.step(0).completed, flow.book.step(0).failed) == (1, 1)


def test_a_condition_inside_a_map_is_each_items_own() -> None:
    when = StepCondition(step="a", output="n", op=">", value=0)
    flow = Flow(item("a"), item("b", "a", condition=when), step("j", "b", tolerate=True), maps={"m": MapSpec(count=2)})
    flow.numbers = {("a", 0): 0, ("a", 1): 1}
    assert flow.end("a.0") == []
    assert flow.end("a.1") == ["b.1"]
    assert flow.end("b.1") == ["j"]


def test_a_map_that_would_make_too_many_items_of_all_steps_fails_where_its_number_is_known() -> None:
    many = {"m": MapSpec(count=Value(step="n", output="n"))}
    flow = Flow(step("n"), item("a"), item("b", "a"), item("c"), maps=many)
    flow.numbers["n", 0] = 67
    assert flow.end("n") == ["end"]
    state, message = flow.verdict
    assert state == "failed"
    assert "all steps together would run 202 times, this one 67 times; the limit is 200" in (message or "")


@pytest.mark.parametrize("which", ["queued", "device_seconds"])
def test_a_quota_that_passes_by_itself_puts_a_step_off_and_costs_no_attempt(which: str) -> None:
    flow = Flow(step("a"))
    full = ErrorBody.of(QuotaExceeded("too many", which=which, limit=1, used=1))
    for _ in range(20):
        assert flow.end("a", full) == ["a"]
        latest = flow.ready[max(flow.ready)]
        assert latest.attempt == 1
        assert latest.due_ms is not None
    assert flow.end("a") == ["end"]
    assert flow.verdict == ("completed", None)


def test_an_item_is_run_again_alone() -> None:
    flow = Flow(item("a", retries=1), item("b", "a"), maps={"m": MapSpec(count=2)})
    assert flow.end("a.0", FAILED) == ["a.0"]
    assert flow.end("a.1") == ["b.1"]
    assert flow.end("a.0") == ["b.0"]


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    steps: list[FlowStep] = []
    for number in range(draw(st.integers(1, 7))):
        names = [each.name for each in steps]
        takes = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        inside = draw(st.booleans())
        bind = {}
        for index, name in enumerate(takes):
            same = inside and next(each for each in steps if each.name == name).map == "m"
            bind[f"x{index}"] = From(step=name, output="out", each=same and draw(st.booleans()))
        on = draw(st.sampled_from(["completed", "completed", "failed", "always"])) if takes else "completed"
        steps.append(
            FlowStep(
                name=f"s{number}", graph="g", map="m" if inside else None, bind=bind, on=on,
                tolerate=draw(st.booleans()), retries=draw(st.integers(0, 1)),
            )
        )  # fmt: skip
    return Flow(*steps, maps={"m": MapSpec(count=draw(st.integers(0, 3)))})


@given(flow=flows(), data=st.data())
def test_whatever_ends_how_and_when_the_workflow_ends_and_nothing_is_due_twice(flow: Flow, data: st.DataObject) -> None:
    """No state in which it hangs: as long as it has not ended something is due, and it is known to whoever asks."""
    open_ = {number for number, each in flow.ready.items() if each.step is not None}
    before: dict[int, list[int]] = {0: []} | {number: [0] for number in flow.ready}
    for _ in range(200):
        due = set(flow.change(lambda progress: progress.due()))
        assert {each.number for each in due} >= open_
        if not open_:
            break
        number = data.draw(st.sampled_from(sorted(open_)))
        ready = flow.ready[number]
        assert ready.step is not None
        error = data.draw(st.sampled_from([None, None, FAILED, WRONG]))
        step_, item_ = ready.step, ready.item
        made = flow.change(lambda progress: progress.ended(number, step_, item_, error))  # noqa: B023
        flow.note(made)
        told = flow.change(lambda progress: progress.again(number, step_, item_))  # noqa: B023
        assert {each.number for each in told} == {each.number for each in made}
        open_.discard(number)
        open_ |= {each.number for each in made if each.step is not None}
        before |= {each.number: [*before[number], number] for each in made}
        earlier = data.draw(st.sampled_from(sorted(before)))
        at = flow.ready.get(earlier, Ready(0))
        told = flow.change(lambda progress: progress.again(earlier, at.step, at.item))  # noqa: B023
        assert {each for each in open_ if earlier in before[each]} <= {each.number for each in told}
    assert any(each.step is None for each in flow.ready.values())
    assert all(flow.state(each.name) in ENDED for each in flow.spec.steps)
