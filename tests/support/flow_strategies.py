"""Random valid workflows: steps over the same few graphs, with maps, each bound to what comes before it."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from kaasq.flows.edges import dependencies, values
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.messages import Condition, Repeat, Source
from kaasq.model import Buffer, Scalar
from tests.support.graphs import spec

_SCALARS = (Scalar(name="a", dtype="float32", default=1.0), Scalar(name="i", dtype="int64", default=0))
GRAPHS = {
    "one": spec(
        Buffer(name="x", role="input", dtype="float32", shape=(4,)),
        Buffer(name="out", role="output", dtype="float32", shape=(2, 2)),
        Buffer(name="n", role="output", dtype="int32", shape=()),
        scalars=_SCALARS,
        name="one",
    ),
    "all": spec(
        Buffer(name="x", role="input", dtype="float32", shape=(64,)),
        Buffer(name="ok", role="input", nbytes=16),
        Buffer(name="out", role="output", dtype="float32", shape=(64,)),
        Buffer(name="n", role="output", dtype="int32", shape=()),
        scalars=_SCALARS,
        name="all",
    ),
}
SIZES = {"one": 16, "all": 256}
MOST = 16  # items of a map: so many outputs of `one` fit `all`, and so many parts of `all` there are


@st.composite
def flows(draw: st.DrawFn) -> FlowSpec:
    """A valid workflow of 1 to 8 steps."""
    maps: dict[str, MapSpec] = {"listed": MapSpec(input="many", most=MOST), "fixed": MapSpec(count=MOST)}
    maps["given"] = MapSpec(count=Value(scalar="count"), most=draw(st.integers(1, MOST)))
    maps["same"] = MapSpec(count=Value(count=draw(st.sampled_from(["listed", "fixed", "given"]))), most=MOST)
    steps: list[FlowStep] = []
    for number in range(draw(st.integers(1, 8))):
        if "told" not in maps and any(each.map is None for each in steps):
            teller = draw(st.sampled_from([each.name for each in steps if each.map is None]))
            maps["told"] = MapSpec(count=Value(step=teller, output="n"), most=MOST)
        steps.append(draw(_steps(number, steps, maps)))
    outputs = {
        f"o{i}": From(step=each.name, output=draw(st.sampled_from(["out", "n"])))
        for i, each in enumerate(steps)
        if draw(st.booleans())
    }
    return _with_what_is_used(steps, maps, outputs)


@st.composite
def _steps(draw: st.DrawFn, number: int, before: list[FlowStep], maps: dict[str, MapSpec]) -> FlowStep:
    graph = draw(st.sampled_from(["one", "all"]))
    mapped = draw(st.none() | st.sampled_from(sorted(maps)))
    bind: dict[str, Any] = {"x": draw(_sources(graph, mapped, before))}
    in_maps = [each.name for each in before if each.map is not None]
    if graph == "all":
        bind["ok"] = From(mask=draw(st.sampled_from(in_maps))) if in_maps else b"\0" * 16
    taken = [Value(scalar="count"), Value(count=draw(st.sampled_from(sorted(maps))))]
    taken += [Value(item=True)] if mapped is not None else []
    taken += [Value(step=each.name, output="n") for each in before if each.map in {None, mapped}]
    chosen = draw(st.sampled_from(taken))
    fields = msgspec.structs.asdict(draw(st.sampled_from(taken)))
    repeat = Repeat(bind={"x": Source(output="out")}, until=Condition(output="n", op=">", value=3), most=5)
    return FlowStep(
        name=f"{draw(st.sampled_from(['', 'sub/', 'sub/sub.2/']))}s{number}",
        graph=graph,
        map=mapped,
        bind=bind,
        scalars=draw(st.sampled_from([{}, {"a": 2.5}, {"a": chosen, "i": chosen}])),
        keep=draw(st.sampled_from([{}, {"out": f"k/{number}" + "/{item}" * (mapped is not None)}])),
        after=tuple(draw(st.lists(st.sampled_from([each.name for each in before]), max_size=2)) if before else ()),
        condition=draw(st.sampled_from([None, StepCondition(**fields, op="<=", value=1)])),
        on=draw(st.sampled_from(["completed", "always", *(["failed"] if before else [])])),
        tolerate=draw(st.booleans()),
        retries=draw(st.integers(0, 3)),
        timeout_ms=draw(st.none() | st.just(1000)),
        repeat=draw(st.sampled_from([None, repeat])),
    )


def _sources(graph: str, mapped: str | None, before: list[FlowStep]) -> st.SearchStrategy[bytes | From]:
    """What an input of 4 floats, or of 64, can hold."""
    can: list[bytes | From] = [b"\0" * SIZES[graph], From(ref="ab" * 32), From(name="weights", offset=8)]
    can += [From(input="large", offset=0 if graph == "all" else 16)]
    if mapped is not None:
        can += [From(name="weights", each=True)]
        can += [From(input="many", each=True), From(input="large", each=True)] if graph == "one" else []
    can += [From(input="many")] if graph == "all" else []
    for each in before:
        source = From(step=each.name, output="out")
        if each.map is None and each.graph == graph:
            can.append(source)
        if each.map is None and mapped is not None and (graph, each.graph) == ("one", "all"):
            can.append(msgspec.structs.replace(source, each=True))
        if each.map is not None and each.map == mapped and each.graph == graph:
            can.append(msgspec.structs.replace(source, each=True))
        if each.map is not None and (graph, each.graph) == ("all", "one"):
            can.append(source)
    return st.sampled_from(can)


def _with_what_is_used(steps: list[FlowStep], maps: dict[str, MapSpec], outputs: dict[str, From]) -> FlowSpec:
    """Without maps that no step is in; those whose count something takes need one."""
    steps = [*steps]
    wanted = {value.count for each in steps for value in values(each)} | {each.map for each in steps}
    wanted |= {each.count.count for name, each in maps.items() if name in wanted and isinstance(each.count, Value)}
    for name in sorted({each for each in wanted if each is not None} - {each.map for each in steps}):
        steps.append(FlowStep(name=f"in.{name}", graph="one", map=name, bind={"x": b"\0" * 16}))
    graphs = {each.graph: GRAPHS[each.graph] for each in steps}
    maps = {name: each for name, each in maps.items() if name in wanted}
    sources = [each for step in steps for each in step.bind.values() if isinstance(each, From)]
    inputs = {each.input for each in sources} | {each.input for each in maps.values()}
    scalars = {value.scalar for step in steps for value in values(step)}
    scalars |= {each.count.scalar for each in maps.values() if isinstance(each.count, Value)}
    declared = (
        FlowInput(name="many", nbytes=16, many=True),
        FlowInput(name="large", dtype="f4", shape=(8, 8)),
    )
    flow = FlowSpec(
        name="random.flow",
        inputs=tuple(each for each in declared if each.name in inputs),
        scalars=(Scalar(name="count", dtype="int32"),) if "count" in scalars else (),
        graphs=graphs,
        maps=maps,
        steps=tuple(steps),
        outputs=outputs,
    )
    edges = dependencies(flow)
    alone = {each.name for each, *waits in zip(flow.steps, edges.before, edges.own, strict=True) if not any(waits)}
    return msgspec.structs.replace(
        flow,
        steps=tuple(
            msgspec.structs.replace(each, on="completed") if each.on == "failed" and each.name in alone else each
            for each in flow.steps
        ),
    )
