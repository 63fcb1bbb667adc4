"""Every valid message comes back as it was; whatever is changed in it, the answer is a message or BadRequest."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from kaasq import codec
from kaasq.checks import GraphLimits, check_graph
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.errors import BadRequest
from kaasq.messages import ErrorBody, Request, Stored
from kaasq.model import BUILTINS, Buffer, Constant, GraphSpec, Launch, Module, Scalar
from tests.support import strategies
from tests.support.graphs import spec

LIMITS = GraphLimits()
LONGEST_MESSAGE = 2000

content_types = st.sampled_from([MSGPACK, JSON])
Path = tuple[str | int, ...]


def decode(body: bytes, content_type: str) -> Request:
    return RequestDecoder(LIMITS).decode(body, content_type)


def plain(message: msgspec.Struct, content_type: str) -> Any:
    """The message as dicts, lists and the like, as another program would see it."""
    body = codec.encode(message, content_type)
    return json.loads(body) if content_type == JSON else msgspec.msgpack.decode(body)


def encoded(value: Any, content_type: str) -> bytes:
    return json.dumps(value).encode() if content_type == JSON else msgspec.msgpack.encode(value)


def shuffled(value: Any, order: random.Random) -> Any:
    """The same value with every mapping in another order."""
    match value:
        case dict():
            items = [(key, shuffled(inner, order)) for key, inner in value.items()]
            order.shuffle(items)
            return dict(items)
        case list():
            return [shuffled(inner, order) for inner in value]
    return value


def checked(request: Request) -> Request:
    graph = request.graph
    return request.with_graph(check_graph(graph, LIMITS) if isinstance(graph, GraphSpec) else graph)


# -------------------------------------------------------------------------------------------------------- round trip


@given(strategies.requests(), content_types)
def test_a_request_comes_back_as_it_was(request, content_type):
    assert decode(codec.encode(request, content_type), content_type) == checked(request)


@given(strategies.requests(), content_types, st.randoms(use_true_random=False))
def test_the_order_of_maps_means_nothing(request, content_type, order):
    body = encoded(shuffled(plain(request, content_type), order), content_type)
    found = decode(body, content_type)
    assert found == checked(request)
    assert codec.canonical(found) == codec.canonical(checked(request))


@given(strategies.graphs(), st.randoms(use_true_random=False))
def test_a_graph_has_one_hash_in_whatever_form_it_came(graph, order):
    hashes = {check_graph(graph, LIMITS).hash}
    for content_type in (MSGPACK, JSON):
        body = encoded(shuffled(plain(graph, content_type), order), content_type)
        read = codec.decode(body, content_type, GraphSpec)
        hashes.add(check_graph(read, LIMITS).hash)
    assert len(hashes) == 1


@pytest.mark.parametrize("infinity", [float("inf"), -float("inf")])
def test_infinities_travel_in_msgpack(infinity):
    graph = spec(
        scalars=(Scalar(name="a", dtype="float32", default=infinity),),
        launches=(
            Launch(module="kaasq", kernel="fill", args=(Constant(dtype="f8", value=infinity),), attrs={"v": infinity}),
        ),
    )
    request = Request(graph=graph, scalars={"a": infinity})
    assert decode(codec.encode(request, MSGPACK), MSGPACK) == checked(request)


# --------------------------------------------------------------------------------------------------------- one change


def places(value: Any, path: Path = ()) -> list[Path]:
    """The path of everything in the value but itself."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return [each for key, inner in inside for each in ((*path, key), *places(inner, (*path, key)))]


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def changed(value: Any, path: Path, to: Any) -> Any:
    """The value with another one at the path; ``...`` takes it out."""
    if not path:
        return to
    key, rest = path[0], path[1:]
    copy = value.copy()
    if to is ... and not rest:
        del copy[key]
    else:
        copy[key] = changed(value[key], rest, to)
    return copy


def spelled(path: Path) -> str:
    """The path as errors name it."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.replace("-", "_").isidentifier():
            text += f".{key}"
        else:
            text += f"[{key!r}]"
    return text.removeprefix(".")


def never_of_that_type(value: Any, path: Path) -> Any:
    """What no field that holds such a value takes."""
    if "attrs" in path[:-1]:  # numbers, text and lists of them all may be there
        return {"no": "attribute"}
    return "text" if isinstance(value, (bool, int, float, list)) else 5


def refused(body: bytes, content_type: str) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        decode(body, content_type)
    return caught.value


def decodes_or_is_refused(body: bytes, content_type: str) -> None:
    """Nothing but BadRequest, which can travel and is not as long as what it is about; what decodes has a hash."""
    outcome: Request | BadRequest
    try:
        outcome = decode(body, content_type)
    except BadRequest as error:
        outcome = error
    if isinstance(outcome, BadRequest):
        assert len(outcome.message) < LONGEST_MESSAGE
        codec.encode(ErrorBody.of(outcome), JSON)
    else:
        assert isinstance(outcome.graph, str) or len(outcome.graph.hash) == 64


@given(strategies.requests(), content_types, st.data())
def test_a_wrong_type_is_refused_naming_its_path(request, content_type, data):
    body = plain(request, content_type)
    path = data.draw(st.sampled_from(places(body)))
    assume(at(body, path) is not None)
    wrong = changed(body, path, never_of_that_type(at(body, path), path))
    assert refused(encoded(wrong, content_type), content_type).at == spelled(path)


@given(strategies.requests(), content_types, st.data())
def test_a_missing_field_is_refused_naming_it_or_had_a_default(request, content_type, data):
    body = plain(request, content_type)
    path = data.draw(st.sampled_from(places(body)))
    decodes_or_is_refused(encoded(changed(body, path, ...), content_type), content_type)


NEEDED: dict[Path, str] = {
    ("graph",): "body",
    ("graph", "name"): "graph",
    ("graph", "buffers", 0, "role"): "graph.buffers[0]",
    ("graph", "launches", 0, "kernel"): "graph.launches[0]",
}


@given(strategies.graphs(), content_types)
def test_a_missing_field_without_default_is_named(graph, content_type):
    assume(graph.buffers)
    body = plain(Request(graph=graph), content_type)
    for path, place in NEEDED.items():
        error = refused(encoded(changed(body, path, ...), content_type), content_type)
        assert error.at == place
        assert f"`{path[-1]}`" in error.message


numbers = st.sampled_from([0, -1, 1.5, -0.0, 2**31, 2**53, 2**63, 2**64 - 1, -(2**63), 1e308])
too_large_for_msgpack = st.sampled_from([2**64, -(2**64), 10**400, 10**4000])
texts = st.sampled_from(["", "\0", " ", "\ud7ff", "\uffff", "a" * 100_000, "é" * 70_000, "../..", "kaasq"])


@st.composite
def nested(draw: st.DrawFn) -> Any:
    value: Any = draw(st.sampled_from([None, 1, "a", {}]))
    for _ in range(draw(st.sampled_from([1, 5, 100, 500]))):
        value = draw(st.sampled_from([[value], {"a": value}])) if draw(st.booleans()) else [value]
    return value


EVERY_FIELD = Request(
    graph=spec(
        Buffer(name="x", role="input", nbytes=16, dtype="float32", shape=(2, 2), const=True),
        scalars=(Scalar(name="a", dtype="float32", default=2.5),),
        modules={"m": Module(source="source", options=("-DN=4",)), "l": Module(kind="library", path="l.so")},
        launches=(
            Launch(module="m", kernel="k", grid=(1, 2), block=4, args=("x", "a", Constant(dtype="int32", value=4))),
            Launch(module="l", kernel="k", args=("x", Constant(dtype="bytes", data=b"1234")), shared_bytes=8),
            Launch(module=BUILTINS, kernel="k", args=("x",), attrs={"axis": 1, "axes": (1, (2, 3)), "mode": "mean"}),
        ),
        iterations=2,
    ),
    bind={"x": Stored(ref="ab" * 32, offset=16), "y": b"1234"},
    scalars={"a": 3.5},
    keep={"out": "y/1"},
    timeout_ms=1000,
)


HUGE = {
    "text": "a" * 100_000,
    "key": {"a" * 100_000: 1},
    "list": [1] * 100_000,
    "number beyond 64 bits": 2**70,
    "number of 4000 digits": -(10**4000),
    "numbers beyond 64 bits": [[2**70]],
}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
def test_a_huge_value_in_any_field_is_decoded_or_refused(value):
    body = plain(EVERY_FIELD, JSON)
    for path in places(body):
        decodes_or_is_refused(encoded(changed(body, path, value), JSON), JSON)


@given(strategies.requests(), content_types, st.data())
def test_any_other_value_in_any_place_is_decoded_or_refused(request, content_type, data):
    body = plain(request, content_type)
    path = data.draw(st.sampled_from(places(body)))
    value = data.draw(numbers | texts | nested() | (too_large_for_msgpack if content_type == JSON else st.binary()))
    decodes_or_is_refused(encoded(changed(body, path, value), content_type), content_type)


@given(strategies.requests(), content_types, texts | st.text(), st.data())
def test_any_key_in_any_mapping_is_decoded_or_refused(request, content_type, key, data):
    body = plain(request, content_type)
    mappings = [path for path in ((), *places(body)) if isinstance(at(body, path), dict)]
    path = data.draw(st.sampled_from(mappings))
    value = data.draw(numbers | texts | nested())
    decodes_or_is_refused(encoded(changed(body, path, at(body, path) | {key: value}), content_type), content_type)


@given(strategies.requests(), st.text("AZaz09+/=-_ \n", max_size=9))
@example(Request(graph="ab"), "AAA")
@example(Request(graph="ab"), "A===")
def test_bad_base64_is_refused_naming_its_place(request, text):
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        pass
    else:
        assume(False)
    body = plain(request, JSON) | {"bind": {"x": text}}
    assert refused(encoded(body, JSON), JSON).at == "bind.x"


@given(strategies.requests(), content_types, st.data())
def test_a_request_cut_short_is_refused(request, content_type, data):
    body = codec.encode(request, content_type)
    cut = data.draw(st.integers(0, len(body) - 1))
    assert isinstance(refused(body[:cut], content_type), BadRequest)


@given(strategies.requests(), content_types, st.binary(max_size=8), st.data())
def test_foreign_bytes_anywhere_are_decoded_or_refused(request, content_type, foreign, data):
    body = bytearray(codec.encode(request, content_type))
    start = data.draw(st.integers(0, len(body)))
    body[start : start + data.draw(st.integers(0, 8))] = foreign
    decodes_or_is_refused(bytes(body), content_type)


@given(strategies.requests(), content_types)
def test_what_speaks_another_content_type_is_decoded_or_refused(request, content_type):
    other = MSGPACK if content_type == JSON else JSON
    assert refused(codec.encode(request, content_type), other).at
