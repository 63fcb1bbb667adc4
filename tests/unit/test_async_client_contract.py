"""What Client and AsyncClient have in common, once for both."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq.broker import Message
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Cancel, ErrorBody, Output, Reply, Request, Stored
from kaasq.settings import Settings
from kaasq.topology import CONTROL, Binding, Queue, Topology
from kaasq_producers import AsyncClient, Client
from tests.support import graphs
from tests.support.fake_worker import INFO, FakeWorker, Held, saxpy
from tests.support.loops import Plain, Threaded
from tests.support.messaging import Deliveries, declare

X = np.arange(4, dtype=np.float32)
Y = np.ones(4, dtype=np.float32)
GRAPH = graphs.saxpy()

Face = Any  # Plain or Threaded: both pass on to a client
Open = Callable[..., Face]


@pytest.fixture(params=["threads", "event loop"])
def open_client(request: pytest.FixtureRequest, node: MemoryNode, tmp_path: Path) -> Iterator[Open]:
    """Makes clients of the kind at hand."""
    faces: list[Face] = []

    def make(broker: Any = None, **changes: Any) -> Face:
        fields = {"store": str(tmp_path / "store"), "store_capacity": 1 << 26, "store_sync": False, "timeout": 5.0}
        settings = Settings(**{**fields, **changes})
        broker = broker or MemoryBroker(node, "ann")
        face: Face
        if request.param == "threads":
            face = Plain(Client(broker, settings=settings))
        else:
            face = Threaded(AsyncClient(broker, settings=settings))
        faces.append(face)
        return face

    yield make
    for each in faces:
        each.end()


@pytest.fixture
def client(open_client: Open) -> Face:
    return open_client()


def test_run_returns_the_result(client: Face, worker: FakeWorker) -> None:
    result = client.run(GRAPH, x=X, y=Y, a=3.0)
    np.testing.assert_array_equal(result["out"], 3 * X + Y)
    assert result.worker.host == "fake"
    assert result.elapsed > 0


def test_requests_say_the_same(client: Face, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=[1, 1, 1, 1], timeout=2.5, bind={}, scalars={"a": 5}, out=kaasq.Keep("kept"))
    assert worker.requests == [
        Request(
            graph=GRAPH.freeze(),
            bind={"x": X.tobytes(), "y": Y.tobytes()},
            scalars={"a": 5},
            keep={"out": "kept"},
            timeout_ms=2500,
        )
    ]
    assert worker.messages[0].user_id == "ann"


def test_many_at_once_find_their_results(client: Face, worker: FakeWorker) -> None:
    futures = [client.submit(GRAPH, x=X, y=Y, a=float(i)) for i in range(100)]
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(future.result()["out"], i * X + Y)


def test_wrong_input_is_refused_before_anything_is_sent(client: Face, worker: FakeWorker) -> None:
    with pytest.raises(kaasq.BufferSize):
        client.run(GRAPH, x=X[:3], y=Y)
    with pytest.raises(kaasq.BadRequest, match=r"graph: expected a kaasq.Graph, given a str"):
        client.run("saxpy", x=X)
    with pytest.raises(kaasq.BadRequest, match="timeout: expected a time from"):
        client.run(GRAPH, x=X, y=Y, timeout=-1)
    with pytest.raises(kaasq.BadRequest, match="'x' is given twice"):
        client.run(GRAPH, x=X, y=Y, bind={"x": X})
    assert not worker.messages


def test_error_reply_is_raised_with_its_fields(client: Face, worker: FakeWorker) -> None:
    error = ErrorBody.of(kaasq.BufferSize(buffer="x", expected=16, given=12))
    worker.answer = lambda _, message: Reply(id=message.message_id, status="error", error=error)
    with pytest.raises(kaasq.BufferSize) as caught:
        client.run(GRAPH, x=X, y=Y)
    assert (caught.value.buffer, caught.value.request_id) == ("x", worker.messages[0].message_id)


def test_nobody_serves_the_pool(client: Face) -> None:
    with pytest.raises(kaasq.Unroutable, match=r"kaasq worker --pool default"):
        client.run(GRAPH, x=X, y=Y)


def test_no_reply_in_time(client: Face, worker: FakeWorker) -> None:
    worker.answer = Held()
    with pytest.raises(kaasq.ReplyTimeout) as caught:
        client.run(GRAPH, x=X, y=Y, timeout=0.1)
    assert (caught.value.pool, caught.value.timeout_s) == ("default", 0.1)


def test_waiting_for_room_ends_with_the_timeout(open_client: Open, worker: FakeWorker) -> None:
    client = open_client(pending_limit=1)
    worker.answer = Held()
    client.submit(GRAPH, x=X, y=Y)
    with pytest.raises(kaasq.ReplyTimeout, match=r"pending_limit is 1.* within 0\.1 s there was no room"):
        client.run(GRAPH, x=X, y=Y, timeout=0.1)


def test_cancelled_request_is_withdrawn_and_makes_room(open_client: Open, worker: FakeWorker, node: MemoryNode) -> None:
    watcher = MemoryBroker(node, "watcher")
    watcher.open(5)
    declare(watcher, Topology(queues=(Queue(name="seen"),), bindings=(Binding(CONTROL, "seen", "#"),)))
    seen = Deliveries(watcher, "seen")
    client = open_client(pending_limit=1)
    held = Held()
    worker.answer = held
    future = client.submit(GRAPH, x=X, y=Y)
    _, message = held.taken.get(timeout=5)
    assert future.cancel()
    assert msgspec.msgpack.decode(seen.one().message.body, type=Cancel).cancel == message.message_id
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    worker.answer = saxpy
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)
    watcher.close()


def test_closing_tells_everybody_who_waits(open_client: Open, worker: FakeWorker) -> None:
    client = open_client(pending_limit=2)
    held = Held()
    worker.answer = held
    futures = [client.submit(GRAPH, x=X, y=Y) for _ in range(2)]
    for _ in futures:
        held.taken.get(timeout=5)
    client.close()
    for future in futures:
        with pytest.raises(kaasq.BrokerLost, match=r"the client was closed before request .* had its reply"):
            future.result()
    with pytest.raises(kaasq.BrokerLost, match="the client is closed"):
        client.run(GRAPH, x=X, y=Y)
    client.close()


def test_requests_stay_pending_while_the_connection_is_lost(
    open_client: Open, node: MemoryNode, worker: FakeWorker
) -> None:
    broker = MemoryBroker(node, "ann")
    client = open_client(broker)
    held = Held()
    worker.answer = held
    future = client.submit(GRAPH, x=X, y=Y)
    request, message = held.taken.get(timeout=5)
    worker.answer = saxpy  # a reply that was on its way is lost with the connection, and asked for again
    broker.interrupt(0.2)
    worker.reply(message, saxpy(request, message))
    assert future.result()["out"].shape == (4,)


def test_broker_that_is_not_there_may_be_tried_again(open_client: Open, worker: FakeWorker, node: MemoryNode) -> None:
    class Away(MemoryBroker):
        tries = 0

        def open(self, timeout_s: float) -> None:
            self.tries += 1
            if self.tries < 3:
                raise kaasq.BrokerLost("nobody answers")
            super().open(timeout_s)

        def close(self, timeout_s: float = 5.0) -> None:
            if self.tries >= 3:
                super().close(timeout_s)

    client = open_client(Away(node, "ann"))
    for use in (client.connect, lambda: client.run(GRAPH, x=X, y=Y)):
        with pytest.raises(kaasq.BrokerLost, match="nobody answers"):
            use()
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)


def test_put_get_names_delete(client: Face) -> None:
    ref = client.put(X, "x")
    assert (ref.name, ref.version, ref.dtype, ref.shape) == ("x", 1, "float32", (4,))
    np.testing.assert_array_equal(client.get("x"), X)
    np.testing.assert_array_equal(client.get(ref), X)
    assert [each.name for each in client.names("x")] == ["x"]
    client.delete("x")
    with pytest.raises(kaasq.NameNotFound):
        client.get("x")
    raw = client.put(X.tobytes(), dtype="float32", shape=(2, 2))
    assert raw.shape == (2, 2)


def test_large_inputs_and_outputs_travel_through_the_store(open_client: Open, worker: FakeWorker) -> None:
    client = open_client(inline_limit=8)
    other = open_client()

    def answer(request: Request, message: Message) -> Reply:
        assert {type(each) for each in request.bind.values()} == {Stored}
        ref = other.put(2 * X + Y)
        stored = Output(nbytes=16, dtype="float32", shape=(4,), ref=ref.ref)
        return Reply(id=message.message_id, status="ok", outputs={"out": stored}, worker=INFO)

    worker.answer = answer
    result = client.run(GRAPH, x=X, y=Y)
    assert result.refs["out"].nbytes == 16
    np.testing.assert_array_equal(result["out"], 2 * X + Y)


def test_output_that_the_store_does_not_have_names_both_stores(client: Face, worker: FakeWorker) -> None:
    client.put(X)
    gone = Output(nbytes=16, ref="ab" * 32)
    info = msgspec.structs.replace(INFO, store="theirs")
    worker.answer = lambda _, message: Reply(id=message.message_id, status="ok", outputs={"out": gone}, worker=info)
    with pytest.raises(kaasq.NameNotFound, match="The worker uses store theirs, but this client uses store"):
        client.run(GRAPH, x=X, y=Y)["out"]
