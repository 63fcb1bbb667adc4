"""Requests made of continuations from outputs, with a real store: the same ones each time, or the reason why not."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaasq.checks import GraphLimits, check_graph
from kaasq.codec import JSON, MSGPACK, Decoded, RequestDecoder
from kaasq.errors import BadRequest, UnknownGraph
from kaasq.messages import Condition, Continuation, Element, Next, Output, Reply, Request, Source, Stored
from kaasq.model import Buffer, Module, Scalar
from kaasq_storage import BufferStore, open_store
from kaasq_workers.executor.ahead import Ahead, Below, Found, Made
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.identity import digest
from kaasq_workers.link import Following
from tests.support.graphs import spec

LIMITS = GraphLimits()
X = Buffer(name="x", role="input", dtype="float32", shape=(4,))
OUT = Buffer(name="out", role="output", dtype="float32", shape=(4,))
GRAPH = check_graph(spec(X, OUT, scalars=(Scalar(name="a", dtype="float32", default=2.0),)), LIMITS)
VALUES = struct.pack("<4f", 1, 2, 3, 4)
INLINE = {"out": Output(nbytes=16, dtype="float32", shape=(4,), inline=VALUES)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    opened = open_store(tmp_path / "store", sync=False)
    yield opened
    opened.close()


def then(**changes: Any) -> Continuation:
    return Continuation(**{"graph": GRAPH, "bind": {"x": Source(output="out")}, **changes})


def made(
    store: BufferStore,
    *continuations: Continuation,
    outputs: dict[str, Output] | None = None,
    content_type: str = MSGPACK,
    deadline_ms: int | None = None,
    **settings: Any,
) -> tuple[tuple[Next, ...], list[Following]]:
    followers = Followers(
        store, **{"pool": "p", "inline_limit": 1 << 18, "message_limit": 1 << 24, "together_limit": 1 << 24} | settings
    )
    request = Request(graph=GRAPH, bind={"x": VALUES}, then=continuations)
    below = followers.check("r", request, content_type)
    reply = Reply(id="r", status="ok", outputs=outputs or INLINE)
    return followers.following("ann", "r", request, below, reply, content_type, deadline_ms)


def read(following: Following, content_type: str = MSGPACK) -> Request:
    """As a worker reads it that never saw any of its graphs."""
    return RequestDecoder(LIMITS).decode(following.body, content_type)


def stored(store: BufferStore, data: bytes = VALUES) -> dict[str, Output]:
    ref = store.put("ann", data)[0].ref
    return {"out": Output(nbytes=len(data), dtype="float32", shape=(len(data) // 4,), ref=ref)}


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_a_small_output_travels_along_and_a_number_of_it_is_a_scalar(store, content_type):
    chain = then(scalars={"a": Element(output="out", index=2)}, keep={"out": "k"}, name="n", then=(then(), then()))
    (told,), (one,) = made(store, chain, content_type=content_type)
    assert told == Next(id="r+1", name="n")
    assert (one.id, one.pool, one.error) == ("r+1", "p", None)
    request = read(one, content_type)
    assert request == Request(
        graph=GRAPH, bind={"x": VALUES}, scalars={"a": 3.0}, keep={"out": "k"}, then=(then(), then())
    )


def test_what_is_made_again_from_the_same_outcome_is_the_same(store):
    outputs = stored(store)
    chain = (then(then=(then(),)), then(condition=Condition(output="out", index=0, op=">", value=0.5)))
    assert made(store, *chain, outputs=outputs) == made(store, *chain, outputs=outputs)


def test_ids_are_numbered_as_the_continuations_stand(store):
    told, follow = made(store, then(then=(then(), then(then=(then(),)))), then())
    assert [each.id for each in told] == [each.id for each in follow] == ["r+1", "r+5"]


def test_an_output_in_the_store_is_bound_by_its_contents(store):
    outputs = stored(store, VALUES * 2)
    wide = check_graph(spec(X, Buffer(name="out", role="output", dtype="float32", shape=(8,))), LIMITS)
    followers = Followers(store, pool="p", inline_limit=0, message_limit=1 << 24, together_limit=1 << 24)
    request = Request(graph=wide, then=(then(bind={"x": Source(output="out", offset=16)}),))
    below = followers.check("r", request, MSGPACK)
    reply = Reply(id="r", status="ok", outputs=outputs)
    _, (one,) = followers.following("ann", "r", request, below, reply, MSGPACK, None)
    assert read(one).bind == {"x": Stored(ref=outputs["out"].ref, offset=16)}


def test_another_pool_gets_the_bytes(store):
    _, (one,) = made(store, then(pool="far"), outputs=stored(store))
    assert one.pool == "far"
    assert read(one).bind == {"x": VALUES}


@pytest.mark.parametrize(
    ("op", "value", "holds"),
    [("<", 3, False), ("<=", 3, True), (">", 3, False), (">=", 3.0, True), ("==", 3, True), ("!=", 3, False)],
)
@pytest.mark.parametrize("in_store", [False, True])
def test_a_condition_decides(store, op, value, holds, in_store):
    outputs = stored(store) if in_store else INLINE
    (told,), follow = made(store, then(condition=Condition(output="out", index=2, op=op, value=value)), outputs=outputs)
    assert told.skipped == (None if holds else f"out is 3.0, not {op} {value}")
    assert len(follow) == holds


@pytest.mark.parametrize(("op", "holds"), [("<", False), (">=", False), ("==", False), ("!=", True)])
def test_what_is_not_a_number_compares_as_in_c(store, op, holds):
    nan = {"out": Output(nbytes=16, dtype="float32", shape=(4,), inline=struct.pack("<4f", *[float("nan")] * 4))}
    (told,), _ = made(store, then(condition=Condition(output="out", index=0, op=op, value=1)), outputs=nan)
    assert (told.skipped is None) is holds


def test_the_time_that_is_left_goes_along(store):
    deadline_ms = int(time.time() * 1000) + 10_000
    _, (free, bound) = made(store, then(), then(timeout_ms=100), deadline_ms=deadline_ms)
    assert free.timeout_ms is not None
    assert 0 < free.timeout_ms <= 10_000
    assert read(free).timeout_ms == free.timeout_ms
    assert bound.timeout_ms == 100


def test_without_a_deadline_only_its_own_time_counts(store):
    _, follow = made(store, then(), then(timeout_ms=100))
    assert [each.timeout_ms for each in follow] == [None, 100]


def test_when_the_time_is_over_it_is_expired_and_not_published(store):
    (told,), (one,) = made(store, then(), deadline_ms=1)
    assert one.error.code == "deadline_exceeded"
    assert told.skipped is None


def test_an_output_that_is_gone_is_told_to_who_awaits_it(store):
    outputs = stored(store)
    store.delete("ann", ref=outputs["out"].ref)
    _, (near, far) = made(store, then(), then(pool="far"), outputs=outputs)
    assert near.error is None  # its worker says so
    assert far.error.code == "name_not_found"


def test_json_cannot_say_that_a_scalar_is_none(store):
    nan = {"out": Output(nbytes=16, dtype="float32", shape=(4,), inline=struct.pack("<4f", *[float("inf")] * 4))}
    chain = then(scalars={"a": Element(output="out", index=0)})
    _, (one,) = made(store, chain, outputs=nan, content_type=JSON)
    assert (one.error.code, one.error.detail["at"]) == ("bad_request", "then[0].scalars.a")
    assert read(made(store, chain, outputs=nan)[1][0]).scalars == {"a": float("inf")}


def test_a_message_that_could_be_too_large_is_refused_before_anything_runs(store):
    with pytest.raises(BadRequest, match=r"then\[0\].then\[0\]: .* at most 560 \(message_limit\)"):
        made(store, then(bind={"x": VALUES}, then=(then(pool="far"),)), message_limit=560)


def test_a_small_request_does_not_become_many_large_ones(store):
    module = Module.from_source("//" + "x" * (1 << 20) + "\n__global__ void k() {}")
    large = check_graph(spec(X, OUT, modules={"m": module}), LIMITS)
    fan = tuple(then(graph=large) for _ in range(20))
    with pytest.raises(BadRequest, match=r"^then: 20 messages .* at most 16777216 may"):
        made(store, *fan)
    with pytest.raises(BadRequest, match=r"^then\[0\].then: 20 messages"):
        made(store, then(then=fan))
    in_turn = then(graph=large)
    for _ in range(20):
        in_turn = then(graph=large, then=(in_turn,))
    assert len(made(store, in_turn)[1]) == 1


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_what_follows_has_no_more_bytes_than_was_said_before(store, content_type):
    other = check_graph(spec(X, OUT, name="other"), LIMITS)
    fan = (then(), then(graph=other, then=(then(), then(bind={"x": VALUES}))), then(keep={"out": "k"}, then=(then(),)))
    followers = Followers(store, pool="p", inline_limit=1 << 18, message_limit=1 << 20, together_limit=1 << 24)
    said = followers.check("r", Request(graph=GRAPH, then=fan), content_type).of(fan).nbytes
    bodies = [each.body for each in made(store, *fan, content_type=content_type)[1]]
    assert len(bodies) == 3
    assert 0 < sum(map(len, bodies)) <= said < 2 * sum(map(len, bodies))


def test_large_outputs_stay_in_the_store_of_the_pool(store):
    large = Buffer(name="out", role="output", nbytes=1 << 30)
    took = check_graph(spec(Buffer(name="x", role="input", nbytes=1 << 30), OUT), LIMITS)
    followers = Followers(store, pool="p", inline_limit=1 << 18, message_limit=1 << 20, together_limit=1 << 24)
    request = Request(graph=check_graph(spec(X, large), LIMITS), then=(then(graph=took),))
    followers.check("r", request, MSGPACK)
    with pytest.raises(BadRequest, match="except for another pool"):
        followers.check("r", Request(graph=request.graph, then=(then(graph=took, pool="far"),)), MSGPACK)


def test_an_unknown_graph_is_said_before_anything_runs(store):
    with pytest.raises(UnknownGraph) as caught:
        made(store, then(then=(then(graph="0" * 64),)))
    assert caught.value.detail["at"] == "then[0].then[0].graph"


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_a_request_is_remembered_as_it_would_be_read_until_it_is_asked_for(store, content_type):
    """Its continuations are of two graphs, one of them its own, and take numbers, parts and names."""
    other = check_graph(spec(X, OUT, name="other"), LIMITS)
    inner = then(
        graph=other, bind={"x": VALUES}, then=(then(), then(graph=other, bind={"x": Source(name="n", offset=0)}))
    )
    chain = then(scalars={"a": Element(output="out", index=1)}, keep={"out": "k"}, timeout_ms=700, then=(inner, then()))
    followers = Followers(store, pool="p", inline_limit=1 << 18, message_limit=1 << 20, together_limit=1 << 24)
    request = Request(graph=GRAPH, then=(chain, then()))
    below = followers.check("r", request, content_type)
    _, (one, two) = followers.following(
        "t", "r", request, below, Reply(id="r", status="ok", outputs=INLINE), content_type, None
    )
    for following in (one, two):
        ahead = followers.made.take(following.body)
        assert ahead is not None
        assert followers.made.take(following.body) is None
        read_again = read(following, content_type)
        assert ahead.decoded.request == read_again
        checked = followers.check(following.id, read_again, content_type)
        assert ahead.below.of(ahead.decoded.request.then) == checked.of(read_again.then)
        known = digest(ahead.decoded.request, GRAPH, ahead.below.of(ahead.decoded.request.then).by_hash)
        assert known == digest(read_again, GRAPH)


def test_no_more_is_remembered_than_can_be_of_use():
    made = Made()
    request = Ahead(Decoded(Request(graph=GRAPH), whole=True), Below(()))
    for number in range(1000):
        made.add(b"%d" % number, request)
    assert made.take(b"0") is None
    assert made.take(b"999") is request
    assert len(made._by_body) < 200
    large = (then(bind={"x": bytes(2 << 20)}),)
    below = Below(large)
    below.add(large, Found(2 << 20, large, {}))
    made.add(b"large", Ahead(Decoded(Request(graph=GRAPH, then=large), whole=True), below))
    assert made.take(b"large") is None
