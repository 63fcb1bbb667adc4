"""The documents for other languages: current, valid, and in agreement with what kaasq encodes, accepts and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from kaasq import codec
from kaasq.builtins.catalogue import CATALOGUE
from kaasq.builtins.signature import Builtin
from kaasq.checks import GraphLimits, check_graph
from kaasq.cli import main
from kaasq.codec import JSON, RequestDecoder
from kaasq.errors import BadRequest, KaasqError
from kaasq.flows.checks import check_flow
from kaasq.flows.model import (
    Asked,
    Due,
    FlowCall,
    FlowLine,
    FlowList,
    FlowReply,
    FlowsCall,
    FlowSpec,
    FlowStart,
    FlowStatus,
    ItemStatus,
    Sought,
    State,
    StepCall,
    StepStatus,
)
from kaasq.flows.start_checks import check_start
from kaasq.messages import (
    EVENT_WORDS,
    CacheUse,
    Cancel,
    Condition,
    Continuation,
    Element,
    ErrorBody,
    Next,
    Output,
    Reply,
    Request,
    Source,
    Stored,
    Timings,
    WorkerInfo,
)
from kaasq.model import BUILTINS, Buffer, Constant, GraphSpec, Launch, Module, Scalar
from kaasq.schema.asyncapi import asyncapi
from kaasq.schema.codes import CODES
from kaasq.schema.documents import NAMES, json_schema
from kaasq.schema.files import DOCUMENTS, path, text
from tests.support.flow_strategies import flows
from tests.support.flows import START
from tests.support.graphs import SOURCE, saxpy

ROOT = Path(__file__).parents[2]
VALIDATORS = {name: Draft202012Validator(json_schema(name)) for name in NAMES}
REQUEST = Request(
    graph=saxpy().freeze(),
    bind={"x": b"\0\xff" * 8, "y": Stored(ref="ab" * 32, offset=16)},
    scalars={"a": 3.5},
    keep={"out": "y/1"},
    timeout_ms=1000,
)


def as_json(message: msgspec.Struct) -> Any:
    return json.loads(codec.encode(message, JSON))


def validate(name: str, body: Any) -> None:
    """Raises jsonschema.ValidationError."""
    VALIDATORS[name].validate(body)


# ---------------------------------------------------------------------------------------------------- the documents


@pytest.mark.parametrize("document", DOCUMENTS)
def test_committed_documents_are_current(document: str) -> None:
    committed = path(ROOT / "docs", document).read_text(encoding="utf-8")
    assert committed == text(document), "run: kaasq schema --out docs"


@pytest.mark.parametrize("name", NAMES)
def test_json_schemas_are_valid_and_self_contained(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    for reference in re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema)):
        assert reference.startswith("#/$defs/")
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


@pytest.mark.parametrize("name", NAMES)
def test_every_field_says_what_it_is(name: str) -> None:
    schema = json_schema(name)
    bare = [
        f"{kind}.{field}"
        for kind, each in schema["$defs"].items()
        if not kind.endswith("Call")  # their names and what they take say it
        for field, described in each.get("properties", {}).items()
        if "description" not in described and described != {"maxProperties": 0}
    ]
    assert not bare, "describe them in kaasq/schema/fields.py"


def test_asyncapi_examples_fit_their_messages() -> None:
    document = asyncapi()
    messages = {"request", "kaasRequest", "workflow", "flow", "flows", "step", "reply", "event", "cancel"}
    assert set(document["components"]["messages"]) == messages
    for message in document["components"]["messages"].values():
        for part in ("headers", "payload"):
            schema = {**message[part], "components": document["components"]}
            for example in message["examples"]:
                Draft7Validator(schema).validate(example[part])


@pytest.mark.parametrize("name", ["request", "kaasRequest"])
def test_asyncapi_examples_of_requests_are_some(name: str) -> None:
    (example,) = asyncapi()["components"]["messages"][name]["examples"]
    request = RequestDecoder(GraphLimits()).decode(json.dumps(example["payload"]).encode(), JSON)
    assert isinstance(request.graph, GraphSpec)


def test_page_of_the_protocol_has_every_code_once() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    rows = [
        row.split("|")[1] for row in page[page.index("## Errors") : page.index("## Again")].splitlines() if "|" in row
    ]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(CODES)


# -------------------------------------------------------------------------------------- what kaasq encodes is valid

words = st.text("abzAZ09_-", min_size=1, max_size=6)
labels = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)  # JSON has no others
modules = st.one_of(
    st.builds(Module, source=st.just(SOURCE), options=st.just(("-DN=4", "-std=c++17"))),
    st.builds(Module, kind=st.sampled_from(["ptx", "cubin", "fatbin"]), code=st.binary(min_size=1)),
    st.builds(Module, kind=st.just("library"), path=labels),
)
constants = st.one_of(
    st.builds(Constant, dtype=st.sampled_from(["float32", "float64"]), value=finite),
    st.builds(Constant, dtype=st.sampled_from(["int8", "uint16", "int64"]), value=st.integers(0, 127)),
    st.builds(Constant, dtype=st.just("bool"), value=st.booleans()),
    st.builds(Constant, dtype=st.just("bytes"), data=st.binary(min_size=1, max_size=20)),
)
stored = st.builds(Stored, ref=st.just("ab" * 32), offset=st.none() | st.integers(0, 2**53 - 1)) | st.builds(
    Stored, name=labels
)
ATTRIBUTES: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-9, 9),
    float: finite,
    str: words,
    tuple: st.lists(st.integers(-9, 9), max_size=4).map(tuple),
}


@st.composite
def calls(draw: st.DrawFn, builtin: Builtin, names: list[str]) -> Launch:
    """A call with the right number of arguments and the right types of attributes."""
    least = sum(each.default is None for each in builtin.parameters)
    args = st.lists(st.sampled_from(names) | constants, min_size=least, max_size=len(builtin.parameters))
    attrs = {
        name: draw(ATTRIBUTES[default if isinstance(default, type) else type(default)])
        for name, default in builtin.attributes.items()
        if isinstance(default, type) or draw(st.booleans())
    }
    if draw(st.booleans()):
        attrs["shapes"] = ((2, 2), None)[: draw(st.integers(0, 2))]
    return Launch(module=BUILTINS, kernel=builtin.name, args=tuple(draw(args)), attrs=attrs)


@st.composite
def graphs(draw: st.DrawFn) -> GraphSpec:
    names = draw(st.lists(labels, min_size=2, max_size=4, unique=True))
    buffers = [
        Buffer(name="sized", role="inout", nbytes=draw(st.integers(1, 2**40))),
        Buffer(name="constant", role="input", dtype="complex64", shape=(), const=True),
        *(Buffer(name=f"b{each}", role="temp", dtype="<f4", shape=(3, 1)) for each in names),
    ]
    scalars = (
        Scalar(name="s", dtype="float32", default=draw(st.none() | finite)),
        Scalar(name="flag", dtype="?", default=draw(st.none() | st.booleans())),
    )
    every = [*(each.name for each in buffers), *(each.name for each in scalars)]
    dims = st.integers(1, 64) | st.lists(st.integers(1, 8), min_size=1, max_size=3).map(tuple)
    loaded = draw(st.dictionaries(labels.filter(lambda label: label != BUILTINS), modules, min_size=1, max_size=3))
    launches = [
        Launch(module=next(iter(loaded)), kernel="k<float>", args=tuple(every), grid=draw(dims), block=draw(dims)),
        *draw(st.lists(st.sampled_from(list(CATALOGUE.values())).flatmap(lambda each: calls(each, every)), max_size=3)),
        Launch(module=BUILTINS, kernel="package.name", attrs={"any": (1, None, (2, 3), "x")}),
    ]
    return check_graph(
        GraphSpec(
            name=".".join(draw(st.lists(words, min_size=1, max_size=3))),
            buffers=tuple(buffers),
            scalars=scalars,
            modules=loaded,
            launches=tuple(launches),
            iterations=draw(st.integers(1, 1000)),
        ),
        GraphLimits(),
    )


elements = st.builds(Element, output=labels, index=st.none() | st.integers(0, 99))
conditions = st.builds(
    Condition,
    output=labels,
    index=st.none() | st.integers(0, 99),
    op=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    value=finite | st.integers(-9, 9) | st.booleans(),
)
sources = st.one_of(
    st.builds(Source, output=labels, offset=st.none() | st.integers(0, 2**53 - 1)),
    st.builds(Source, ref=st.just("ab" * 32)),
    st.builds(Source, name=labels),
)
leaves = st.builds(
    Continuation,
    graph=st.just("cd" * 32) | labels,
    name=st.none() | labels,
    condition=st.none() | conditions,
    bind=st.dictionaries(labels, st.binary(max_size=20) | sources, max_size=2),
    scalars=st.dictionaries(labels, finite | elements, max_size=2),
    keep=st.dictionaries(labels, labels, max_size=1),
    timeout_ms=st.none() | st.integers(0, 2**53 - 1),
    pool=st.none() | st.just("pool-1"),
)
chains = st.lists(leaves, max_size=2).map(tuple)
continuations = st.builds(lambda each, then: msgspec.structs.replace(each, then=then), leaves, chains)


@settings(deadline=None, max_examples=50)  # the validator takes 2 ms per launch: it tries every built-in
@given(
    request=st.builds(
        Request,
        graph=graphs() | st.just("cd" * 32),
        bind=st.dictionaries(labels, st.binary(max_size=20) | stored, max_size=3),
        scalars=st.dictionaries(labels, finite | st.integers(-9, 2**63) | st.booleans(), max_size=3),
        keep=st.dictionaries(labels, labels, max_size=2),
        timeout_ms=st.none() | st.integers(0, 2**53 - 1),
        graphs=st.dictionaries(labels, graphs(), max_size=1),
        then=st.lists(continuations, max_size=2).map(tuple),
    )
)
def test_every_request_that_kaasq_encodes_fits_the_schema(request: Request) -> None:
    validate("request", as_json(request))


errors = st.builds(
    ErrorBody, code=st.sampled_from(CODES) | words, message=st.text(), detail=st.dictionaries(words, st.integers())
)
outputs = st.builds(
    Output,
    nbytes=st.integers(1, 2**53),
    dtype=st.none() | st.just("float32"),
    shape=st.none() | st.lists(st.integers(1, 9)).map(tuple),
    inline=st.none() | st.binary(),
    ref=st.none() | st.just("ab" * 32),
    name=st.none() | labels,
    version=st.none() | st.integers(1, 99),
)
common: dict[str, Any] = {
    "id": labels,
    "graph": st.none() | st.just("cd" * 32),
    "timings": st.builds(Timings, queued=st.integers(0, 2**53 - 1)),
    "cache": st.builds(CacheUse, hits=st.integers(0, 9)),
    "worker": st.none() | st.just(WorkerInfo(host="h", pid=1, device="cpu", store="s")),
}
nexts = st.lists(st.builds(Next, id=labels, name=st.none() | labels, skipped=st.none() | st.text()), max_size=2)
replies = st.builds(
    Reply, status=st.just("ok"), outputs=st.dictionaries(labels, outputs), then=nexts.map(tuple), **common
) | st.builds(Reply, status=st.sampled_from([each for each in EVENT_WORDS if each != "ok"]), error=errors, **common)


@given(reply=replies)
def test_every_reply_and_event_that_kaasq_encodes_fits_the_schema(reply: Reply) -> None:
    validate("reply", as_json(reply))
    validate("event", as_json(reply.without_inline()))


@settings(deadline=None, max_examples=10)
@given(flow=flows())
def test_every_workflow_that_kaasq_encodes_fits_the_schema(flow: FlowSpec) -> None:
    bind = {each.name: (b"\0" * 16, Stored(name="n")) if each.many else b"\0" * 256 for each in flow.inputs}
    checked = check_flow(flow, GraphLimits())  # where dtypes have NumPy's names
    validate("workflow", as_json(FlowStart(workflow=checked, bind=bind, scalars={"count": 2}, keep={"o0": "kept"})))


def test_every_message_about_workflows_fits_its_schema() -> None:
    validate("flow", as_json(FlowCall(flow=Asked(id="f", do="status", items=True, after=7))))
    validate("flows", as_json(FlowsCall(flows=Sought(state="failed", most=7, after="1-f"))))
    validate("step", as_json(StepCall(step=Due(flow="f"))))
    error = ErrorBody(code="kernel_failed", message="step 'a': it crashed", detail={"step": "a"})
    item = ItemStatus(step="a", item=1, id="f+2", number=2, attempt=3, state="failed", ended_ms=2, error=error)
    step = StepStatus(name="a", graph="g", state="failed", map="m", items=2, completed=1, failed=1, error=error)
    for state in get_args(State):
        flow = FlowStatus(id="f", name="g", state=state, started_ms=1, steps=(step,), items=(item,), more=True)
        validate("reply", as_json(FlowReply(id="f", status="error", error=error, flow=flow)))
        line = FlowLine(id="f", name="g", state=state, started_ms=1, ended_ms=2, steps=3, ended=2)
        validate("reply", as_json(FlowReply(id="f", status="ok", flows=FlowList(found=(line,), total=2, next="1-f"))))


# ------------------------------------------------------------------------------- what kaasq refuses is not valid

GRAPH = as_json(
    GraphSpec(
        name="g",
        buffers=(
            Buffer(name="x", role="input", dtype="float32", shape=(4,), const=True),
            Buffer(name="out", role="output", nbytes=16),
        ),
        scalars=(Scalar(name="a", dtype="float32", default=1.0),),
        modules={"m": Module(source=SOURCE, options=("-DN=4",))},
        launches=(
            Launch(module="m", kernel="k", args=("x", "out", "a", Constant(dtype="int32", value=4))),
            Launch(module=BUILTINS, kernel="softmax", args=("x", "out"), attrs={"axis": 0}),
        ),
    )
)
WRONG: list[tuple[tuple[str | int, ...], Any]] = [
    (("then",), {}),
    (("then", 0, "graph"), None),
    (("then", 0, "name"), ""),
    (("then", 0, "pool"), "No Pool"),
    (("then", 0, "if", "op"), "<>"),
    (("then", 0, "if", "value"), "1"),
    (("then", 0, "bind", "x"), {"output": 5}),
    (("then", 0, "scalars", "a"), {"output": "out", "index": -1}),
    (("graphs", "g"), "cd" * 32),
    (("kaasq",), 2),
    (("kaasq",), "1"),
    (("graph",), None),
    (("graph",), 5),
    (("bind",), []),
    (("bind", "x"), 5),
    (("bind", "x"), "no base64!"),
    (("bind", "x"), {"ref": 5}),
    (("bind", "x"), {"name": "n", "offset": -1}),
    (("scalars", "a"), "3"),
    (("keep", "out"), None),
    (("timeout_ms",), 1.5),
    (("timeout_ms",), -1),
    (("timeout_ms",), 2**53),
    (("graph", "name"), "no name"),
    (("graph", "name"), "a..b"),
    (("graph", "iterations"), 0),
    (("graph", "launches"), []),
    (("graph", "buffers"), {}),
    (("graph", "buffers", 0, "name"), ""),
    (("graph", "buffers", 0, "name"), "a\nb"),
    (("graph", "buffers", 0, "name"), "n" * 201),
    (("graph", "buffers", 0, "role"), "in"),
    (("graph", "buffers", 0, "role"), "inout"),  # and const
    (("graph", "buffers", 0, "dtype"), "float31"),
    (("graph", "buffers", 0, "dtype"), None),  # but a shape
    (("graph", "buffers", 0, "shape"), [0]),
    (("graph", "buffers", 0, "shape"), [1] * 33),
    (("graph", "buffers", 0, "shape"), None),  # and no nbytes
    (("graph", "buffers", 1, "nbytes"), 0),
    (("graph", "scalars", 0, "dtype"), "complex64"),
    (("graph", "modules", BUILTINS), {"source": SOURCE}),
    (("graph", "modules", "m"), {}),
    (("graph", "modules", "m", "source"), "  "),
    (("graph", "modules", "m", "code"), "QUJD"),
    (("graph", "modules", "m", "kind"), "ptx"),  # without code
    (("graph", "modules", "m", "kind"), "library"),  # with source
    (("graph", "modules", "m", "kind"), "exe"),
    (("graph", "modules", "m", "options"), ["-I/etc"]),
    (("graph", "launches", 0, "kernel"), " "),
    (("graph", "launches", 0, "grid"), 0),
    (("graph", "launches", 0, "grid"), [1, 1, 1, 1]),
    (("graph", "launches", 0, "grid"), "1"),
    (("graph", "launches", 0, "block"), 1025),
    (("graph", "launches", 0, "shared_bytes"), -1),
    (("graph", "launches", 0, "attrs"), {"axis": 1}),
    (("graph", "launches", 0, "args"), [5]),
    (("graph", "launches", 0, "args", 3, "dtype"), "bytes"),  # without data
    (("graph", "launches", 1, "grid"), 2),
    (("graph", "launches", 1, "shared_bytes"), 4),
]


@pytest.mark.parametrize(("place", "value"), WRONG, ids=lambda each: str(each)[:50])
def test_schema_refuses_what_the_worker_refuses(place: tuple[str | int, ...], value: Any) -> None:
    body = {
        "kaasq": 1,
        "graph": json.loads(json.dumps(GRAPH)),
        "bind": {"x": "AAAA"},
        "scalars": {"a": 1},
        "keep": {"out": "kept"},
        "timeout_ms": 1,
        "graphs": {"g": json.loads(json.dumps(GRAPH))},
        "then": [{"graph": "g", "if": {"output": "out", "op": "<", "value": 1}, "bind": {}, "scalars": {}}],
    }
    validate("request", body)
    at: Any = body
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    with pytest.raises(BadRequest):
        RequestDecoder(GraphLimits()).decode(json.dumps(body).encode(), JSON)
    assert not VALIDATORS["request"].is_valid(body)


STARTED = msgspec.structs.replace(START, workflow=check_flow(START.workflow, GraphLimits()))
WRONG_FLOWS: list[tuple[tuple[str | int, ...], Any]] = [
    (("kaasq",), 2),
    (("workflow",), "f"),
    (("workflow", "name"), "no name"),
    (("workflow", "steps"), []),
    (("workflow", "graphs", "blur"), "ab" * 32),
    (("workflow", "inputs", 0, "dtype"), "float31"),
    (("workflow", "inputs", 1, "nbytes"), 0),
    (("workflow", "maps", "tiles"), {}),
    (("workflow", "maps", "tiles", "input"), "masks"),  # and a count
    (("workflow", "maps", "tiles", "most"), 0),
    (("workflow", "steps", 0, "name"), "a//b"),
    (("workflow", "steps", 0, "name"), "n" * 129),
    (("workflow", "steps", 0, "graph"), None),
    (("workflow", "steps", 0, "bind", "x"), {}),
    (("workflow", "steps", 0, "bind", "x"), {"step": "blur"}),
    (("workflow", "steps", 0, "bind", "x"), {"input": "image", "name": "n"}),
    (("workflow", "steps", 0, "bind", "x"), {"ref": "ab"}),
    (("workflow", "steps", 1, "scalars", "a"), {"item": False}),
    (("workflow", "steps", 1, "scalars", "a"), {"count": "tiles", "item": True}),
    (("workflow", "steps", 1, "scalars", "a"), {"step": "split"}),
    (("workflow", "steps", 2, "if", "op"), "<>"),
    (("workflow", "steps", 2, "if", "step"), None),
    (("workflow", "steps", 6, "on"), "success"),
    (("workflow", "steps", 1, "retries"), -1),
    (("workflow", "outputs", "sum"), {}),
    (("bind", "masks"), [5]),
    (("bind", "masks", 0), {"ref": 5}),
    (("scalars", "strength"), "1"),
    (("keep", "sum"), ""),
    (("timeout_ms",), -1),
    (("reply",), "never"),
]


@pytest.mark.parametrize(("place", "value"), WRONG_FLOWS, ids=lambda each: str(each)[:50])
def test_schema_refuses_workflows_that_the_worker_refuses(place: tuple[str | int, ...], value: Any) -> None:
    body = as_json(STARTED)
    validate("workflow", body)
    at: Any = body
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    assert not VALIDATORS["workflow"].is_valid(body)
    with pytest.raises(KaasqError):
        read_start(body)


def read_start(body: Any) -> None:
    start = RequestDecoder(GraphLimits()).read(json.dumps(body).encode(), JSON)
    assert isinstance(start, FlowStart)
    check_start(start, start.workflow, GraphLimits())


def test_asyncapi_examples_of_workflows_are_some() -> None:
    messages = asyncapi()["components"]["messages"]
    (start,) = messages["workflow"]["examples"]
    read_start(start["payload"])
    for name, kind in (("flow", FlowCall), ("flows", FlowsCall), ("step", StepCall)):
        for each in messages[name]["examples"]:
            assert isinstance(RequestDecoder(GraphLimits()).read(json.dumps(each["payload"]).encode(), JSON), kind)


def test_workflow_on_the_page_of_the_protocol_is_one() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```json workflow\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    validate("workflow", json.loads(shown))
    read_start(json.loads(shown))


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": "softmin"},
        {"args": ["x"]},
        {"args": ["x", "out", "a"]},
        {"attrs": {"axes": 0}},
        {"attrs": {"axis": "0"}},
        {"attrs": {"shapes": [[0]]}},
        {"kernel": "reduce", "attrs": {}},  # which needs op
    ],
    ids=str,
)
def test_schema_knows_what_built_ins_take(changes: dict[str, Any]) -> None:
    body = {"graph": {**GRAPH, "launches": [GRAPH["launches"][0], {**GRAPH["launches"][1], **changes}]}}
    assert not VALIDATORS["request"].is_valid(body)


def test_schema_tolerates_unknown_fields_as_the_worker_does() -> None:
    body = as_json(REQUEST)
    body["newer"] = body["graph"]["newer"] = body["graph"]["launches"][0]["newer"] = {"deep": [1]}
    validate("request", body)
    assert RequestDecoder(GraphLimits()).decode(json.dumps(body).encode(), JSON) == REQUEST


def test_reply_that_failed_says_why_and_events_have_no_bytes() -> None:
    assert not VALIDATORS["reply"].is_valid({"id": "1", "status": "error"})
    reply = as_json(Reply(id="1", status="ok", outputs={"out": Output(nbytes=1, inline=b"x")}))
    validate("reply", reply)
    assert not VALIDATORS["event"].is_valid(reply)


KAAS = json.loads((ROOT / "examples" / "kaas" / "dot.json").read_text())


def test_schema_of_the_kaas_format_takes_both_of_its_spellings() -> None:
    validate("kaas-request", {**KAAS, "kaasq": 1, "nIter": 2, "keys": {"a": "other"}})
    buffer = {"name": "x", "size": 16}
    kernel = {"library": "k.cu", "kernel": "k", "nGrid": 1, "nBlock": [256], "arguments": [[buffer, "io"]]}
    validate("kaas-request", {"kernels": [kernel]})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gridDim", None),
        ("gridDim", 0),
        ("blockDim", [1, 1, 1, 1]),
        ("blockDim", "1"),
        ("literals", [{"type": "x", "val": 1}]),
        ("literals", [{"type": "i"}]),
        ("arguments", [{"name": "a"}]),
        ("type_list", ["i", "i", "x"]),
        ("sharedSize", -1),
        ("library", None),
    ],
)
def test_schema_of_the_kaas_format_refuses_what_the_worker_refuses(field: str, value: Any) -> None:
    body = {"kernels": [{**KAAS["kernels"][0], field: value}, *KAAS["kernels"][1:]]}
    with pytest.raises(BadRequest):
        RequestDecoder(GraphLimits()).decode(json.dumps(body).encode(), JSON)
    assert not VALIDATORS["kaas-request"].is_valid(body)


def test_cancellation_fits_its_schema() -> None:
    validate("cancel", as_json(Cancel(cancel="id")))
    assert not VALIDATORS["cancel"].is_valid({"cancel": ""})


# ------------------------------------------------------------------------------------------------------ the command


def run(*arguments: str) -> int:
    try:
        main(["schema", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_command_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reply") == 0
    assert json.loads(capsys.readouterr().out) == json_schema("reply")


def test_command_writes_and_checks_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "new")
    assert run("--out", out, "--check") == 1
    assert not Path(out).exists()
    assert run("--out", out) == 0
    assert run("--out", out, "--check") == 0
    changed = path(Path(out), "event")
    changed.write_text("{}")
    capsys.readouterr()
    assert run("--out", out, "--check") == 1
    assert f"{changed} is not current" in capsys.readouterr().err
    assert run("request", "--out", out, "--check") == 0  # only that one was asked for


@pytest.mark.parametrize("arguments", [(), ("--check",), ("request", "reply"), ("answer",)])
def test_command_says_how_it_is_used(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert "Error" in capsys.readouterr().err
