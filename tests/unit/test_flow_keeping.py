"""What a running workflow still needs of the store, and when its life there is to be prolonged."""

from __future__ import annotations

import pytest

from kaasq.flows.edges import dependencies
from kaasq.flows.model import FlowSpec, FlowStart, FlowStep, From, MapSpec, State
from kaasq.messages import Stored
from kaasq_workers.flows.keeping import bound, keep_at_ms, needed
from kaasq_workers.flows.records import Book, Head, Pages

TTL, LONGEST = 1000, 10_000


def head(**fields: object) -> Head:
    given: dict[str, object] = {"name": "f", "definition": "", "digest": "", "started_ms": 5000, **fields}
    return Head(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "at_ms"),
    [
        (head(), 5500),  # of an earlier version: as if it had been kept when it began
        (head(kept_ms=6000), 5500),
        (head(kept_ms=5200), 5100),  # inputs that last for less
        (head(kept_ms=9000), 8500),
        (head(kept_ms=15_400), 14_900),
        (head(kept_ms=15_600), None),  # it runs for too long
        (head(state="completed"), None),
    ],
)
def test_what_it_needs_is_kept_in_good_time_and_not_for_ever(of: Head, at_ms: int | None) -> None:
    assert keep_at_ms(of, TTL, LONGEST) == at_ms


def out(step: str) -> From:
    return From(step=step, output="out")


SPEC = FlowSpec(
    name="f",
    maps={"m": MapSpec(count=3)},
    steps=(
        FlowStep(name="a", graph="g", map="m", bind={"x": From(ref="aa")}),
        FlowStep(name="b", graph="g", bind={"x": out("a"), "y": From(ref="bb")}),
        FlowStep(name="c", graph="g", bind={"x": out("b"), "y": From(name="n")}),
        FlowStep(name="d", graph="g", bind={"x": out("b")}),
        FlowStep(name="e", graph="g", bind={"x": out("d")}),
    ),
    outputs={"out": out("c")},
)


def book(*states: State) -> Book:
    made = Book(Pages())
    for step, state in enumerate(states):
        record = made.step(step)
        record.state, record.items, record.first = state, (3 if step == 0 else 1), 10 * step + 1
        for item in range(record.items if state != "waiting" else 0):
            made.change(step, item).state = "completed" if state == "completed" else "running"
    return made


@pytest.mark.parametrize(
    ("states", "ids"),
    [
        (("completed", "running", "waiting", "waiting", "waiting"), ["f+1", "f+2", "f+3"]),
        (("completed", "completed", "running", "completed", "completed"), ["f+11"]),
        (("completed", "completed", "completed", "completed", "running"), ["f+21", "f+31"]),
        (("completed", "completed", "completed", "completed", "failed"), ["f+21"]),
    ],
)
def test_it_needs_what_others_have_yet_to_take_and_what_it_gives(states: tuple[State, ...], ids: list[str]) -> None:
    assert list(needed("f", SPEC, dependencies(SPEC), book(*states))) == ids


def test_of_a_map_that_runs_it_needs_the_items_that_have_completed() -> None:
    running = book("running", "waiting", "waiting", "waiting", "waiting")
    running.change(0, 1).state = "completed"
    assert list(needed("f", SPEC, dependencies(SPEC), running)) == ["f+2"]


def test_it_needs_what_it_was_started_with_and_what_steps_to_come_are_bound_to() -> None:
    given = {"x": Stored(ref="cc"), "l": (b"1", Stored(ref="dd", offset=4), Stored(name="named")), "y": b"2"}
    start = FlowStart(workflow=SPEC, bind=given)
    assert bound(start, book("running", "waiting")) == {"aa", "bb", "cc", "dd"}
    assert bound(start, book("completed", "running")) == {"bb", "cc", "dd"}
