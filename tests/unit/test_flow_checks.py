"""Workflows before they start: what is valid has a normal form, every mistake is refused with its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kaasq.checks import GraphLimits, check_graph
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError
from kaasq.flows.checks import check_flow
from kaasq.flows.model import FlowInput, FlowSpec, FlowStart, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.flows.start_checks import check_start, items_at_start
from kaasq.messages import Condition, Repeat, Source, Stored
from kaasq.model import Scalar
from tests.support.flows import FLOW, GRAPHS, START, changed

LIMITS = GraphLimits()
CHECKED = check_flow(FLOW, LIMITS)


def with_bind(step: str, **bind: Any) -> FlowSpec:
    """The workflow with something else bound in a step; ``None``: nothing."""
    found = FLOW.step(step)
    assert found is not None
    merged = {name: each for name, each in {**found.bind, **bind}.items() if each is not None}
    return changed(step, bind=merged)


def flow(**fields: Any) -> FlowSpec:
    return msgspec.structs.replace(FLOW, **fields)


def with_map(**fields: Any) -> FlowSpec:
    return flow(maps={**FLOW.maps, "tiles": MapSpec(**fields)})


def with_step(**fields: Any) -> FlowSpec:
    return flow(steps=(*FLOW.steps, FlowStep(**{"name": "new", "graph": "tell", **fields})))


def test_the_normal_form_has_sizes_and_checked_graphs_under_their_keys() -> None:
    assert [each.nbytes for each in CHECKED.inputs] == [64, 16, 16]
    assert CHECKED.inputs[0].dtype == "float32"
    assert CHECKED.graphs == {key: check_graph(each, LIMITS) for key, each in GRAPHS.items()}
    assert (CHECKED.steps, CHECKED.maps, CHECKED.outputs) == (FLOW.steps, FLOW.maps, FLOW.outputs)
    assert check_flow(CHECKED, LIMITS) == CHECKED


def test_shapes_may_differ_along_an_edge() -> None:
    check_flow(flow(inputs=(FlowInput(name="image", dtype="float32", shape=(2, 8)), *FLOW.inputs[1:])), LIMITS)


MISTAKES: list[tuple[FlowSpec, type[KaasqError], str]] = [
    # names
    (flow(name="a..b"), BadRequest, "workflow.name: 'a..b' is no name of a workflow"),
    (flow(name="a" * 129), BadRequest, "workflow.name: "),
    (flow(steps=()), BadRequest, "workflow.steps: a workflow needs at least one step"),
    (with_step(name="a//b"), BadRequest, "steps[7].name: 'a//b' is no name of a step"),
    (with_step(name="a" * 129), BadRequest, "steps[7].name: "),
    (with_step(name="blur"), BadRequest, "steps[7].name: 'blur' is the name of steps[1] already"),
    (
        flow(scalars=(Scalar(name="image", dtype="float32"),)),
        BadRequest,
        "workflow.scalars[0].name: 'image' is declared twice",
    ),
    (flow(outputs={"image": FLOW.outputs["sum"]}), BadRequest, "workflow.outputs.image: 'image' is declared twice"),
    (flow(outputs={"": FLOW.outputs["sum"]}), BadRequest, "workflow.outputs.: '' is no name"),
    (flow(maps={**FLOW.maps, "\n": MapSpec(count=1)}), BadRequest, "workflow.maps: '\\n' is no name"),
    (flow(graphs={**GRAPHS, "": GRAPHS["tell"]}), BadRequest, "workflow.graphs: '' is no name"),
    (
        flow(inputs=(*FLOW.inputs, FlowInput(name="more"))),
        BadRequest,
        "workflow.inputs[3] ('more'): needs nbytes, or shape and dtype",
    ),
    (
        flow(scalars=(Scalar(name="strength", dtype="c8"),)),
        BadRequest,
        "workflow.scalars[0] ('strength'): 'c8' is no scalar dtype",
    ),
    (
        flow(graphs={**GRAPHS, "blur": msgspec.structs.replace(GRAPHS["blur"], iterations=0)}),
        BadRequest,
        "workflow.graphs.blur.iterations: must be from 1",
    ),
    # what there is not
    (
        changed("blur", graph="blurr"),
        BadRequest,
        "steps[1] (blur).graph: the workflow has no graph 'blurr'; it has 'blur', 'split', 'join', 'tell'",
    ),
    (
        changed("mask", map="mask"),
        BadRequest,
        "steps[3] (mask).map: the workflow has no map 'mask'; it has 'masks', 'tiles'",
    ),
    (
        changed("mask", after=("splitt",)),
        BadRequest,
        "steps[3] (mask).after[0]: the workflow has no step 'splitt'; it has 'split', 'blur', 'again/blur'",
    ),
    (
        with_bind("split", x=From(input="images")),
        BadRequest,
        "steps[0] (split).bind.x.input: the workflow has no input 'images'; it has 'image', ",
    ),
    (with_bind("join", all=From(step="no", output="out")), BadRequest, "steps[4] (join).bind.all.step: the workflow"),
    (with_bind("join", ok=From(mask="no")), BadRequest, "steps[4] (join).bind.ok.mask: the workflow has no step 'no'"),
    (
        with_bind("join", all=From(step="blur", output="x")),
        BadRequest,
        "steps[4] (join).bind.all.output: graph 'blur' has no output 'x'; it has 'out', 'off'",
    ),
    (
        changed("blur", scalars={"a": Value(scalar="strengt")}),
        BadRequest,
        "steps[1] (blur).scalars.a.scalar: the workflow has no scalar 'strengt'; it has 'strength'",
    ),
    (
        changed("blur", scalars={"a": Value(count="tile")}),
        BadRequest,
        "steps[1] (blur).scalars.a.count: the workflow has no map 'tile'; it has 'tiles', 'masks'",
    ),
    (
        changed("blur", scalars={"b": 1}),
        BadRequest,
        "steps[1] (blur).scalars.b: the graph has no scalar 'b'; it has 'a', 'i'",
    ),
    (with_bind("blur", y=b""), BadRequest, "steps[1] (blur).bind.y: the graph has no buffer 'y'; it has"),
    (with_bind("blur", out=b""), BadRequest, "steps[1] (blur).bind.out: 'out' is an output: nothing can be bound"),
    (flow(outputs={"y": From(step="no", output="sum")}), BadRequest, "workflow.outputs.y.step: the workflow has no"),
    (
        flow(outputs={"y": From(step="join", output="all")}),
        BadRequest,
        "workflow.outputs.y.output: graph 'join' has no output 'all'; it has 'sum'",
    ),
    (flow(outputs={"y": From(mask="blur")}), BadRequest, "workflow.outputs.y: a workflow gives outputs of steps"),
    (
        flow(outputs={"y": From(step="join", output="sum", offset=0)}),
        BadRequest,
        "workflow.outputs.y: a workflow gives outputs of steps",
    ),
    # bound not, twice, or wrongly
    (
        with_bind("blur", weights=None),
        BufferMissing,
        "steps[1] (blur).bind.weights: nothing is bound to input 'weights'",
    ),
    (with_bind("split", x=From()), BadRequest, "steps[0] (split).bind.x: needs one of input, step (with output), mask"),
    (with_bind("split", x=From(input="image", name="n")), BadRequest, "steps[0] (split).bind.x: needs one of"),
    (with_bind("join", all=From(step="blur")), BadRequest, "steps[4] (join).bind.all: needs step and output together"),
    (with_bind("split", x=From(input="image", output="x")), BadRequest, "steps[0] (split).bind.x: needs step and"),
    (with_bind("split", x=From(ref="x")), BadRequest, "steps[0] (split).bind.x.ref: 'x' is no reference"),
    (with_bind("split", x=From(name="")), BadRequest, "steps[0] (split).bind.x.name: '' is no name"),
    (with_bind("blur", weights=b"\0" * 15), BufferSize, "steps[1] (blur).bind.weights: buffer 'weights' is declared"),
    (
        with_bind("split", x=From(input="weights")),
        BufferSize,
        "steps[0] (split).bind.x: buffer 'x' is declared with 64 bytes, but 16 bytes were given",
    ),
    (
        with_bind("blur", weights=From(input="image", offset=49)),
        BufferSize,
        "steps[1] (blur).bind.weights: buffer 'weights' takes 16 bytes from offset 49 on, but input 'image' has 64",
    ),
    (
        with_bind("blur", weights=From(step="split", output="n")),
        BadRequest,
        "steps[1] (blur).bind.weights: input 'weights' holds float32, output 'n' of step 'split' int32",
    ),
    # maps
    (with_map(), BadRequest, "workflow.maps.tiles: needs one of input, which is a list, and count"),
    (with_map(count=3, input="masks"), BadRequest, "workflow.maps.tiles: needs one of"),
    (with_map(input="image"), BadRequest, "workflow.maps.tiles.input: input 'image' is no list"),
    (with_map(input="imag"), BadRequest, "workflow.maps.tiles.input: the workflow has no input 'imag'; it has 'image'"),
    (with_map(count=10_001), BadRequest, "workflow.maps.tiles.count: 10001 items; the limit is 10000"),
    (with_map(count=3, most=2), BadRequest, "workflow.maps.tiles.count: 3 items; the limit is 2"),
    (with_map(count=3, most=0), BadRequest, "workflow.maps.tiles.most: must be from 1 to 10000, is 0"),
    (with_map(count=3, most=10_001), BadRequest, "workflow.maps.tiles.most: must be from 1 to 10000, is 10001"),
    (with_map(count=Value()), BadRequest, "workflow.maps.tiles.count: needs one of scalar, step (with output), count"),
    (with_map(count=Value(item=True)), BadRequest, "workflow.maps.tiles.count: has no item: it is in no map"),
    (with_map(count=Value(count="no")), BadRequest, "workflow.maps.tiles.count.count: the workflow has no map 'no'"),
    (
        with_map(count=Value(scalar="strength")),
        BadRequest,
        "workflow.maps.tiles.count: expected int64, but scalar 'strength' has float32",
    ),
    (
        with_map(count=Value(step="mask", output="off")),
        BadRequest,
        "workflow.maps.tiles.count: step 'mask' runs for each item of map 'masks'",
    ),
    (
        with_map(count=Value(count="tiles")),
        BadRequest,
        "workflow.maps.tiles: the counts of these maps wait for each other: tiles -> tiles",
    ),
    (
        with_bind("split", x=From(step="blur", output="out", each=True)),
        BadRequest,
        "steps[0] (split).bind.x: each item takes its own with `each`, but this step is in no map",
    ),
    (
        with_bind("mask", x=From(step="blur", output="out", each=True)),
        BadRequest,
        "steps[3] (mask).bind.x: step 'blur' is in map 'tiles', this one in 'masks'",
    ),
    (with_bind("join", ok=From(mask="tell")), BadRequest, "steps[4] (join).bind.ok.mask: step 'tell' is in no map"),
    (
        with_bind("mask", x=From(mask="blur", each=True)),
        BadRequest,
        "steps[3] (mask).bind.x: a mask is a byte for each",
    ),
    (with_bind("join", all=From(mask="blur")), BadRequest, "steps[4] (join).bind.all: a mask holds bytes; input 'all'"),
    # 4 tiles of 4 floats fill the buffer half; 8 of them would fill it; 9 do not fit
    (
        with_map(count=Value(step="split", output="n"), most=9),
        BufferSize,
        "steps[1] (blur).bind.x: buffer 'x' takes a part of 16 bytes for each item, 144 for 9, but output",
    ),
    (
        flow(maps={**FLOW.maps, "masks": MapSpec(input="masks", most=9)}),
        BufferSize,
        "steps[5] (join.masks).bind.all: buffer 'all' is declared with 128 bytes, but output 'out' of step",
    ),
    (
        with_bind("blur", x=From(input="image", offset=8, each=True)),
        BufferSize,
        "steps[1] (blur).bind.x: buffer 'x' takes a part of 16 bytes for each item, 72 for 4 from offset 8 on",
    ),
    (
        with_bind("split", x=From(input="masks")),
        BufferSize,
        "steps[0] (split).bind.x: buffer 'x' is declared with 64 bytes, but input 'masks' takes 16 for each item, 128",
    ),
    (
        flow(inputs=(*FLOW.inputs[:2], FlowInput(name="masks", nbytes=20, many=True))),
        BufferSize,
        "steps[3] (mask).bind.x: buffer 'x' is declared with 16 bytes, but 20 bytes were given",
    ),
    # numbers
    (changed("blur", scalars={"a": Value()}), BadRequest, "steps[1] (blur).scalars.a: needs one of scalar, step"),
    (
        changed("blur", scalars={"a": Value(step="split")}),
        BadRequest,
        "steps[1] (blur).scalars.a: needs step and output together",
    ),
    (
        changed("blur", scalars={"a": Value(scalar="strength", index=0)}),
        BadRequest,
        "steps[1] (blur).scalars.a: needs step and output together, or neither; index belongs to them",
    ),
    (
        changed("blur", scalars={"i": Value(scalar="strength")}),
        BadRequest,
        "steps[1] (blur).scalars.i: expected int32, but scalar 'strength' has float32",
    ),
    (
        changed("blur", scalars={"a": Value(step="split", output="tiles")}),
        BadRequest,
        "steps[1] (blur).scalars.a: output 'tiles' has 16 elements: which is meant, `index` says",
    ),
    (
        changed("blur", scalars={"a": Value(step="split", output="tiles", index=16)}),
        BadRequest,
        "steps[1] (blur).scalars.a: index is 16, but output 'tiles' has 16 elements",
    ),
    (
        changed("join", condition=StepCondition(item=True, op=">", value=0)),
        BadRequest,
        "steps[4] (join).if: has no item: it is in no map (`when` in Python)",
    ),
    (
        changed("join", condition=StepCondition(step="blur", output="off", op=">", value=0)),
        BadRequest,
        "steps[4] (join).if: step 'blur' runs for each item of map 'tiles': only steps in that map can take a number",
    ),
    (changed("blur", scalars={"i": 1.5}), BadRequest, "steps[1] (blur).scalars.i: 1.5 is no int32"),
    # names to keep
    (changed("blur", keep={"out": "x"}), BadRequest, "steps[1] (blur).keep.out: 'x' is one name for all items"),
    (
        changed("blur", keep={"out": "{item}/{flow}"}),
        BadRequest,
        "steps[1] (blur).keep.out: '{flow}' in a name stands for nothing; '{item}' does, in a map",
    ),
    (changed("join", keep={"sum": "{item}"}), BadRequest, "steps[4] (join).keep.sum: '{item}' in a name stands for"),
    (changed("join", keep={"sum": ""}), BadRequest, "steps[4] (join).keep.sum: '' is no name"),
    (changed("join", keep={"all": "x"}), BadRequest, "steps[4] (join).keep.all: only an output or inout can be kept"),
    (
        changed("join", keep={"sum": "failed/sum"}),
        BadRequest,
        "steps[6] (tell).keep.sum: steps[4] (join).keep.sum is kept under the name 'failed/sum', too",
    ),
    (
        changed("blur", keep={"out": "{item}", "off": "{item}"}),
        BadRequest,
        "steps[1] (blur).keep: two outputs cannot be kept under one name",
    ),
    # how steps run
    (
        changed("tell", after=()),
        BadRequest,
        "steps[6] (tell).on: it is to run when something before it fails, but it waits for nothing",
    ),
    (
        changed("split", after=("join",)),
        BadRequest,
        "steps[0] (split): these steps wait for each other: split -> ",
    ),
    (changed("blur", retries=101), BadRequest, "steps[1] (blur).retries: 101 retries; the limit is 100"),
    (
        changed(
            "mask",
            repeat=Repeat(
                bind={"x": Source(output="out")}, until=Condition(output="off", op="<", value=0), most=10**6 + 1
            ),
        ),
        BadRequest,
        "steps[3] (mask).repeat.most: must be from 1 to 1000000, is 1000001",
    ),
    (
        changed("mask", repeat=Repeat(bind={}, until=Condition(output="out", op="<", value=0), most=2)),
        BadRequest,
        "steps[3] (mask).repeat.until: output 'out' has 4 elements",
    ),
    (
        changed(
            "mask",
            repeat=Repeat(bind={"x": Source(output="off")}, until=Condition(output="off", op="<", value=0), most=2),
        ),
        BufferSize,
        "steps[3] (mask).repeat.bind.x: buffer 'x' is declared with 16 bytes, but output 'off' has 4",
    ),
    # what serves for nothing
    (flow(graphs={**GRAPHS, "new": GRAPHS["tell"]}), BadRequest, "workflow.graphs: graph 'new' is never used: no step"),
    (flow(maps={**FLOW.maps, "new": MapSpec(count=1)}), BadRequest, "workflow.maps: map 'new' is never used: no step"),
    (
        flow(inputs=(*FLOW.inputs, FlowInput(name="new", nbytes=1))),
        BadRequest,
        "workflow.inputs: input 'new' is never used: no step takes it",
    ),
    (
        flow(scalars=(*FLOW.scalars, Scalar(name="new", dtype="int32"))),
        BadRequest,
        "workflow.scalars: scalar 'new' is never used: no step takes it",
    ),
]


@pytest.mark.parametrize(("wrong", "kind", "told"), MISTAKES, ids=[each[2][:40] for each in MISTAKES])
def test_a_mistake_is_refused_with_its_place(wrong: FlowSpec, kind: type[KaasqError], told: str) -> None:
    with pytest.raises(kind) as caught:
        check_flow(wrong, LIMITS)
    assert str(caught.value).startswith(told)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{caught.value.at}: ")


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (GraphLimits(steps=6), "workflow.steps: 7 steps; the limit is 6"),
        (GraphLimits(buffers=2), "workflow.inputs: 3 inputs; the limit is 2"),
        (GraphLimits(scalars=0), "workflow.scalars: 1 scalars; the limit is 0"),
        (GraphLimits(items=7), "workflow.maps.masks.most: must be from 1 to 7, is 8"),
        (GraphLimits(retries=1), "steps[1] (blur).retries: 2 retries; the limit is 1"),
    ],
)
def test_limits_are_the_workers_own(limits: GraphLimits, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_flow(FLOW, limits)
    assert str(caught.value) == told


def test_long_circles_and_many_names_make_short_messages() -> None:
    count = 1000
    graphs = {"tell": GRAPHS["tell"]}
    names = [f"{i:04}".rjust(128, "s") for i in range(count)]
    steps = tuple(FlowStep(name=name, graph="tell", after=(names[i - 1],)) for i, name in enumerate(names))
    with pytest.raises(BadRequest, match=r" -> \.\.\. -> ") as circle:
        check_flow(FlowSpec(name="f", graphs=graphs, steps=steps), LIMITS)
    with pytest.raises(BadRequest, match=r", \.\.\.$") as unknown:
        check_flow(
            FlowSpec(
                name="f", graphs=graphs, steps=(*steps[1:], FlowStep(name="x", graph="tell", after=("y" * 10**6,)))
            ),
            LIMITS,
        )
    assert max(len(circle.value.message), len(unknown.value.message)) < 2000


def test_a_list_and_all_items_of_a_step_may_fill_a_buffer_in_part_or_a_part_of_them_a_buffer() -> None:
    check_flow(with_bind("join", all=From(input="masks")), LIMITS)
    check_flow(with_bind("mask", weights=From(input="masks", offset=64)), LIMITS)
    check_flow(with_bind("join", all=From(step="blur", output="out", offset=32)), LIMITS)


# ---------------------------------------------------------------------------------------------------------- the start


def start(**fields: Any) -> FlowStart:
    return msgspec.structs.replace(START, **fields)


def with_bound(**bind: Any) -> FlowStart:
    return start(bind={name: each for name, each in {**START.bind, **bind}.items() if each is not None})


ITEM = b"\0" * 16


def test_what_fits_may_start() -> None:
    check_start(START, CHECKED, LIMITS)
    check_start(start(scalars={}), CHECKED, LIMITS)
    check_start(with_bound(masks=()), CHECKED, LIMITS)


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        (with_bound(image=None), BufferMissing, "nothing is bound to input 'image'"),
        (with_bound(imag=b""), BadRequest, "bind.imag: the workflow has no input 'imag'; it has 'image', "),
        (
            with_bound(image=b"\0" * 63),
            BufferSize,
            "bind.image: input 'image' is declared with 64 bytes, but 63 bytes were given",
        ),
        (with_bound(masks=(ITEM, b"")), BufferSize, "bind.masks[1]: input 'masks' is declared with 16 bytes, but 0"),
        (with_bound(image=(b"\0" * 64,)), BadRequest, "bind.image: input 'image' is one, not a list"),
        (with_bound(masks=ITEM), BadRequest, "bind.masks: input 'masks' is a list"),
        (with_bound(masks=(ITEM,) * 9), BadRequest, "bind.masks: map 'masks' would have 9 items; the limit is 8"),
        (with_bound(image=Stored()), BadRequest, "bind.image: needs one of ref and name"),
        (with_bound(image=Stored(ref="a", name="b")), BadRequest, "bind.image: needs one of ref and name"),
        (with_bound(image=Stored(ref="a")), BadRequest, "bind.image.ref: 'a' is no reference"),
        (with_bound(masks=(Stored(name="\n"),)), BadRequest, "bind.masks[0].name: '\\n' is no name"),
        (start(scalars={"streng": 1}), BadRequest, "scalars.streng: the workflow has no scalar 'streng'; it has"),
        (start(scalars={"strength": 10**400}), BadRequest, "scalars.strength: a number of 1329 bits does not fit"),
        (start(keep={"su": "x"}), BadRequest, "keep.su: the workflow has no output 'su'; it has 'sum', 'blurred'"),
        (start(keep={"sum": ""}), BadRequest, "keep.sum: '' is no name"),
        (start(keep={"blurred": "{item}"}), BadRequest, "keep.blurred: '{item}' in a name stands for nothing"),
        (start(keep={"sum": "a", "blurred": "a"}), BadRequest, "keep.blurred: keep.sum has the name 'a', too"),
        (
            start(keep={"sum": "failed/sum"}),
            BadRequest,
            "keep.sum: steps[6] (tell).keep has the name 'failed/sum', too",
        ),
    ],
)
def test_what_does_not_fit_the_workflow_cannot_start(wrong: FlowStart, kind: type[KaasqError], told: str) -> None:
    with pytest.raises(kind) as caught:
        check_start(wrong, CHECKED, LIMITS)
    assert str(caught.value).startswith(told)
    assert type(caught.value) is kind


def test_lists_together_have_a_limit() -> None:
    with pytest.raises(BadRequest, match=r"^bind: 2 items in lists; the limit is 1$"):
        check_start(START, CHECKED, GraphLimits(listed=1))


def counted(count: Any, default: int | None = None, *maps: tuple[str, MapSpec]) -> FlowSpec:
    """A map whose count is a scalar, over steps that take parts, items and all of them."""
    return check_flow(
        FlowSpec(
            name="f",
            inputs=(FlowInput(name="parts", nbytes=64), FlowInput(name="xs", nbytes=16, many=True)),
            scalars=(Scalar(name="n", dtype="int32", default=default), Scalar(name="a", dtype="float32", default=1)),
            graphs={"blur": GRAPHS["blur"], "join": GRAPHS["join"]},
            maps={"m": MapSpec(count=count), "same": MapSpec(count=Value(count="m"), most=5)},
            steps=(
                FlowStep(
                    name="one",
                    graph="blur",
                    map="m",
                    bind={"x": From(input="parts", each=True), "weights": From(input="xs", each=True)},
                    scalars={"i": Value(scalar="n"), "a": Value(scalar="a")},
                ),
                FlowStep(name="two", graph="join", map="same", bind={"all": b"\0" * 128, "ok": From(mask="one")}),
            ),
        ),
        LIMITS,
    )


def starting(spec: FlowSpec, items: int, **scalars: int) -> FlowStart:
    return FlowStart(workflow=spec, bind={"parts": b"\0" * 64, "xs": (ITEM,) * items}, scalars=dict(scalars))


def test_maps_know_their_items_at_the_start_where_no_step_tells() -> None:
    spec = counted(Value(scalar="n"), 3)
    assert items_at_start(starting(spec, 3), spec) == {"m": 3, "same": 3}
    assert items_at_start(starting(spec, 2, n=2), spec) == {"m": 2, "same": 2}
    assert items_at_start(START, CHECKED) == {"tiles": None, "masks": 2}
    check_start(starting(spec, 3), spec, LIMITS)
    check_start(starting(spec, 2, n=2), spec, LIMITS)


@pytest.mark.parametrize(
    ("items", "n", "kind", "told"),
    [
        (3, 2, BadRequest, "steps[0] (one).bind.weights: map 'm' has 2 items, but 3 are bound to input 'xs'"),
        (5, 5, BufferSize, "steps[0] (one).bind.x: buffer 'x' takes a part of 16 bytes for each item, 80 for 5, but"),
        (6, 6, BadRequest, "scalars.n: map 'same' would have 6 items; the limit is 5"),
        (0, -1, BadRequest, "scalars.n: map 'm' would have -1 items; the limit is 10000"),
        (0, 10_001, BadRequest, "scalars.n: map 'm' would have 10001 items; the limit is 10000"),
    ],
)
def test_items_that_do_not_fit_are_refused_at_the_start(items: int, n: int, kind: type[KaasqError], told: str) -> None:
    spec = counted(Value(scalar="n"))
    with pytest.raises(kind) as caught:
        check_start(starting(spec, items, n=n), spec, LIMITS)
    assert str(caught.value).startswith(told)


def test_a_count_without_default_has_to_be_given() -> None:
    spec = counted(Value(scalar="n"))
    with pytest.raises(BadRequest, match=r"^scalars\.n: scalar 'n' has no default and was not given$"):
        check_start(starting(spec, 3), spec, LIMITS)
