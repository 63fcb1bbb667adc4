"""Every valid workflow is accepted, with one mistake it is refused where that is; whatever comes, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.errors import KaasqError
from kaasq.flows.checks import check_flow
from kaasq.flows.edges import dependencies
from kaasq.flows.model import FlowSpec, FlowStart, FlowStep, From, StepCondition, Value
from kaasq.flows.start_checks import check_start
from kaasq.messages import ErrorBody
from tests.support.flow_strategies import MOST, flows
from tests.support.flows import START
from tests.unit.test_codec_properties import LONGEST_MESSAGE, changed, encoded, nested, numbers, places, plain, texts

LIMITS = GraphLimits()
FEW = settings(max_examples=40, deadline=None)  # a random workflow takes some milliseconds

content_types = st.sampled_from([MSGPACK, JSON])


def started(spec: FlowSpec) -> FlowStart:
    """Its start with as much of everything as may be."""
    most = min((each.most for each in spec.maps.values() if each.most is not None), default=MOST)
    bind: dict[str, Any] = {}
    for each in spec.inputs:
        bind[each.name] = (b"\0" * 16,) * most if each.many else b"\0" * 256
    return FlowStart(workflow=spec, bind=bind, scalars={each.name: most for each in spec.scalars})


@FEW
@given(flows())
def test_a_valid_workflow_has_a_normal_form(flow: FlowSpec) -> None:
    checked = check_flow(flow, LIMITS)
    assert check_flow(checked, LIMITS) == checked
    assert [each.name for each in checked.steps] == [each.name for each in flow.steps]


@FEW
@given(flows(), content_types)
def test_a_workflow_comes_back_as_it_was(flow: FlowSpec, content_type: str) -> None:
    start = started(flow)
    read = RequestDecoder(LIMITS).read(codec.encode(start, content_type), content_type)
    assert read == msgspec.structs.replace(start, workflow=check_flow(flow, LIMITS))


@FEW
@given(flows())
def test_steps_are_ordered_behind_all_that_they_wait_for(flow: FlowSpec) -> None:
    edges = dependencies(flow)
    assert sorted(edges.order) == list(range(len(flow.steps)))
    place = {number: at for at, number in enumerate(edges.order)}
    for number in edges.order:
        for before in (*edges.before[number], *edges.own[number]):
            assert place[before] < place[number]
            assert number in (*edges.after[before], *edges.after_own[before])
        assert not set(edges.before[number]) & set(edges.own[number])


# -------------------------------------------------------------------------------------------------------- one mistake

Mistake = Callable[[FlowStep], dict[str, Any]]


def bound(**changes: Any) -> Mistake:
    return lambda step: {"bind": {**step.bind, **changes}}


MISTAKES: dict[str, Mistake] = {
    "unknown graph": lambda _: {"graph": "nope"},
    "unknown map": lambda _: {"map": "nope"},
    "unknown step before it": lambda step: {"after": (*step.after, "nope")},
    "after itself": lambda step: {"after": (*step.after, step.name)},
    "unknown step bound": bound(x=From(step="nope", output="out")),
    "unknown input bound": bound(x=From(input="nope")),
    "unknown mask": bound(x=From(mask="nope")),
    "no source": bound(x=From()),
    "two sources": bound(x=From(ref="ab" * 32, name="n")),
    "a step without output": bound(x=From(step="nope")),
    "a wrong size": bound(x=b"\0" * 7),
    "no reference": bound(x=From(ref="ab")),
    "no name": bound(x=From(name="\0")),
    "unknown buffer": bound(nope=b""),
    "an output bound": bound(out=b""),
    "nothing bound": lambda _: {"bind": {}},
    "its own output": lambda step: {
        "bind": {**step.bind, "x": From(step=step.name, output="out", each=step.map is not None)}
    },
    "unknown scalar": lambda step: {"scalars": {**step.scalars, "nope": 1}},
    "unknown scalar taken": lambda _: {"scalars": {"a": Value(scalar="nope")}},
    "unknown count taken": lambda _: {"scalars": {"a": Value(count="nope")}},
    "no number": lambda step: {"scalars": {"a": Value(step=step.name, output="out")}},
    "a number that does not fit": lambda _: {"scalars": {"i": 2**70}},
    "no whole number": lambda _: {"scalars": {"i": 0.5}},
    "a condition on nothing": lambda _: {"condition": StepCondition(op="<", value=0)},
    "a condition on an unknown step": lambda _: {"condition": StepCondition(step="nope", output="n", op="<", value=0)},
    "kept under no name": lambda _: {"keep": {"out": ""}},
    "kept under one name for all, or an item's": lambda step: {"keep": {"out": "{item}" if step.map is None else "k"}},
    "an unknown placeholder": lambda _: {"keep": {"out": "{nope}{item}"}},
    "an input kept": lambda step: {"keep": {"x": "k{item}" if step.map is not None else "k"}},
    "too many retries": lambda _: {"retries": LIMITS.retries + 1},
}


@settings(max_examples=120, deadline=None)  # each mistake some times
@given(flows(), st.sampled_from(sorted(MISTAKES)), st.data())
def test_a_mistake_in_a_step_is_refused_naming_it(flow: FlowSpec, mistake: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(flow.steps) - 1))
    step = flow.steps[number]
    wrong = msgspec.structs.replace(step, **MISTAKES[mistake](step))
    steps = (*flow.steps[:number], wrong, *flow.steps[number + 1 :])
    error = refused(msgspec.structs.replace(flow, steps=steps))
    assert error.detail["at"].startswith(f"steps[{number}] ({step.name})")


@FEW
@given(flows(), st.data())
def test_names_that_are_none_or_another_steps_are_refused_naming_the_place(flow: FlowSpec, data: st.DataObject) -> None:
    number = len(flow.steps)
    name = data.draw(st.sampled_from([each.name for each in flow.steps]) | st.sampled_from(["", "/", "a/", "a b", "é"]))
    again = FlowStep(name=name, graph=flow.steps[0].graph, bind=flow.steps[0].bind)
    error = refused(msgspec.structs.replace(flow, steps=(*flow.steps, again)))
    assert error.detail["at"] == f"steps[{number}].name"


def refused(flow: FlowSpec) -> KaasqError:
    error = None
    try:
        check_flow(flow, LIMITS)
    except KaasqError as caught:
        error = caught
    assert error is not None
    assert error.code in {"bad_request", "buffer_size", "buffer_missing"}
    assert len(error.message) < LONGEST_MESSAGE
    return error


# ----------------------------------------------------------------------------------------------------- whatever comes


def starts_or_is_refused(body: bytes, content_type: str) -> None:
    """Nothing but errors that can travel, and are not as long as what they are about."""
    error = None
    try:
        start = RequestDecoder(LIMITS).read(body, content_type)
        if isinstance(start, FlowStart):
            check_start(start, start.workflow, LIMITS)
    except KaasqError as caught:
        error = caught
    if error is not None:
        assert len(error.message) < LONGEST_MESSAGE
        codec.encode(ErrorBody.of(error), JSON)


@FEW
@given(flows(), content_types, st.data())
def test_any_other_value_in_any_place_starts_or_is_refused(
    flow: FlowSpec, content_type: str, data: st.DataObject
) -> None:
    body = plain(started(flow), content_type)
    path = data.draw(
        st.sampled_from([each for each in places(body) if "launches" not in each and "modules" not in each])
    )
    value = data.draw(numbers | texts | nested() | st.just(...))
    starts_or_is_refused(encoded(changed(body, path, value), content_type), content_type)


@FEW
@given(flows(), content_types, st.data())
def test_what_stands_elsewhere_put_into_any_place_starts_or_is_refused(
    flow: FlowSpec, content_type: str, data: st.DataObject
) -> None:
    body = plain(started(flow), content_type)
    every = [each for each in places(body) if "launches" not in each and "modules" not in each]
    path, other = data.draw(st.sampled_from(every)), data.draw(st.sampled_from(every))
    value = body
    for key in other:
        value = value[key]
    starts_or_is_refused(encoded(changed(body, path, value), content_type), content_type)


@FEW
@given(st.data(), content_types)
def test_a_damaged_start_is_read_or_refused(data: st.DataObject, content_type: str) -> None:
    body = bytearray(codec.encode(START, content_type))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    starts_or_is_refused(bytes(body), content_type)
