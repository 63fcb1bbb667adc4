"""Continuations as data: numbers and ids, what is read from messages, every bad input refused with its place."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaasq import codec
from kaasq.checks import GraphLimits, check_graph
from kaasq.codec import JSON, MSGPACK, RequestDecoder
from kaasq.continuations import by_hash, count, every, numbered
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError, UnknownGraph
from kaasq.ids import chain_id, concerns, following_id, split_id
from kaasq.messages import Condition, Continuation, Element, Repeat, Request, Source
from kaasq.model import Buffer, GraphSpec, Scalar
from kaasq.then_checks import check_ids, check_then
from kaasq_workers.executor.identity import digest
from tests.support.graphs import saxpy, spec

LIMITS = GraphLimits()


def graph(*buffers: Buffer, **changes: Any) -> GraphSpec:
    return check_graph(spec(*buffers, **changes), LIMITS)


SAXPY = saxpy().freeze()  # x, y: float32[4] -> out: float32[4], scalar a
TOTAL = graph(
    Buffer(name="x", role="input", dtype="float32", shape=(2, 2)),
    Buffer(name="sum", role="output", dtype="float32", shape=(1,)),
    Buffer(name="flag", role="output", dtype="int32", shape=()),
    Buffer(name="raw", role="output", nbytes=32),
    Buffer(name="z", role="output", dtype="complex64", shape=(1,)),
)
Y = b"\0" * 16


def then(**changes: Any) -> Continuation:
    fields: dict[str, Any] = {"graph": SAXPY, "bind": {"x": Source(output="out"), "y": Y}}
    return Continuation(**{**fields, **changes})


def tree(shape: Any) -> tuple[Continuation, ...]:
    return tuple(Continuation(graph="0" * 64, then=tree(each)) for each in shape)


trees = st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=3), max_leaves=12).map(tree)

# ------------------------------------------------------------------------------------------------------ numbers and ids


@given(trees, st.sampled_from(["r", "r+0", "a+b", "+", "0193+7", "r+" + "9" * 12]))
def test_whoever_makes_the_ids_of_a_chain_makes_the_same_ones(chain: tuple[Continuation, ...], root: str) -> None:
    from_the_root = [following_id(root, each.number) for each in every(chain)]

    def step_by_step(request_id: str, follow: tuple[Continuation, ...]) -> list[str]:
        made = []
        for number, _, each in numbered(follow):
            key = following_id(request_id, number)
            made += [key, *step_by_step(key, each.then)]
        return made

    assert step_by_step(root, chain) == from_the_root
    assert len(set(from_the_root)) == count(chain)
    assert root not in from_the_root
    assert chain_id(root) not in from_the_root


@given(trees)
def test_places_name_each_continuation(chain: tuple[Continuation, ...]) -> None:
    for _, at, each in every(chain):
        found: Any = msgspec.structs.asdict(Request(graph=SAXPY, then=chain))
        for step in at.split("."):
            name, index = step.rstrip("]").split("[")
            found = (found[name] if isinstance(found, dict) else getattr(found, name))[int(index)]
        assert found is each


@pytest.mark.parametrize(
    ("request_id", "split"),
    [
        ("a", ("a", 0)),
        ("a+3", ("a", 3)),
        ("a+b", ("a+b", 0)),
        ("+3", ("+3", 0)),
        ("a+3+4", ("a+3", 4)),
        ("a+", ("a+", 0)),
    ],
)
def test_an_id_says_what_it_follows(request_id: str, split: tuple[str, int]) -> None:
    assert split_id(request_id) == split


@pytest.mark.parametrize(
    ("request_id", "cancelled", "is_meant"),
    [("a", "a", True), ("a+2", "a", True), ("a+2", "a+1", False), ("ab", "a", False), ("ab+1", "a", False)],
)
def test_cancelling_a_request_concerns_what_follows_it(request_id: str, cancelled: str, is_meant: bool) -> None:
    assert concerns(request_id, cancelled) is is_meant


def test_an_id_that_leaves_no_room_for_those_made_from_it_is_refused() -> None:
    check_ids("x" * 126, tree([[]]))
    with pytest.raises(BadRequest, match=r"message_id: .* up to 129 bytes; an id may have 128"):
        check_ids("x" * 126, tree([[]] * 10))


# --------------------------------------------------------------------------------------------------------- reading them


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_what_is_sent_is_what_is_read_with_graphs_in_their_places(content_type: str) -> None:
    chain = (then(name="a", condition=Condition(output="out", index=3, op=">", value=1), then=(then(graph=SAXPY),)),)
    sent = Request(graph=SAXPY, then=by_hash(chain), graphs={})
    read = RequestDecoder(LIMITS).decode(codec.encode(sent, content_type), content_type)
    assert read.then == chain


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_a_graph_may_stand_in_the_continuation_or_under_any_key(content_type: str) -> None:
    whole = then(graph=SAXPY)
    keyed = then(graph="next")
    body = codec.encode(Request(graph=TOTAL, then=(whole, keyed), graphs={"next": SAXPY}), content_type)
    read = RequestDecoder(LIMITS).decode(body, content_type)
    assert [each.graph for each in read.then] == [SAXPY, SAXPY]


def test_a_graph_seen_before_is_known_by_its_hash() -> None:
    decoder = RequestDecoder(LIMITS)
    decoder.decode(codec.encode(Request(graph=SAXPY)), MSGPACK)
    read = decoder.decode(codec.encode(Request(graph=TOTAL, then=(then(graph=SAXPY.hash),))), MSGPACK)
    assert read.then[0].graph == SAXPY


def test_what_follows_makes_another_request_and_how_it_is_written_does_not() -> None:
    plain, chained = Request(graph=SAXPY), Request(graph=SAXPY, then=(then(),))
    assert digest(plain, SAXPY) != digest(chained, SAXPY)
    assert digest(chained, SAXPY) == digest(Request(graph=SAXPY, then=by_hash(chained.then)), SAXPY)


def body(**fields: Any) -> bytes:
    request = msgspec.to_builtins(Request(graph=SAXPY), builtin_types=(bytes,)) | fields
    return msgspec.msgpack.encode(request)


GRAPH = msgspec.to_builtins(SAXPY)
UNTIL = {"output": "out", "op": "<", "value": 1}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"then": {"graph": "x"}}, "then: Expected `array`, got `object`"),
        ({"then": [{}]}, "then[0]: Object missing required field `graph`"),
        ({"then": [{"graph": 3}]}, "then[0].graph: Expected `str | object`, got `int`"),
        ({"then": [{"graph": "x", "bind": {"x": 3}}]}, "then[0].bind.x: Expected `bytes | object`, got `int`"),
        (
            {"then": [{"graph": "x", "if": {"output": "o", "op": "~", "value": 1}}]},
            "then[0].if.op: Invalid enum value '~'; expected one of !=, <, <=, ==, >, >=",
        ),
        ({"then": [{"graph": "x", "if": {"output": "o", "op": "<"}}]}, "then[0].if: Object missing required field"),
        ({"then": [{"graph": "x", "timeout_ms": -1}]}, "then[0].timeout_ms: Expected `int` >= 0"),
        ({"then": [{"graph": "x", "then": [{"graph": []}]}]}, "then[0].then[0].graph: Expected `str | object`"),
        ({"repeat": {"bind": {}, "until": UNTIL}}, "repeat: Object missing required field `most`"),
        ({"repeat": {"bind": {}, "until": UNTIL, "most": 0}}, "repeat.most: Expected `int` >= 1"),
        ({"repeat": {"bind": {}, "until": UNTIL, "most": 10**7}}, "repeat.most: must be from 1 to 1000000"),
        (
            {"then": [{"graph": "x", "repeat": {"bind": {}, "until": UNTIL, "most": 10**7}}]},
            "then[0].repeat.most: must be from 1 to 1000000",
        ),
        ({"then": [{"graph": "x", "pool": "A b"}]}, "then[0].pool: 'A b' is no pool"),
        ({"then": [{"graph": "x", "name": ""}]}, "then[0].name: '' is no name"),
        (
            {"then": [{"graph": "x", "name": "n", "then": [{"graph": "x", "name": "n"}]}]},
            "then[0].then[0].name: 'n' is the name of then[0] already",
        ),
        ({"then": [{"graph": GRAPH | {"name": "no name"}}]}, "then[0].graph.name: 'no name' is no graph name"),
        ({"then": [{"graph": "g"}], "graphs": {"g": "0" * 64}}, "graphs.g: is a graph whole, not its hash"),
        ({"then": [{"graph": "g"}], "graphs": {"g": GRAPH | {"iterations": 0}}}, "graphs.g.iterations: must be from 1"),
        ({"then": [{"graph": "x"}] * 257}, "then: more than 256 continuations, which is the limit"),
    ],
)
def test_a_bad_continuation_is_refused_with_its_place(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        RequestDecoder(LIMITS).decode(body(**fields), MSGPACK)
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
@pytest.mark.parametrize("each", [{"graph": "x"}, {"graph": "x", "then": [{"graph": "x"}] * 200}, {}])
def test_too_many_tiny_continuations_cost_no_more_than_their_bytes(content_type: str, each: dict[str, Any]) -> None:
    request = codec.encode(Request(graph=SAXPY), content_type)
    encoder: Any = msgspec.json if content_type == JSON else msgspec.msgpack
    fields = encoder.decode(request)
    size = len(encoder.encode(each))
    large = encoder.encode({**fields, "then": [each] * ((4 << 20) // size)})
    decoder = RequestDecoder(LIMITS)
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="then"):
            decoder.decode(large, content_type)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(large)
    finally:
        tracemalloc.stop()


def test_as_many_continuations_as_may_be_are_read() -> None:
    chain = [{"graph": "x", "then": [{"graph": "x"}] * 15}] * 16
    assert count(RequestDecoder(LIMITS).decode(body(then=chain), MSGPACK).then) == LIMITS.continuations


@pytest.mark.parametrize(("deep", "told"), [(129, "nested deeper than 128"), (100_000, "recursion")])
def test_too_deep_a_chain_is_refused(deep: int, told: str) -> None:
    chain = b'{"graph":"x","then":[' * deep + b"]}" * deep
    request = codec.encode(Request(graph=SAXPY), JSON)[:-1] + b',"then":[' + chain + b"]}"
    with pytest.raises(BadRequest, match=told):
        RequestDecoder(LIMITS).decode(request, JSON)


def test_a_chain_of_a_hundred_steps_is_read() -> None:
    chain: tuple[Continuation, ...] = ()
    for _ in range(100):
        chain = (then(graph=SAXPY.hash, then=chain),)
    read = RequestDecoder(LIMITS).decode(codec.encode(Request(graph=SAXPY, then=chain), JSON), JSON)
    check_then(SAXPY, read.then)
    assert count(read.then) == 100


# ------------------------------------------------------------------------------------------------------------ the edges


@pytest.mark.parametrize(
    "fine",
    [
        then(),
        then(graph=TOTAL, bind={"x": Source(output="out")}),  # another shape of as many bytes
        then(bind={"x": Source(ref="0" * 64), "y": Source(name="stored", offset=4)}),
        then(scalars={"a": Element(output="out", index=3)}),
        then(condition=Condition(output="out", index=0, op="!=", value=0)),
        then(graph=TOTAL, bind={"x": Y}, then=(then(bind={"x": Y, "y": Source(output="raw", offset=16)}),)),
        then(graph=TOTAL, bind={"x": Y}, then=(then(bind={"x": Y, "y": Y}, scalars={"a": Element(output="sum")}),)),
        then(keep={"out": "kept"}, pool="other", timeout_ms=5),
    ],
)
def test_what_fits_is_accepted(fine: Continuation) -> None:
    check_then(SAXPY, (fine,))


BARE = graph(Buffer(name="b", role="inout", nbytes=4), scalars=(Scalar(name="n", dtype="int32"),))


SETTLED = Condition(output="out", index=0, op="<", value=1)
SUMMED = Condition(output="sum", op="<", value=1)


def after_total(**changes: Any) -> Continuation:
    return then(graph=TOTAL, bind={"x": Y}, then=(then(**{"bind": {"x": Y, "y": Y}, **changes}),))


@pytest.mark.parametrize(
    ("wrong", "kind", "told"),
    [
        (
            then(repeat=Repeat(bind={"q": Source(output="out")}, until=SETTLED, most=2)),
            BadRequest,
            "then[0].repeat.bind.q: graph 'saxpy' has no input 'q'",
        ),
        (
            then(repeat=Repeat(bind={"x": Source(name="n")}, until=SETTLED, most=2)),
            BadRequest,
            "then[0].repeat.bind.x: a loop binds outputs of its own graph",
        ),
        (
            then(repeat=Repeat(bind={"x": Source(output="no")}, until=SETTLED, most=2)),
            BadRequest,
            "then[0].repeat.bind.x: graph 'saxpy' has no output 'no'",
        ),
        (
            then(graph=TOTAL, bind={"x": Y}, repeat=Repeat(bind={"x": Source(output="sum")}, until=SUMMED, most=2)),
            BufferSize,
            "then[0].repeat.bind.x: buffer 'x' is declared with 16 bytes, but output 'sum' has 4",
        ),
        (
            then(repeat=Repeat(bind={"x": Source(output="out")}, until=SUMMED, most=2)),
            BadRequest,
            "then[0].repeat.until: graph 'saxpy' has no output 'sum'",
        ),
        (then(graph="ab"), UnknownGraph, "then[0].graph: this worker does not know graph 'ab'"),
        (then(bind={"x": Y}), BufferMissing, "then[0].bind.y: nothing is bound to input 'y'"),
        (then(bind={"x": Y, "y": Y, "q": Y}), BadRequest, "then[0].bind.q: the graph has no buffer 'q'"),
        (then(bind={"x": Y, "y": Y, "out": Y}), BadRequest, "then[0].bind.out: 'out' is an output"),
        (then(bind={"x": b"123", "y": Y}), BufferSize, "then[0].bind.x: buffer 'x' is declared with 16 bytes"),
        (
            then(bind={"x": Source(output="nope"), "y": Y}),
            BadRequest,
            "then[0].bind.x: graph 'saxpy' has no output 'nope'; it has 'out'",
        ),
        (then(bind={"x": Source(output="y"), "y": Y}), BadRequest, "then[0].bind.x: graph 'saxpy' has no output 'y'"),
        (then(bind={"x": Source(), "y": Y}), BadRequest, "then[0].bind.x: needs one of output, ref and name"),
        (then(bind={"x": Source(output="out", name="n"), "y": Y}), BadRequest, "then[0].bind.x: needs one of"),
        (
            after_total(bind={"x": Source(output="sum"), "y": Y}),
            BufferSize,
            "then[0].then[0].bind.x: buffer 'x' is declared with 16 bytes, but 4 bytes were given",
        ),
        (
            after_total(bind={"x": Source(output="raw", offset=17), "y": Y}),
            BufferSize,
            "then[0].then[0].bind.x: buffer 'x' takes 16 bytes from offset 17 on, but output 'raw' of graph 'g' has 32",
        ),
        (
            after_total(graph=BARE, bind={"b": Source(output="flag")}),
            BadRequest,
            "then[0].then[0].scalars.n: scalar 'n' has no default and was not given",
        ),
        (
            then(
                graph=graph(Buffer(name="i", role="input", dtype="int32", shape=(4,))), bind={"i": Source(output="out")}
            ),
            BadRequest,
            "then[0].bind.i: input 'i' holds int32, output 'out' of graph 'saxpy' float32",
        ),
        (then(scalars={"q": 1}), BadRequest, "then[0].scalars.q: the graph has no scalar 'q'"),
        (then(scalars={"q": Element(output="out", index=0)}), BadRequest, "then[0].scalars.q: the graph has no scalar"),
        (then(scalars={"a": 1e300}), BadRequest, "then[0].scalars.a: 1e+300 does not fit float32"),
        (then(scalars={"a": Element(output="no")}), BadRequest, "then[0].scalars.a: graph 'saxpy' has no output 'no'"),
        (
            then(scalars={"a": Element(output="out")}),
            BadRequest,
            "then[0].scalars.a: output 'out' has 4 elements: which is meant, `index` says",
        ),
        (
            then(scalars={"a": Element(output="out", index=4)}),
            BadRequest,
            "then[0].scalars.a: index is 4, but output 'out' has 4 elements",
        ),
        (
            after_total(scalars={"a": Element(output="raw", index=0)}),
            BadRequest,
            "then[0].then[0].scalars.a: output 'raw' has no numbers to take: its dtype is None",
        ),
        (
            after_total(scalars={"a": Element(output="z")}),
            BadRequest,
            "then[0].then[0].scalars.a: output 'z' has no numbers to take: its dtype is complex64",
        ),
        (
            after_total(graph=BARE, bind={"b": Y[:4]}, scalars={"n": Element(output="sum")}),
            BadRequest,
            "then[0].then[0].scalars.n: expected int32, but output 'sum' has float32",
        ),
        (
            then(condition=Condition(output="gone", op="<", value=1)),
            BadRequest,
            "then[0].if: graph 'saxpy' has no output 'gone'; it has 'out' (`when` in Python)",
        ),
        (
            then(condition=Condition(output="out", op="<", value=1)),
            BadRequest,
            "then[0].if: output 'out' has 4 elements",
        ),
        (then(keep={"x": "name"}), BadRequest, "then[0].keep.x: only an output or inout can be kept"),
        (then(keep={"out": ""}), BadRequest, "then[0].keep.out: '' is no name"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(wrong: Continuation, kind: type[KaasqError], told: str) -> None:
    with pytest.raises(kind) as caught:
        check_then(SAXPY, (wrong,))
    assert str(caught.value).startswith(told)
    assert caught.value.detail["at"] == told.split(": ", maxsplit=1)[0]
