"""The messages about workflows, as they are read: each is what it is, a workflow comes checked, and is remembered."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.errors import BadRequest, BufferSize, KaasqError
from kaasq.flows.checks import check_flow
from kaasq.flows.model import (
    Asked,
    Due,
    FlowCall,
    FlowReply,
    FlowsCall,
    FlowStart,
    FlowStatus,
    Sought,
    StepCall,
    StepStatus,
)
from kaasq.messages import Reply, Request, Stored
from kaasq.remembered import Remembered
from tests.support.flows import FLOW, GRAPHS, START
from tests.support.graphs import saxpy

LIMITS = GraphLimits()
content_types = pytest.mark.parametrize("content_type", [MSGPACK, JSON])


def plain(message: msgspec.Struct) -> dict[str, Any]:
    """The message as another program would write it."""
    made: dict[str, Any] = msgspec.json.decode(codec.encode(message, JSON))
    return made


def read(body: dict[str, Any] | msgspec.Struct, content_type: str = JSON) -> Any:
    encoded = codec.encode(body, content_type) if isinstance(body, msgspec.Struct) else msgspec.json.encode(body)
    return RequestDecoder(LIMITS).read(encoded, content_type)


@content_types
def test_each_message_is_read_as_what_it_is(content_type: str) -> None:
    for sent in (
        FlowCall(flow=Asked(id="f", do="status", items=True, after=3)),
        FlowsCall(flows=Sought(state="failed", most=3, after="1-f")),
        StepCall(step=Due(flow="f", step="a")),
    ):
        assert read(sent, content_type) == sent
    found = read(START, content_type)
    assert found == msgspec.structs.replace(START, workflow=check_flow(FLOW, LIMITS))
    assert type(found) is FlowStart
    request = Request(graph=saxpy().freeze())
    assert read(request, content_type).request == request


def test_a_workflow_seen_before_is_not_decoded_again_and_its_graphs_are_known_by_hash() -> None:
    decoder = RequestDecoder(LIMITS)
    first = decoder.read(codec.encode(START), MSGPACK)
    again = decoder.read(codec.encode(msgspec.structs.replace(START, timeout_ms=1)), MSGPACK)
    assert isinstance(first, FlowStart)
    assert isinstance(again, FlowStart)
    assert again.workflow is first.workflow
    graph = first.workflow.graphs["blur"]
    assert decoder.decode(codec.encode(Request(graph=graph.hash)), MSGPACK).graph is graph


def test_a_graph_that_came_alone_is_the_same_in_a_workflow() -> None:
    decoder = RequestDecoder(LIMITS)
    alone = decoder.decode(codec.encode(Request(graph=GRAPHS["tell"])), MSGPACK).graph
    start = decoder.read(codec.encode(START), MSGPACK)
    assert isinstance(start, FlowStart)
    assert start.workflow.graphs["tell"] is alone


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"graph": "ab" * 32}, "graph: has both workflow and graph: a message is one of the two"),
        ({"kernels": []}, "kernels: has both workflow and kernels"),
        ({"flow": {"id": "f", "do": "wait"}}, "flow: has both workflow and flow"),
        ({"step": {"flow": "f"}}, "step: has both workflow and step"),
        ({"then": []}, "then: a message with workflow has no then: its steps say what follows, and what repeats"),
        (
            {"repeat": {"bind": {}, "until": {"output": "x", "op": "<", "value": 0}, "most": 2}},
            "repeat: a message with workflow has no repeat",
        ),
        ({"kaasq": 2}, "kaasq: version 2 of the protocol; this kaasq speaks 1"),
        ({"workflow": 5}, "workflow: Expected `object`, got `int`"),
        ({"workflow": {"name": "f"}}, "workflow.steps: a workflow needs at least one step"),
        ({"workflow": {"name": "f", "steps": [{"name": "a"}]}}, "workflow.steps[0]: Object missing required field"),
        (
            {"workflow": {"name": "f", "steps": [{"name": "a", "graph": "g", "on": "fail"}]}},
            "workflow.steps[0].on: Invalid enum value 'fail'; expected one of always, completed, failed",
        ),
        ({"reply": "never"}, "reply: Invalid enum value 'never'; expected one of ended, started"),
        ({"bind": {"masks": [5]}}, "bind.masks[0]: Expected `bytes (base64) | object`, got `int`"),
        ({"bind": {"masks": 5}}, "bind.masks: Expected `bytes (base64) | object | array`, got `int`"),
    ],
)
def test_a_start_that_is_something_else_too_or_none_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(plain(START) | more)
    assert caught.value.message.startswith(told)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"flow": {"id": "f"}}, "flow: Object missing required field `do`"),
        ({"flow": {"id": "f", "do": "stop"}}, "flow.do: Invalid enum value 'stop'; expected one of status, wait"),
        ({"flow": {"id": "f", "do": "wait"}, "graph": "x"}, "graph: has both flow and graph"),
        ({"flows": {"state": "skipped"}}, "flows.state: Invalid enum value 'skipped'"),
        ({"flows": {"most": 0}}, "flows.most: Expected `int` >= 1"),
        ({"flows": {}, "flow": {"id": "f", "do": "wait"}}, "flows: has both flow and flows"),
        ({"step": {"flow": "f", "item": -1}}, "step.item: Expected `int` >= 0"),
        ({"step": {"flow": "f"}, "flow": {}}, "step: has both flow and step"),
        ({"graph": "ab" * 32, "bind": {"x": [""]}}, "bind.x: Expected `bytes (base64) | object`, got `array`"),
        ({"graph": "ab" * 32, "bind": {"x": 5}}, "bind.x: Expected `bytes (base64) | object`, got `int`"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(body: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(body)
    assert caught.value.message.startswith(told)


def changed(**fields: Any) -> dict[str, Any]:
    return plain(START) | {"workflow": plain(FLOW) | fields}


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (changed(graphs={"blur": "ab" * 32}), BadRequest, "workflow.graphs.blur: is a graph whole, not its hash"),
        (changed(graphs={"blur": {"name": "g"}}), BadRequest, "workflow.graphs.blur.launches: a graph needs at least"),
        (changed(outputs={}, maps={}), BadRequest, "steps[1] (blur).map: the workflow has no map 'tiles'; it has none"),
        (
            changed(inputs=[{"name": "image", "nbytes": 3}, *plain(FLOW)["inputs"][1:]]),
            BufferSize,
            "steps[0] (split).bind.x: buffer 'x' is",
        ),
    ],
)
def test_a_workflow_is_checked_as_it_is_read(body: dict[str, Any], kind: type[KaasqError], told: str) -> None:
    with pytest.raises(kind) as caught:
        read(body)
    assert caught.value.message.startswith(told)


def test_what_is_about_a_workflow_is_no_request() -> None:
    for sent in (START, FlowCall(flow=Asked(id="f", do="wait"))):
        with pytest.raises(BadRequest, match=r"^body: expected a request with a graph; this one is about a workflow$"):
            RequestDecoder(LIMITS).decode(codec.encode(sent), MSGPACK)


@content_types
def test_a_reply_may_be_about_a_workflow(content_type: str) -> None:
    status = FlowStatus(id="f", name="flow", state="running", started_ms=1, steps=(StepStatus(name="a", graph="g"),))
    for sent in (FlowReply(id="f", status="ok", flow=status), FlowReply(id="r", status="cancelled")):
        assert codec.decode_reply(codec.encode(sent, content_type), content_type) == sent
    assert codec.decode_reply(codec.encode(Reply(id="r", status="ok")), MSGPACK) == FlowReply(id="r", status="ok")


# ------------------------------------------------------------------------------------------------------ how much it is


def test_workflows_of_many_short_steps_count_by_what_they_take_decoded() -> None:
    limit = 512 << 10
    decoder = RequestDecoder(LIMITS, nbytes=limit)
    step = {"graph": "g", "bind": {"x": {"ref": "ab" * 32}, "y": {"name": "y"}}, "after": ["0"]}
    graph = plain(saxpy().freeze())

    def body(index: int) -> bytes:
        steps = [step | {"name": f"{i}", "after": [f"{i - 1}"] * (i > 0)} for i in range(100)]
        return msgspec.msgpack.encode({"workflow": {"name": f"f{index}", "graphs": {"g": graph}, "steps": steps}})

    tracemalloc.start()
    try:
        for index in range(10):
            decoder.read(body(index), MSGPACK)
        assert tracemalloc.get_traced_memory()[0] < 1.5 * limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"steps": [{"name": "a", "graph": "g"}] * 1001}, "workflow.steps: more than 1000 steps, which is the limit"),
        ({"graphs": {str(i): {} for i in range(1001)}}, "workflow.graphs: 1001 graphs; the limit is 1000"),
        ({"maps": {str(i): {"count": 1} for i in range(1001)}}, "workflow.maps: 1001 maps; the limit is 1000"),
        ({"outputs": {str(i): {} for i in range(4097)}}, "workflow.outputs: 4097 outputs; the limit is 4096"),
    ],
)
def test_too_much_of_anything_is_refused_before_any_graph_is_read(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(changed(**fields))
    assert caught.value.message == told


@content_types
@pytest.mark.parametrize("place", ["steps", "lists"])
def test_tiny_steps_and_items_cost_no_more_than_their_bytes(place: str, content_type: str) -> None:
    tiny: list[Any] = [{}] * (1 << 20)
    body = {"workflow": {"name": "f", "steps": tiny}} if place == "steps" else {"workflow": {}, "bind": {"x": tiny}}
    encoded = (msgspec.json if content_type == JSON else msgspec.msgpack).encode(body)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="which is the limit"):
            RequestDecoder(LIMITS).read(encoded, content_type)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(encoded)
    finally:
        tracemalloc.stop()


def test_as_many_steps_and_items_as_may_be_are_read() -> None:
    steps = [{"name": f"{i}", "graph": "tell"} for i in range(LIMITS.steps)]
    lists = {"x": [{"name": "n"}] * (LIMITS.listed - 1), "y": ["", {"name": "n"}]}
    graphs = {"tell": plain(GRAPHS["tell"])}
    found = read({"workflow": {"name": "f", "steps": steps, "graphs": graphs}, "bind": lists})
    assert (len(found.workflow.steps), len(found.bind["x"])) == (LIMITS.steps, LIMITS.listed - 1)


def test_what_is_forgotten_makes_room() -> None:
    seen = Remembered(most=2, nbytes=1 << 30)
    spec = check_flow(FLOW, LIMITS)
    for key in (b"a", b"b", b"c"):
        seen.add((key,), spec, "ann")
    assert [seen.get((key,), "ann") is spec for key in (b"a", b"b", b"c")] == [False, True, True]


def test_a_deep_body_is_refused() -> None:
    for body in (b'{"workflow":' * 100_000, b'{"workflow": {"graphs": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}}"):
        with pytest.raises(BadRequest):
            RequestDecoder(LIMITS).read(body, JSON)


def test_stored_data_may_stand_in_lists() -> None:
    found = read(plain(START) | {"bind": {"masks": [{"ref": "ab" * 32}, "AAAA"]}})
    assert found.bind == {"masks": (Stored(ref="ab" * 32), b"\0\0\0")}
