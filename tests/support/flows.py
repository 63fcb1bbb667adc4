"""A workflow with everything that one can have, for tests that run nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from kaasq.flows.model import FlowInput, FlowSpec, FlowStart, FlowStep, From, MapSpec, StepCondition, Value
from kaasq.messages import Condition, Repeat, Source, Stored
from kaasq.model import Buffer, Scalar
from tests.support.graphs import spec


def buffer(name: str, role: Any = "input", n: int = 4, dtype: str = "float32") -> Buffer:
    return Buffer(name=name, role=role, dtype=dtype, shape=(n,))


GRAPHS = {
    "split": spec(buffer("x", n=16), buffer("tiles", "output", 16), buffer("n", "output", 1, "int32"), name="split"),
    "blur": spec(
        buffer("x"),
        buffer("weights"),
        buffer("out", "output"),
        buffer("off", "output", 1),
        scalars=(Scalar(name="a", dtype="float32", default=1.0), Scalar(name="i", dtype="int32", default=0)),
        name="blur",
    ),
    "join": spec(buffer("all", n=32), buffer("ok", n=8, dtype="uint8"), buffer("sum", "output", 1), name="join"),
    "tell": spec(buffer("sum", "output", 1), name="tell"),
}

FLOW = FlowSpec(
    name="images.pipeline",
    inputs=(
        FlowInput(name="image", dtype="f4", shape=(4, 4)),
        FlowInput(name="weights", nbytes=16),
        FlowInput(name="masks", dtype="float32", shape=(4,), many=True),
    ),
    scalars=(Scalar(name="strength", dtype="float32", default=0.5),),
    graphs=GRAPHS,
    maps={
        "tiles": MapSpec(count=Value(step="split", output="n"), most=4),
        "masks": MapSpec(input="masks", most=8),
    },
    steps=(
        FlowStep(name="split", graph="split", bind={"x": From(input="image")}),
        FlowStep(
            name="blur",
            graph="blur",
            map="tiles",
            bind={"x": From(step="split", output="tiles", each=True), "weights": From(input="weights")},
            scalars={"a": Value(scalar="strength"), "i": Value(item=True)},
            keep={"out": "tiles/{item}"},
            retries=2,
            timeout_ms=1000,
        ),
        FlowStep(
            name="again/blur",
            graph="blur",
            map="tiles",
            bind={"x": From(step="blur", output="out", each=True), "weights": From(name="model/w", offset=16)},
            scalars={"a": Value(step="blur", output="off"), "i": Value(count="tiles")},
            condition=StepCondition(step="blur", output="off", op=">", value=0.1),
            repeat=Repeat(bind={"x": Source(output="out")}, until=Condition(output="off", op="<", value=1e-3), most=10),
        ),
        FlowStep(
            name="mask",
            graph="blur",
            map="masks",
            bind={"x": From(input="masks", each=True), "weights": From(ref="ab" * 32)},
            after=("split",),
        ),
        FlowStep(
            name="join",
            graph="join",
            bind={"all": From(step="again/blur", output="out"), "ok": From(mask="again/blur")},
            tolerate=True,
        ),
        FlowStep(name="join.masks", graph="join", bind={"all": From(step="mask", output="out"), "ok": b"\1" * 8}),
        FlowStep(name="tell", graph="tell", after=("join", "join.masks"), on="failed", keep={"sum": "failed/sum"}),
    ),
    outputs={"sum": From(step="join", output="sum"), "blurred": From(step="blur", output="out")},
)

START = FlowStart(
    workflow=FLOW,
    bind={"image": b"\0" * 64, "weights": Stored(name="model/w"), "masks": (b"\0" * 16, Stored(ref="cd" * 32))},
    scalars={"strength": 0.25},
    keep={"sum": "result/sum"},
    timeout_ms=60_000,
    reply="started",
)


def changed(name: str, **fields: Any) -> FlowSpec:
    """The workflow with that step changed."""
    steps = (msgspec.structs.replace(each, **fields) if each.name == name else each for each in FLOW.steps)
    return msgspec.structs.replace(FLOW, steps=tuple(steps))
