"""Which steps of a workflow wait for which."""

from __future__ import annotations

import pytest

from kaasq.errors import BadRequest
from kaasq.flows.edges import Edges, dependencies
from kaasq.flows.model import FlowSpec, FlowStep, From, MapSpec, StepCondition, Value


def edges(*steps: FlowStep, **maps: MapSpec) -> Edges:
    return dependencies(FlowSpec(name="flow", steps=steps, maps=maps))


def step(name: str, mapped: str | None = None, after: tuple[str, ...] = (), **bind: From) -> FlowStep:
    return FlowStep(name=name, graph="g", map=mapped, after=after, bind=dict(bind))


def test_a_step_waits_for_what_it_takes_and_what_it_comes_after() -> None:
    found = edges(
        step("a"),
        step("b", x=From(step="a", output="out")),
        FlowStep(name="c", graph="g", scalars={"n": Value(step="a", output="out"), "m": 2}),
        FlowStep(name="d", graph="g", condition=StepCondition(step="b", output="out", op=">", value=0)),
        step("e", after=("c", "d"), x=From(ref="0" * 64), y=From(input="x")),
    )
    assert found.before == ((), (0,), (0,), (1,), (2, 3))
    assert found.own == ((),) * 5
    assert found.after == ((1, 2), (3,), (4,), (4,), ())
    assert found.order == (0, 1, 2, 3, 4)


def test_an_item_waits_for_the_same_item_in_its_own_map_only() -> None:
    found = edges(
        step("a"),
        step("b", "m", x=From(input="xs", each=True), y=From(step="a", output="out", each=True)),
        step("c", "m", x=From(step="b", output="out", each=True)),
        FlowStep(name="d", graph="g", map="m", scalars={"n": Value(step="c", output="out"), "i": Value(item=True)}),
        FlowStep(name="e", graph="g", map="m", condition=StepCondition(step="d", output="out", op="<", value=1)),
        step("f", "k", x=From(step="e", output="out", each=True)),
        m=MapSpec(input="xs"),
        k=MapSpec(count=3),
    )
    assert found.own == ((), (), (1,), (2,), (3,), ())
    assert found.before == ((), (0,), (), (), (), (4,))
    assert found.after_own == ((), (2,), (3,), (4,), (), ())


def test_a_step_that_takes_all_items_or_a_mask_waits_for_the_whole_map() -> None:
    found = edges(
        step("a", "m"),
        step("b", x=From(step="a", output="out"), ok=From(mask="a")),
        step("c", "m", x=From(step="a", output="out"), y=From(step="a", output="out", each=True)),
        step("d", "m", after=("c",)),
        m=MapSpec(count=2),
    )
    assert found.before == ((), (0,), (0,), (2,))
    assert found.own == ((),) * 4, "whoever waits for all waits for its own item, too"


def test_steps_wait_for_the_step_that_counts_their_map_or_the_map_whose_count_they_take() -> None:
    found = edges(
        step("count"),
        step("b", "m"),
        step("c", "k"),
        FlowStep(name="d", graph="g", scalars={"n": Value(count="k")}),
        k=MapSpec(count=Value(count="m")),
        m=MapSpec(count=Value(step="count", output="n"), most=8),
    )
    assert found.before == ((), (0,), (0,), (0,))


def test_the_order_is_as_given_where_that_is_possible() -> None:
    assert edges(step("a", after=("c",)), step("b"), step("c"), step("d")).order == (1, 2, 0, 3)


def test_a_circle_of_steps_is_refused_and_shown() -> None:
    with pytest.raises(BadRequest, match=r"^steps\[\d\] \(\w\): these steps wait for each other: ") as refused:
        edges(step("a", after=("d",)), step("b", after=("a",)), step("d", x=From(step="b", output="out")))
    assert refused.value.message.rpartition(": ")[2] in {"a -> b -> d -> a", "b -> d -> a -> b", "d -> a -> b -> d"}
    with pytest.raises(BadRequest, match=r"steps\[0\] \(a\): these steps wait for each other: a -> a"):
        edges(step("a", after=("a",)))


def test_items_that_wait_for_each_other_are_a_circle_too() -> None:
    with pytest.raises(BadRequest, match="these steps wait for each other: "):
        edges(
            step("a", "m", x=From(step="b", output="out", each=True)),
            step("b", "m", x=From(step="a", output="out", each=True)),
            m=MapSpec(count=2),
        )


def test_a_map_that_its_own_step_counts_is_a_circle() -> None:
    with pytest.raises(BadRequest, match=r"wait for each other: (b -> a -> b|a -> b -> a)$"):
        edges(step("a", "m"), step("b", x=From(step="a", output="out")), m=MapSpec(count=Value(step="b", output="n")))


def test_maps_that_count_each_other_are_refused_and_shown() -> None:
    with pytest.raises(
        BadRequest, match=r"^workflow.maps.m: the counts of these maps wait for each other: k -> l -> k$"
    ):
        edges(
            step("a", "m"),
            m=MapSpec(count=Value(count="k")),
            k=MapSpec(count=Value(count="l")),
            l=MapSpec(count=Value(count="k")),
        )
