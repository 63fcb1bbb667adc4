"""Building workflows from Python: what becomes of steps, maps and workflows inside others; mistakes, where made."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import BadRequest, BufferMissing, BufferSize, KaasqError, Keep, Output, Stored, Workflow, kaas
from kaasq.checks import GraphLimits
from kaasq.flows.checks import check_flow
from kaasq.flows.model import FlowInput, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.messages import Condition, Repeat, Source
from kaasq.model import Scalar
from kaasq_producers import BufferRef
from tests.support.flows import FLOW, GRAPHS
from tests.support.graphs import saxpy
from tests.support.kaas import FOLDER

BLUR, JOIN, SPLIT, TELL = (GRAPHS[name] for name in ("blur", "join", "split", "tell"))
ONES = np.ones(4, np.float32)


def step_of(flow: Workflow, name: str) -> FlowStep:
    step = flow.spec.step(name)
    assert step is not None
    return step


def tiles_flow() -> Workflow:
    """A list blurred and blurred again, item by item, and joined."""
    flow = Workflow("tiles")
    tiles = flow.inputs("tiles", shape=4, dtype="float32")
    weights = flow.input("weights", nbytes=16)
    strength = flow.scalar("strength", np.float32, default=2)
    blur = flow.map("blur", BLUR, x=tiles.each, weights=weights, a=strength, i=flow.item, retries=2, timeout=0.25)
    again = flow.map("again", BLUR, x=blur["out"].each, weights=weights, a=blur["off"], i=blur.count, most=None)
    join = flow.step("join", JOIN, all=again["out"], ok=again.mask, tolerate=True)
    flow.output("sum", join["sum"])
    return flow


def test_steps_take_inputs_scalars_and_outputs_item_by_item_or_of_all_items() -> None:
    spec = tiles_flow().spec
    assert spec.inputs == (
        FlowInput(name="tiles", nbytes=16, dtype="float32", shape=(4,), many=True),
        FlowInput(name="weights", nbytes=16),
    )
    assert spec.scalars == (Scalar(name="strength", dtype="float32", default=2.0),)
    assert spec.maps == {"tiles": MapSpec(input="tiles")}
    assert spec.steps == (
        FlowStep(
            name="blur",
            graph="blur",
            map="tiles",
            bind={"x": From(input="tiles", each=True), "weights": From(input="weights")},
            scalars={"a": Value(scalar="strength"), "i": Value(item=True)},
            retries=2,
            timeout_ms=250,
        ),
        FlowStep(
            name="again",
            graph="blur",
            map="tiles",
            bind={"x": From(step="blur", output="out", each=True), "weights": From(input="weights")},
            scalars={"a": Value(step="blur", output="off"), "i": Value(count="tiles")},
        ),
        FlowStep(
            name="join",
            graph="join",
            bind={"all": From(step="again", output="out"), "ok": From(mask="again")},
            tolerate=True,
        ),
    )
    assert spec.outputs == {"sum": From(step="join", output="sum")}


def test_data_given_in_place_becomes_part_of_the_workflow_and_stored_data_a_reference() -> None:
    flow = Workflow("f")
    flow.step("list", BLUR, x=[1, 2, 3, 4], weights=b"w" * 16, a=3, out=Keep("blurred"))
    flow.step("stored", BLUR, x=BufferRef(ref="ab" * 32, nbytes=16), weights=Stored(name="model/w", offset=8))
    assert step_of(flow, "list").bind == {"x": np.float32([1, 2, 3, 4]).tobytes(), "weights": b"w" * 16}
    assert step_of(flow, "list").scalars == {"a": 3}
    assert step_of(flow, "list").keep == {"out": "blurred"}
    assert step_of(flow, "stored").bind == {"x": From(ref="ab" * 32), "weights": From(name="model/w", offset=8)}


def test_a_kaas_request_is_a_step_with_what_it_binds_and_keeps() -> None:
    request = kaas.load((FOLDER / "dot.json").read_bytes())
    flow = Workflow("f")
    flow.step("dot", request)
    step = step_of(flow, "dot")
    assert set(step.bind) == set(request.bind)
    assert step.keep == request.keep


def test_a_part_of_an_input_or_output_begins_at_an_offset_and_a_number_stands_at_an_index() -> None:
    flow = Workflow("f")
    image = flow.input("image", shape=(4, 4), dtype="float32")
    split = flow.step("split", SPLIT, x=image)
    flow.step("blur", BLUR, x=image.at(offset=16), weights=split["tiles"].at(offset=0), a=split["tiles"].at(index=7))
    blur = step_of(flow, "blur")
    assert blur.bind == {"x": From(input="image", offset=16), "weights": From(step="split", output="tiles", offset=0)}
    assert blur.scalars == {"a": Value(step="split", output="tiles", index=7)}


def test_a_comparison_is_a_condition() -> None:
    flow = Workflow("f")
    limit = flow.scalar("limit", "float32", default=1)
    split = flow.step("split", SPLIT, x=np.zeros(16, np.float32))
    parts = flow.map("parts", BLUR, count=split["n"], x=split["tiles"].each, weights=ONES, when=flow.item != 0)
    for name, when in {
        "many": split["n"] >= np.int32(2),
        "third": split["tiles"].at(index=2) < 0.5,
        "limited": limit == 1,
        "some": parts.count > 0,
    }.items():
        flow.step(name, TELL, when=when)
    conditions = {each.name: each.condition for each in flow.spec.steps}
    assert conditions == {
        "split": None,
        "parts": StepCondition(item=True, op="!=", value=0),
        "many": StepCondition(step="split", output="n", op=">=", value=2),
        "third": StepCondition(step="split", output="tiles", index=2, op="<", value=0.5),
        "limited": StepCondition(scalar="limit", op="==", value=1),
        "some": StepCondition(count="parts", op=">", value=0),
    }


def test_the_items_of_a_map_are_counted_by_a_number_or_an_output_or_are_those_of_another() -> None:
    flow = Workflow("f")
    split = flow.step("split", SPLIT, x=np.zeros(16, np.float32))
    flow.map("three", BLUR, count=3, x=ONES, weights=ONES)
    counted = flow.map("counted", BLUR, count=split["n"], most=4, x=split["tiles"].each, weights=ONES)
    flow.map("beside", BLUR, over=counted, x=ONES, weights=ONES, i=flow.item)
    listed = flow.inputs("list", nbytes=16)
    flow.map("first", BLUR, over=listed, most=8, x=ONES, weights=ONES)
    flow.map("second", BLUR, x=ONES, weights=listed.each)
    assert flow.spec.maps == {
        "three": MapSpec(count=3),
        "counted": MapSpec(count=Value(step="split", output="n"), most=4),
        "list": MapSpec(input="list", most=8),
    }
    assert [each.map for each in flow.spec.steps] == [None, "three", "counted", "counted", "list", "list"]


def test_two_lists_are_taken_side_by_side() -> None:
    flow = Workflow("f")
    left, right = (flow.inputs(name, nbytes=16) for name in ("left", "right"))
    flow.map("both", BLUR, x=left.each, weights=right.each)
    assert flow.spec.maps == {"left": MapSpec(input="left")}
    assert step_of(flow, "both").bind == {"x": From(input="left", each=True), "weights": From(input="right", each=True)}


def test_a_map_whose_name_is_taken_by_another_has_one_like_it() -> None:
    flow = Workflow("f")
    listed = flow.inputs("same", nbytes=16)
    flow.map("a", BLUR, x=listed.each, weights=ONES)
    flow.map("same", BLUR, count=2, x=ONES, weights=ONES)
    assert flow.spec.maps == {"same": MapSpec(input="same"), "same-2": MapSpec(count=2)}


def test_steps_run_on_failure_after_others_and_in_loops() -> None:
    flow = Workflow("f")
    repeat = kaasq.repeat({"x": "out"}, until=Output("off") < 0.1, most=5)
    first = flow.step("first", BLUR, x=ONES, weights=ONES, repeat=repeat)
    second = flow.step("second", BLUR, x=ONES, weights=ONES, after=first)
    flow.step("mend", TELL, on="failed", after=[first, second, first])
    flow.step("tell", TELL, on="always", after=second)
    until = Condition(output="off", op="<", value=0.1)
    assert step_of(flow, "first").repeat == Repeat(bind={"x": Source(output="out")}, until=until, most=5)
    assert [(each.on, each.after) for each in flow.spec.steps] == [
        ("completed", ()),
        ("completed", ("first",)),
        ("failed", ("first", "second")),
        ("always", ("second",)),
    ]


def test_a_workflow_gives_what_nothing_takes_unless_it_says_what() -> None:
    flow = Workflow("f")
    split = flow.step("split", SPLIT, x=np.zeros(16, np.float32))
    blur = flow.step("blur", BLUR, x=split["tiles"].at(offset=0), weights=ONES, when=split["n"] > 1)
    flow.step("mend", BLUR, on="failed", after=blur, x=ONES, weights=blur["out"], tolerate=True)
    assert list(flow.spec.outputs) == ["split.n", "blur.out", "blur.off"]
    flow.output("blurred", blur["out"])
    assert flow.spec.outputs == {"blurred": From(step="blur", output="out")}


def test_different_graphs_of_one_name_are_told_apart_and_equal_ones_are_there_once() -> None:
    flow = Workflow("f")
    for number, n in enumerate((4, 4, 8)):
        flow.step(f"s{number}", saxpy(n), x=np.ones(n, np.float32), y=np.ones(n, np.float32))
    first, second = flow.spec.graphs
    assert first == "saxpy"
    assert second == f"saxpy#{saxpy(8).freeze().hash[:12]}"
    assert [each.graph for each in flow.spec.steps] == [first, first, second]


# -- workflows inside others


def test_a_workflow_inside_another_becomes_steps_of_it() -> None:
    flow = Workflow("outer")
    images = flow.inputs("images", shape=4, dtype="float32")
    sub = flow.step("sub", tiles_flow(), tiles=images, weights=ONES, after=flow.step("before", TELL))
    flow.step("tell", BLUR, x=ONES, weights=ONES, a=sub["sum"], after=sub)
    flow.output("total", sub["sum"])
    spec = flow.spec
    assert [each.name for each in spec.steps] == ["before", "sub/blur", "sub/again", "sub/join", "tell"]
    assert spec.maps == {"images": MapSpec(input="images")}
    assert step_of(flow, "sub/blur").bind == {"x": From(input="images", each=True), "weights": ONES.tobytes()}
    assert step_of(flow, "sub/blur").scalars == {"a": Value(scalar="sub/strength"), "i": Value(item=True)}
    assert step_of(flow, "sub/again").bind["x"] == From(step="sub/blur", output="out", each=True)
    assert step_of(flow, "sub/again").scalars == {"a": Value(step="sub/blur", output="off"), "i": Value(count="images")}
    assert step_of(flow, "sub/join").bind == {"all": From(step="sub/again", output="out"), "ok": From(mask="sub/again")}
    assert [each.after for each in spec.steps] == [(), ("before",), (), (), ("sub/blur", "sub/again", "sub/join")]
    assert step_of(flow, "tell").scalars == {"a": Value(step="sub/join", output="sum")}
    assert spec.scalars == (Scalar(name="sub/strength", dtype="float32", default=2.0),)
    assert spec.outputs == {"total": From(step="sub/join", output="sum")}


def test_a_list_of_a_workflow_inside_takes_the_items_of_a_map() -> None:
    flow = Workflow("outer")
    made = flow.map("made", BLUR, count=3, x=ONES, weights=ONES)
    sub = flow.step("sub", tiles_flow(), tiles=made["out"], weights=ONES, strength=made.count, keep={"sum": "s"})
    assert flow.spec.maps == {"made": MapSpec(count=3)}
    assert step_of(flow, "sub/blur").bind["x"] == From(step="made", output="out", each=True)
    assert step_of(flow, "sub/blur").scalars["a"] == Value(count="made")
    assert step_of(flow, "sub/join").keep == {"sum": "s"}
    assert not flow.spec.scalars
    assert list(sub) == ["sum"]


def pair() -> Workflow:
    """Two steps, one after the other."""
    flow = Workflow("pair")
    x = flow.input("x", shape=4, dtype="float32")
    image = flow.input("image", nbytes=64)
    first = flow.step("first", BLUR, x=x, weights=image.at(offset=16), a=flow.scalar("a", "float32"))
    flow.step("second", BLUR, x=first["out"], weights=ONES, when=first["off"] > 0, a=first["off"])
    return flow


def test_a_workflow_in_a_map_runs_item_by_item() -> None:
    flow = Workflow("outer")
    tiles = flow.inputs("tiles", shape=4, dtype="float32")
    sub = flow.map("sub", pair(), x=tiles.each, image=np.zeros(16, np.float32), a=1, keep={"second.out": "t/{item}"})
    flow.step("join", JOIN, all=sub["second.out"], ok=flow.map("m", BLUR, x=sub["second.out"].each, weights=ONES).mask)
    assert step_of(flow, "sub/first").bind == {"x": From(input="tiles", each=True), "weights": bytes(16)}
    second = step_of(flow, "sub/second")
    assert second.bind == {"x": From(step="sub/first", output="out", each=True), "weights": ONES.tobytes()}
    assert second.scalars == {"a": Value(step="sub/first", output="off")}
    assert second.condition == StepCondition(step="sub/first", output="off", op=">", value=0)
    assert second.keep == {"out": "t/{item}"}
    assert {each.map for each in flow.spec.steps if each.name != "join"} == {"tiles"}
    assert sub.map == "tiles"


def test_a_part_of_a_part_is_where_both_offsets_together_say() -> None:
    flow = Workflow("outer")
    large = flow.input("large", nbytes=96)
    flow.step("sub", pair(), x=ONES, image=large.at(offset=32), a=1)
    assert step_of(flow, "sub/first").bind["weights"] == From(input="large", offset=48)


def test_condition_failure_and_tolerance_of_a_workflow_inside_are_those_of_its_first_steps() -> None:
    flow = Workflow("outer")
    blur = flow.step("blur", BLUR, x=ONES, weights=ONES)
    options: dict[str, Any] = {"image": bytes(64), "a": 1, "tolerate": True, "when": blur["off"] > 1}
    flow.step("sub", pair(), x=blur["out"], on="always", **options)
    first, second = step_of(flow, "sub/first"), step_of(flow, "sub/second")
    assert (first.on, first.tolerate) == ("always", True)
    assert first.condition == StepCondition(step="blur", output="off", op=">", value=1)
    assert (second.on, second.tolerate) == ("completed", False)


def test_workflows_are_nested_deeply() -> None:
    inner = pair()
    for depth in range(3):
        outer = Workflow(f"outer{depth}")
        x, image = outer.input("x", nbytes=16), outer.input("image", nbytes=64)
        sub = outer.step("in", inner, x=x, image=image, **({"a": 1} if depth == 0 else {}))
        outer.output("out", sub["out" if depth else "second.out"])
        inner = outer
    assert [each.name for each in inner.spec.steps] == ["in/in/in/first", "in/in/in/second"]
    assert [each.name for each in inner.spec.scalars] == ["in/in/in/a"]


# -- as data


def test_a_workflow_written_as_json_is_read_again_and_built_on(tmp_path: Path) -> None:
    file = tmp_path / "tiles.json"
    file.write_bytes(tiles_flow().to_json())
    flow = Workflow.from_json(file)
    assert flow.spec == tiles_flow().spec
    flow.step("more", BLUR, x=ONES, weights=ONES)
    assert flow.spec.step("more")


def test_a_step_of_a_workflow_that_was_read_is_had_by_its_name() -> None:
    flow = Workflow.from_spec(tiles_flow().spec)
    flow.map("third", BLUR, x=flow["again"]["out"].each, weights=ONES)
    assert step_of(flow, "third").map == "tiles"
    assert flow["again"].count.number == Value(count="tiles")
    with pytest.raises(BadRequest, match="the workflow has no step 'agian'; it has 'again'"):
        flow["agian"]


def test_a_workflow_written_by_hand_is_checked_and_completed() -> None:
    flow = Workflow.from_spec(FLOW)
    assert flow.spec == check_flow(FLOW, GraphLimits())
    assert flow.name == "images.pipeline"
    with pytest.raises(BadRequest, match=r"^steps\[0\] \(split\)\.graph: "):
        Workflow.from_spec(msgspec.structs.replace(FLOW, graphs={"other": SPLIT}))


def test_what_json_cannot_say_is_refused_when_it_is_written() -> None:
    flow = Workflow("f")
    flow.step("s", BLUR, x=ONES, weights=ONES, a=math.inf)
    with pytest.raises(BadRequest, match=r"^steps\[0\] \(s\)\.scalars\.a: JSON has no inf"):
        flow.to_json()


def test_a_workflow_that_changes_after_it_was_looked_at_is_checked_anew() -> None:
    flow = pair()
    assert len(flow.spec.steps) == 2
    assert flow.spec is flow.spec
    flow.step("third", TELL)
    assert len(flow.spec.steps) == 3
    assert repr(flow) == "<Workflow 'pair': 3 steps, 0 maps>"


# -- mistakes


def refused(make: Callable[[Workflow], Any]) -> str:
    """How a mistake in one step is refused; the workflow is as before."""
    flow = tiles_flow()
    before = flow.spec
    with pytest.raises((BadRequest, BufferMissing, BufferSize)) as caught:
        make(flow)
    assert flow.spec == before
    return caught.value.message


WORKFLOW = Workflow("other")
OTHER = WORKFLOW.input("o", nbytes=16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda flow: flow.step("s", BLUR, x=ONES, weights=ONES, z=1),
            "steps[3] (s).bind.z: the graph has no buffer or scalar 'z'; it has 'x', 'weights', 'out', 'off', 'a', 'i'",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=ONES),
            "steps[3] (s).bind.weights: nothing is bound to input 'weights'",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=ONES[:3], weights=ONES),
            (
                "steps[3] (s).bind.x: buffer 'x' is declared as float32 (4,) (16 bytes), but float32 (3,) (12 bytes) "
                "was given"
            ),
        ),
        (
            lambda flow: flow.step("s", BLUR, x=OTHER, weights=ONES),
            "steps[3] (s).bind.x: <input 'o' of workflow 'other'> belongs to another workflow than 'tiles'",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=Output("y"), weights=ONES),
            "steps[3] (s).bind.x: Output('y'): only what follows a request, a kaasq.Then, takes its outputs",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=flow.step("t", TELL), weights=ONES),
            "steps[4] (s).bind.x: expected one of its outputs, step['sum'], given <Step 't' of workflow 'tiles'>",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=flow.step("t", TELL)["no"], weights=ONES),
            "step 't' has no output 'no'; it has 'sum'",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=flow.step("t", TELL)["sum"], weights=ONES),
            "steps[4] (s).bind.x: buffer 'x' is declared with 16 bytes, but 4 bytes were given",
        ),
        (
            lambda flow: flow.step("s", BLUR, out=ONES, x=ONES, weights=ONES),
            "steps[3] (s).bind.out: 'out' is an output: nothing can be bound to it; Keep('name') keeps it in the store",
        ),
        (
            lambda flow: flow.step("s", BLUR, x=flow.inputs("l", nbytes=16).each, weights=ONES),
            "steps[3] (s).bind.x: list 'l', of each item: flow.map() runs a graph for each item, flow.step() once",
        ),
        (
            lambda flow: flow.map("m", BLUR, x=ONES, weights=ONES),
            (
                "steps[3] (m): has no items: bind .each of a list of inputs or of a step in a map, or say how many "
                "with count or over"
            ),
        ),
        (
            lambda flow: flow.map("m", BLUR, count=2, over=flow.inputs("l", nbytes=16), x=ONES, weights=ONES),
            "steps[3] (m).count: its items are known already: count is for a map that takes none",
        ),
        (
            lambda flow: (
                flow.map("m", BLUR, over=flow["blur"], x=flow.inputs("l", nbytes=16).each, weights=ONES)
                and flow.map("n", BLUR, over=flow.inputs("k", nbytes=16), x=flow["blur"]["out"].each, weights=ONES)
            ),
            "steps[4] (n): takes items of several maps: 'over' those of map 'k', 'x' those of map 'tiles'",
        ),
        (
            lambda flow: flow.map("m", BLUR, over=3, x=ONES, weights=ONES),
            "steps[3] (m).over: expected a list of inputs or a step in a map, given 3",
        ),
        (
            lambda flow: flow.map("m", BLUR, count=-1, x=ONES, weights=ONES),
            "steps[3] (m).count: expected a whole number from 0 on, given -1",
        ),
        (
            lambda flow: flow.map("m", tiles_flow(), count=2, tiles=flow.inputs("l", nbytes=16), weights=ONES),
            "steps[3] (m): has maps or lists itself, and a map inside a map is not possible",
        ),
        (
            lambda flow: flow.step("s", tiles_flow(), tiles=[ONES], weights=ONES),
            (
                "steps[3] (s).bind.tiles: expected a list of inputs, flow.inputs(), or an output of a step in a map, "
                "given [array([1., 1., 1., 1.], dtype=float32)]"
            ),
        ),
        (
            lambda flow: flow.step("s", tiles_flow(), weights=ONES),
            "steps[3] (s).bind.tiles: nothing is bound to list 'tiles'",
        ),
        (
            lambda flow: flow.step("s", pair(), x=ONES, image=bytes(64)),
            "steps[3] (s).scalars.a: scalar 'a' has no default and was not given",
        ),
        (
            lambda flow: flow.step("s", pair(), x=ONES, image=bytes(64), a=1, retries=3),
            "steps[3] (s).retries: is for a step that is a graph; a workflow's own steps have theirs",
        ),
        (
            lambda flow: flow.step("s", pair(), x=ONES, image=bytes(64), a=1, keep={"first": "k"}),
            ("steps[3] (s).keep.first: the workflow has no output 'first'; it has 'second.out', 'second.off'"),
        ),
        (
            lambda flow: flow.step("blur", BLUR, x=ONES, weights=ONES),
            "steps[3] (blur).name: the workflow has a step of that name already",
        ),
        (
            lambda flow: flow.step("a step", BLUR, x=ONES, weights=ONES),
            (
                "steps[3] (a step).name: 'a step' is no name of a step: use letters, digits, '_', '-' and '.', with "
                "'/' between words, at most 128 characters"
            ),
        ),
        (
            lambda flow: flow.step("s", "blur"),
            "steps[3] (s).graph: expected a kaasq.Graph or a kaasq.Workflow, given a str",
        ),
        (
            lambda flow: flow.step("s", TELL, on="never"),
            "steps[3] (s).on: expected 'completed', 'failed' or 'always', given 'never'",
        ),
        (
            lambda flow: flow.step("s", TELL, when=Output("n") > 1),
            (
                "steps[3] (s).when: expected a comparison of an output of a step with a number, step['n'] > 3, given "
                "Condition(output='n', index=None, op='>', value=1)"
            ),
        ),
        (
            lambda flow: flow.step("s", TELL, after="blur"),
            "steps[3] (s).after: expected steps of the workflow, given a str",
        ),
        (
            lambda flow: flow.step("s", TELL, retries=-1),
            "steps[3] (s).retries: expected a whole number from 0 on, given -1",
        ),
        (
            lambda flow: flow.step("s", TELL, timeout=0),
            "steps[3] (s).timeout: expected a time from 0.001 to 315360000 seconds (ten years), given 0",
        ),
        (
            lambda flow: flow.step("s", TELL, tolerate=1),
            "steps[3] (s).tolerate: expected True or False, given 1",
        ),
        (
            lambda flow: flow.step("s", TELL, repeat=3),
            "steps[3] (s).repeat: expected what kaasq.repeat() gives, given a int",
        ),
        (
            lambda flow: flow.input("tiles", nbytes=4),
            "workflow.inputs[2]: 'tiles' is declared twice (inputs, scalars and outputs share one namespace)",
        ),
        (
            lambda flow: flow.scalar("sum", "float32"),
            "workflow.scalars[1]: 'sum' is declared twice (inputs, scalars and outputs share one namespace)",
        ),
        (lambda flow: flow.inputs("l"), "workflow.inputs[2] ('l'): needs nbytes, or shape and dtype"),
        (
            lambda flow: flow.output("o", flow.step("t", TELL)),
            "workflow.outputs.o: expected an output of a step, step['out'], given <Step 't' of workflow 'tiles'>",
        ),
    ],
)
def test_a_mistake_is_refused_by_the_call_that_makes_it(make: Callable[[Workflow], Any], message: str) -> None:
    flow = tiles_flow()
    with pytest.raises((BadRequest, BufferMissing, BufferSize)) as caught:
        make(flow)
    assert caught.value.message == message


def test_a_step_that_is_refused_leaves_the_workflow_as_it_was() -> None:
    flow = tiles_flow()
    before = flow.spec
    listed = flow.inputs("list", nbytes=16)
    for graph, more in ((BLUR, {}), (pair(), {"image": bytes(63), "a": 1})):
        with pytest.raises(KaasqError):
            flow.map("m", graph, x=listed.each, most=3, **more)
    flow.map("used", BLUR, x=listed.each, weights=ONES)
    assert flow.spec.maps == before.maps | {"list": MapSpec(input="list")}
    assert set(flow.spec.graphs) == set(before.graphs)


def test_what_only_the_whole_workflow_shows_is_refused_when_it_is_looked_at() -> None:
    flow = tiles_flow()
    flow.input("unused", nbytes=4)
    with pytest.raises(BadRequest, match=r"^workflow\.inputs: input 'unused' is never used: no step takes it"):
        flow.spec  # noqa: B018
    with pytest.raises(BadRequest, match="a workflow needs at least one step"):
        Workflow("empty").spec  # noqa: B018
    with pytest.raises(BadRequest, match=r"^workflow\.name: 'no name' is no name of a workflow"):
        Workflow("no name")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda flow, step: step.count, "step 's' is in no map, so it has no items to count"),
        (lambda flow, step: step.mask, "step 's' is in no map, so no items of it complete"),
        (lambda flow, step: flow.item.each, "the item's number has no parts for items"),
        (lambda flow, step: step["out"].at(), "expected an offset (for an input) or an index (for a scalar)"),
        (lambda flow, step: flow.item.at(index=0), "the item's number has no elements to take: an output has"),
        (lambda flow, step: flow.item.at(offset=0), "the item's number is a number and has no parts"),
        (lambda flow, step: step["out"].at(index=-1), "expected a whole number from 0 on, given -1"),
        (lambda flow, step: step["out"] > "x", "an output is compared with a number, given a str"),
    ],
)
def test_what_a_step_does_not_give_cannot_be_taken(make: Callable[[Workflow, Any], Any], message: str) -> None:
    flow = Workflow("f")
    step = flow.step("s", BLUR, x=ONES, weights=ONES)
    with pytest.raises(BadRequest) as caught:
        make(flow, step)
    assert caught.value.message.endswith(message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda step: 7 < Output("y", index=1) < 10, "whether 'y' > 7 is known only when the output is there"),
        (lambda step: Output("y") > 1 and Output("z") < 3, "whether 'y' > 1 is known"),
        (lambda step: Output("y") > 1 or Output("z") < 3, "whether 'y' > 1 is known"),
        (lambda step: not (Output("y") > 1), "whether 'y' > 1 is known"),
        (lambda step: bool(Output("y")), "whether Output('y') is true is known"),
        (lambda step: 1 < step["out"].at(index=2) < 3, "whether 'out' > 1 is known"),
        (lambda step: bool(step["out"]), "whether <output 'out' of step 's' of workflow 'f'> is true is"),
        (lambda step: step.flow.item > 1 and step["off"] > 1, "whether 'item' > 1 is known"),
    ],
)
def test_conditions_of_which_python_would_keep_one_only_are_refused(make: Callable[[Any], Any], message: str) -> None:
    step = Workflow("f").step("s", BLUR, x=ONES, weights=ONES)
    with pytest.raises(BadRequest, match="have a kernel before write a number that") as caught:
        make(step)
    assert caught.value.message.startswith(f"when: {message}")


def test_the_limits_of_graphs_are_those_that_it_is_given() -> None:
    large = Workflow("f", limits=GraphLimits(name_length=3))
    with pytest.raises(BadRequest, match="is no graph name"):
        large.step("s", BLUR, x=ONES, weights=ONES)
