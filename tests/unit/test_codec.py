"""Messages to bytes and back, and everything that bytes can be instead."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kaasq import codec
from kaasq.checks import GraphLimits
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.errors import BadRequest
from kaasq.messages import (
    CacheUse,
    ErrorBody,
    Output,
    Reply,
    Request,
    Stored,
    Timings,
    WorkerInfo,
)
from kaasq.model import GraphSpec
from kaasq.remembered import ARGUMENT_BYTES, LAUNCH_BYTES
from tests.support.graphs import saxpy

GRAPH = saxpy().freeze()
REQUEST = Request(
    graph=GRAPH,
    bind={"x": b"\0\xff" * 8, "y": Stored(ref="ab" * 32, offset=16)},
    scalars={"a": 3.5},
    keep={"out": "y/1"},
    timeout_ms=1000,
)
REPLY = Reply(
    id="1",
    status="ok",
    outputs={
        "out": Output(nbytes=16, dtype="float32", shape=(4,), inline=b"\xfe" * 16),
        "kept": Output(nbytes=4, ref="ab" * 32, name="y/1", version=3),
    },
    timings=Timings(queued=1, kernel=2, total=3),
    cache=CacheUse(hits=1),
    worker=WorkerInfo(host="h", pid=1, device="cpu", store="s"),
)
FAILED = Reply(id="1", status="error", error=ErrorBody(code="buffer_size", message="m", detail={"expected": 4}))


def decoder() -> RequestDecoder:
    return RequestDecoder(GraphLimits())


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
@pytest.mark.parametrize(
    ("message", "kind"), [(REQUEST, Request), (REPLY, Reply), (FAILED, Reply)], ids=["request", "reply", "failed"]
)
def test_round_trip(message: msgspec.Struct, kind: Any, content_type: str) -> None:
    assert codec.decode(codec.encode(message, content_type), content_type, kind) == message


@pytest.mark.parametrize("message", [REQUEST, REPLY], ids=["request", "reply"])
def test_message_always_says_its_version(message: msgspec.Struct) -> None:
    assert json.loads(codec.encode(message, JSON))["kaasq"] == 1


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_request_decoder_round_trip(content_type: str) -> None:
    assert decoder().decode(codec.encode(REQUEST, content_type), content_type) == REQUEST


def test_json_bytes_are_base64() -> None:
    body = json.loads(codec.encode(REQUEST, JSON))
    assert base64.b64decode(body["bind"]["x"]) == b"\0\xff" * 8


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("text/json", True),
        ("application/msgpack", False),
        ("application/x-msgpack", False),
        ("application/vnd.msgpack", False),
    ],
)
def test_content_type_decides(content_type: str, is_json: bool) -> None:
    assert codec.is_json(b"", content_type) is is_json


@pytest.mark.parametrize("content_type", [None, "", "application/octet-stream"])
@pytest.mark.parametrize("encoding", [MSGPACK, JSON])
def test_without_content_type_the_body_decides(content_type: str | None, encoding: str) -> None:
    assert decoder().decode(codec.encode(REQUEST, encoding), content_type) == REQUEST


def test_json_may_start_with_white_space() -> None:
    assert decoder().decode(b"\n\t " + codec.encode(REQUEST, JSON), None) == REQUEST


def test_other_content_type_is_bad_request() -> None:
    with pytest.raises(BadRequest, match="content_type: content type 'text/xml' is neither"):
        decoder().decode(b"<x/>", "text/xml")


def test_unknown_fields_are_tolerated() -> None:
    body = json.loads(codec.encode(REQUEST, JSON))
    body["newer"] = {"deep": [1]}
    body["graph"]["newer"] = 1
    body["graph"]["launches"][0]["newer"] = 1
    assert decoder().decode(json.dumps(body).encode(), JSON) == REQUEST


def changed(path: tuple[str | int, ...], value: Any) -> bytes:
    """REQUEST as JSON with one place changed."""
    body = json.loads(codec.encode(REQUEST, JSON))
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(body).encode()


WRONG_TYPES: list[tuple[tuple[str | int, ...], Any, str]] = [
    (("kaasq",), "1", "kaasq: Expected `int`"),
    (("kaasq",), 2, "kaasq: version 2 of the protocol; this kaasq speaks 1"),
    (("graph",), 5, "graph: Expected `str | object`, got `int`"),
    (("graph",), None, "graph: Expected"),
    (("bind",), [], "bind: Expected `object`"),
    (("bind", "x"), 5, "bind.x: Expected `bytes (base64) | object`, got `int`"),
    (("bind", "x"), "no base64!", "bind.x: Invalid base64"),
    (("bind", "y"), {"ref": 5}, "bind.y.ref: Expected `str | null`"),
    (("scalars", "a"), "3", "scalars.a: Expected"),
    (("keep", "out"), None, "keep.out: Expected `str`"),
    (("timeout_ms",), 1.5, "timeout_ms: Expected `int | null`"),
    (("graph", "name"), 1, "graph.name: Expected `str`"),
    (("graph", "iterations"), "2", "graph.iterations: Expected `int`"),
    (("graph", "buffers"), {}, "graph.buffers: Expected `array`"),
    (("graph", "buffers", 1), 5, "graph.buffers[1]: Expected `object`"),
    (
        ("graph", "buffers", 0, "role"),
        "in",
        "graph.buffers[0].role: Invalid enum value 'in'; expected one of inout, input, output, temp",
    ),
    (("graph", "buffers", 0, "shape"), [1.5], "graph.buffers[0].shape[0]: Expected `int`"),
    (("graph", "launches", 0, "grid"), "1", "graph.launches[0].grid: Expected `int | array`"),
    (
        ("graph", "launches", 0, "args"),
        [5],
        "graph.launches[0].args[0]: Expected `str | object`, got `int`; a constant needs its type: {",
    ),
    (("graph", "launches", 0, "args"), [None], "graph.launches[0].args[0]: Expected `str | object`, got `null`"),
    (("graph", "launches", 0, "block"), 0, "graph.launches[0] (saxpy): block.x is 0"),
    (("graph", "modules"), [], "graph.modules: Expected `object`"),
    (("graph", "modules", "m"), 5, "graph.modules.m: Expected `object`"),
    (("graph", "modules", "m"), {"options": ["-O", 5]}, "graph.modules.m.options[1]: Expected `str`"),
    (("graph", "modules", "a.cu"), {"source": 5}, "graph.modules['a.cu'].source: Expected `str`"),
    (("scalars", "n" * 1000), "3", f"scalars['{'n' * 80}...']: Expected"),
]


@pytest.mark.parametrize(("path", "value", "says"), WRONG_TYPES)
def test_wrong_type_is_bad_request_naming_the_path(path: tuple[str | int, ...], value: Any, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decoder().decode(changed(path, value), JSON)
    assert caught.value.message.startswith(says)
    assert caught.value.at == says.partition(": ")[0]


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"", MSGPACK, "body: the body is not valid MessagePack"),
        (b"\xc1", MSGPACK, "body: the body is not valid MessagePack"),
        (b"\x81", MSGPACK, "body: the body is not valid MessagePack"),
        (b"", JSON, "body: the body is not valid JSON"),
        (b"{", JSON, "body: the body is not valid JSON"),
        (b'{"graph": "\\ud800"}', JSON, "body: the body is not valid JSON"),
        (b'{"graph": "\xff"}', JSON, ""),
        (b"[]", JSON, "body: Expected `object`, got `array`"),
        (b"{}", JSON, "body: Object missing required field `graph`"),
        (b"[" * 100_000, JSON, "body: "),
        (b'{"graph":' * 100_000, JSON, "body: "),
        (b"\x91" * 100_000, MSGPACK, "body: "),
        (b'{"graph": {"name": "g", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}}", JSON, ""),
        (b'{"graph": "x", "timeout_ms": ' + b"9" * 5000 + b"}", JSON, "timeout_ms: "),
    ],
)
def test_what_is_no_message_is_bad_request(body: bytes, content_type: str, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decoder().decode(body, content_type)
    assert caught.value.message.startswith(says)


# ------------------------------------------------------------------------------------------------------ known graphs


def by_hash(value: str = GRAPH.hash) -> bytes:
    return codec.encode(msgspec.structs.replace(REQUEST, graph=value))


def test_unknown_hash_stays_a_hash() -> None:
    assert decoder().decode(by_hash(), MSGPACK).graph == GRAPH.hash


@pytest.mark.parametrize("taught", [MSGPACK, JSON])
def test_graph_is_known_by_hash_after_it_came_whole(taught: str) -> None:
    one = decoder()
    one.decode(codec.encode(REQUEST, taught), taught)
    assert one.decode(by_hash(), MSGPACK) == REQUEST


def test_known_graph_is_not_decoded_again() -> None:
    one = decoder()
    body = codec.encode(REQUEST)
    assert one.decode(body, MSGPACK).graph is one.decode(body, MSGPACK).graph


def test_wrong_graph_is_never_known() -> None:
    one = decoder()
    for _ in range(2):
        with pytest.raises(BadRequest):
            one.decode(changed(("graph", "iterations"), 0), JSON)


def whole(name: str, content_type: str = MSGPACK) -> tuple[bytes, str]:
    graph = saxpy(name=name).freeze()
    return codec.encode(msgspec.structs.replace(REQUEST, graph=graph), content_type), graph.hash


def test_oldest_graph_is_forgotten_by_count() -> None:
    one = RequestDecoder(GraphLimits(), graphs=2)
    hashes = []
    for name in ("a", "b", "c"):
        body, digest = whole(name)
        one.decode(body, MSGPACK)
        hashes.append(digest)
    known = [isinstance(one.decode(by_hash(each), MSGPACK).graph, GraphSpec) for each in hashes]
    assert known == [False, True, True]


def test_oldest_graph_is_forgotten_by_bytes() -> None:
    size = len(msgspec.msgpack.encode(GRAPH)) + LAUNCH_BYTES + 5 * ARGUMENT_BYTES
    one = RequestDecoder(GraphLimits(), nbytes=2 * size)
    hashes = []
    for name in ("aaaaa", "bbbbb", "ccccc"):
        body, digest = whole(name)
        one.decode(body, MSGPACK)
        hashes.append(digest)
    known = [isinstance(one.decode(by_hash(each), MSGPACK).graph, GraphSpec) for each in hashes]
    assert known == [False, True, True]


def test_graphs_whose_launches_are_short_count_by_what_they_take_decoded() -> None:
    limit = 8 << 20
    one = RequestDecoder(GraphLimits(), nbytes=limit)
    launch = {"module": "kaasq", "kernel": "relu", "args": ["x", "y"]}
    buffers = [{"name": name, "role": "inout", "nbytes": 4, "dtype": "float32"} for name in "xy"]

    def body(index: int) -> bytes:
        graph = {"name": f"g{index}", "buffers": buffers, "launches": [launch] * 1000}
        return msgspec.msgpack.encode({"kaasq": 1, "graph": graph})

    tracemalloc.start()
    try:
        for index in range(60):  # 2 MiB encoded, 23 MiB decoded
            one.decode(body(index), MSGPACK)
        assert tracemalloc.get_traced_memory()[0] < 1.5 * limit
    finally:
        tracemalloc.stop()


def test_a_hash_means_the_graph_that_its_own_tenant_sent_whole() -> None:
    one = RequestDecoder(GraphLimits())
    body, digest = whole("a")
    plain = saxpy(name="a").freeze()
    modules = {key: msgspec.structs.replace(each, signature=bytes(64)) for key, each in plain.modules.items()}
    signed = msgspec.structs.replace(plain, modules=modules)
    assert signed.hash == digest

    def meant(tenant: str) -> set[bytes]:
        graph = one.decode(by_hash(digest), MSGPACK, tenant).graph
        return set() if isinstance(graph, str) else {each.signature for each in graph.modules.values()}

    one.decode(body, MSGPACK, "ann")
    assert meant("bob") == set()  # and he is asked to send it whole
    one.decode(codec.encode(msgspec.structs.replace(REQUEST, graph=signed)), MSGPACK, "bob")
    one.decode(body, MSGPACK, "ann")
    assert (meant("ann"), meant("bob")) == ({b""}, {bytes(64)})
    one.decode(body, MSGPACK, "bob")
    assert meant("bob") == {b""}  # the latest of his own


def test_a_graph_that_one_tenant_is_known_for_is_forgotten_for_all() -> None:
    one = RequestDecoder(GraphLimits(), graphs=1)
    body, digest = whole("a")
    for tenant in ("ann", "bob"):
        one.decode(body, MSGPACK, tenant)
    one.decode(whole("b")[0], MSGPACK, "ann")
    assert [one.decode(by_hash(digest), MSGPACK, tenant).graph for tenant in ("ann", "bob")] == [digest, digest]


def test_graph_known_by_two_encodings_stays_known_by_hash_when_one_is_forgotten() -> None:
    one = RequestDecoder(GraphLimits(), graphs=2)
    for content_type in (MSGPACK, JSON):
        one.decode(whole("a", content_type)[0], content_type)
    one.decode(whole("b")[0], MSGPACK)
    assert isinstance(one.decode(by_hash(whole("a")[1]), MSGPACK).graph, GraphSpec)


# -------------------------------------------------------------------------------------------------------------- fuzz

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(
    {
        field.name
        for kind in (
            Request,
            GraphSpec,
            Stored,
            *(GRAPH.buffers[:1] and [type(GRAPH.buffers[0])]),
            type(GRAPH.launches[0]),
        )
        for field in msgspec.structs.fields(kind)
    }
)


def decodes_or_is_bad_request(body: bytes, content_type: str | None) -> None:
    try:
        decoder().decode(body, content_type)
    except BadRequest as error:
        codec.encode(ErrorBody.of(error))  # what was found out must be able to travel


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON, None]))
@example(b"\xdf\xff\xff\xff\xff", MSGPACK)
@example(b"\xc6\xff\xff\xff\xff", MSGPACK)
def test_fuzz_random_bytes(body: bytes, content_type: str | None) -> None:
    decodes_or_is_bad_request(body, content_type)


@given(st.data(), st.sampled_from([MSGPACK, JSON]))
def test_fuzz_damaged_request(data: st.DataObject, content_type: str) -> None:
    body = bytearray(codec.encode(REQUEST, content_type))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["change", "insert", "delete", "cut"])):
            case "change":
                body[at] = data.draw(st.integers(0, 255))
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete" if len(body) > 1:
                del body[at]
            case "cut" if at:
                del body[at:]
    decodes_or_is_bad_request(bytes(body), content_type)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        found += [each for key, inner in value.items() for each in places(inner, (*path, key))]
    elif isinstance(value, list):
        found += [each for index, inner in enumerate(value) for each in places(inner, (*path, index))]
    return found


PLACES = places(json.loads(codec.encode(REQUEST, JSON)))


@given(st.sampled_from(PLACES), JSON_VALUES)
@example(("graph", "buffers", 0, "dtype"), "(2,")
@example(("graph", "launches", 0, "grid"), [10**300])
@example(("graph", "buffers", 0, "shape"), [10**300, 10**300])
def test_fuzz_any_place_holds_any_value(path: tuple[str | int, ...], value: Any) -> None:
    decodes_or_is_bad_request(changed(path, value), JSON)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=6))
def test_fuzz_right_fields_with_any_values(body: dict[str, Any]) -> None:
    decodes_or_is_bad_request(json.dumps(body).encode(), JSON)
    decodes_or_is_bad_request(json.dumps({"graph": body}).encode(), JSON)


@given(st.binary(max_size=100), st.sampled_from([MSGPACK, JSON, None]))
def test_fuzz_reply(body: bytes, content_type: str | None) -> None:
    try:
        codec.decode_reply(body, content_type)
    except BadRequest:
        pass


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_wrong_value_among_many_is_named(at: int, content_type: str) -> None:
    scalars: dict[str, Any] = {f"s{i}": "wrong" if i >= at else 1 for i in range(10)}
    body = codec.encode(msgspec.structs.replace(REQUEST, scalars=scalars), content_type)
    with pytest.raises(BadRequest) as caught:
        decoder().decode(body, content_type)
    assert caught.value.at == f"scalars.s{at}"


def test_wrong_key_is_named_with_its_mapping() -> None:
    body = msgspec.msgpack.encode({"graph": "x", "bind": {1: b""}})
    with pytest.raises(BadRequest, match=r"^bind: a key: Expected `str`, got `int`$"):
        decoder().decode(body, MSGPACK)


def test_wrong_value_behind_a_duplicate_key_is_refused_all_the_same() -> None:
    with pytest.raises(BadRequest, match=r"^scalars\[\.\.\.\]: Expected"):
        decoder().decode(b'{"graph": "x", "scalars": {"a": "3", "a": 3}}', JSON)


def test_wrong_value_in_a_list_of_mappings_is_named() -> None:
    class Many(msgspec.Struct):
        steps: list[dict[str, dict[str, int]]]

    with pytest.raises(BadRequest, match=r"^steps\[1\]\.b\.d: Expected `int`"):
        codec.decode(b'{"steps": [{"a": {}}, {"a": {"b": 1}, "b": {"c": 1, "d": "x"}}, {}]}', JSON, Many)
