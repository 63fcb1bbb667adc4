"""The client against a scripted worker: matching, timing out, repeating, refusing."""

from __future__ import annotations

import concurrent.futures
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import topology
from kaasq.broker import Done, Message
from kaasq.errors import (
    BadRequest,
    BufferSize,
    DeadlineExceeded,
    KaasqError,
    ReplyTimeout,
    StoreUnavailable,
    Unroutable,
)
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import ErrorBody, Reply, Request, Stored
from kaasq.settings import Settings
from kaasq_producers import Client, Keep, Result
from kaasq_producers.calls import REPLY_GRACE_S
from kaasq_producers.client_core import ClientCore
from kaasq_producers.futures import ResultFuture
from kaasq_producers.prepare import Preparer
from tests.support import graphs
from tests.support.fake_worker import FakeWorker, Held, saxpy, sends_hash, unknown_graph
from tests.support.logs import log_lines
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
X = np.arange(4, dtype=np.float32)
Y = np.ones(4, dtype=np.float32)
GRAPH = graphs.saxpy()


def limited(client: Client, **changes: Any) -> Client:
    """The same client with other settings; before its first request only."""
    return Client(client._broker, settings=msgspec.structs.replace(client.settings, **changes))


# ----------------------------------------------------------------------------------------------------------- requests


def test_run_returns_the_result(client: Client, worker: FakeWorker) -> None:
    started = time.monotonic()
    result = client.run(GRAPH, x=X, y=Y, a=3.0)
    assert 0 < result.elapsed <= time.monotonic() - started
    np.testing.assert_array_equal(result["out"], 3 * X + Y)
    assert result.worker.host == "fake"


def test_message_has_the_properties_of_the_protocol(client: Client, worker: FakeWorker) -> None:
    before = time.time_ns() // 1_000_000
    result = client.run(GRAPH, x=X, y=Y, timeout=2.5)
    (message,) = worker.messages
    assert message.message_id == message.correlation_id == result.request_id
    assert message.user_id == "ann"
    assert message.content_type == "application/msgpack"
    assert message.expiration_ms is not None
    assert 0 < message.expiration_ms <= 2500
    assert message.timestamp_ms is not None
    assert before <= message.timestamp_ms <= time.time_ns() // 1_000_000
    assert message.persistent
    (request,) = worker.requests
    assert request == Request(
        graph=GRAPH.freeze(), bind={"x": X.tobytes(), "y": Y.tobytes()}, timeout_ms=2500, scalars={}, keep={}
    )


def test_ids_sort_by_time(client: Client, worker: FakeWorker) -> None:
    ids = [client.run(GRAPH, x=X, y=Y).request_id for _ in range(5)]
    assert sorted(set(ids)) == ids


def test_known_graph_travels_as_its_hash(client: Client, worker: FakeWorker) -> None:
    for _ in range(3):
        client.run(GRAPH, x=X, y=Y)
    assert [sends_hash(each) for each in worker.messages] == [False, True, True]
    assert len(worker.messages[-1].body) < 200


def test_graph_is_known_by_its_meaning(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    client.run(graphs.saxpy(), x=X, y=Y)
    client.run(GRAPH.freeze(), x=X, y=Y)
    assert [sends_hash(each) for each in worker.messages] == [False, True, True]


def test_graph_that_only_failed_so_far_is_sent_whole(client: Client, worker: FakeWorker) -> None:
    worker.answer = lambda _, message: failed(message, KaasqError("no"))
    for _ in range(2):
        with pytest.raises(KaasqError):
            client.run(GRAPH, x=X, y=Y)
    assert [sends_hash(each) for each in worker.messages] == [False, False]


def test_worker_that_forgot_the_graph_gets_it_whole(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    worker.forget_graphs()
    result = client.run(GRAPH, x=X, y=Y, a=5)
    np.testing.assert_array_equal(result["out"], 5 * X + Y)
    assert [sends_hash(each) for each in worker.messages] == [False, True, False]
    assert worker.messages[1].message_id == worker.messages[2].message_id
    assert worker.unknown == 1


def test_whole_request_says_the_same_as_by_hash(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    worker.forget_graphs()
    worker.answer = lambda request, message: saxpy(
        msgspec.structs.replace(request, bind={"x": X.tobytes(), "y": Y.tobytes()}), message
    )
    client.run(GRAPH, x=X, y=Stored(name="n", offset=4), a=5, out=Keep("kept"), timeout=3)
    assert worker.requests[-1] == Request(
        graph=GRAPH.freeze(),
        bind={"x": X.tobytes(), "y": Stored(name="n", offset=4)},
        scalars={"a": 5},
        keep={"out": "kept"},
        timeout_ms=3000,
    )


def test_second_unknown_graph_answer_is_ignored(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    worker.forget_graphs()

    def answer(request: Request, message: Message) -> Reply:
        worker.reply(message, unknown_graph(message))  # of a copy that was under way
        return saxpy(request, message)

    worker.answer = answer
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)


def test_each_worker_of_a_pool_learns_the_graph(client: Client, node: MemoryNode) -> None:
    with FakeWorker(MemoryBroker(node, "one")) as one, FakeWorker(MemoryBroker(node, "other")) as other:
        for _ in range(20):
            client.run(GRAPH, x=X, y=Y)
        assert len(one.requests) + len(other.requests) == 20
        assert one.unknown + other.unknown <= 2


def test_names_that_clash_with_parameters_go_into_bind_and_scalars(client: Client, worker: FakeWorker) -> None:
    graph = kaasq.Graph("g")
    args: list[Any] = [graph.input("timeout", nbytes=4), graph.scalar("bind", "int32"), graph.inout("keep", nbytes=4)]
    graph.launch(graphs.MODULE.kernel("k"), grid=1, block=1, args=args)
    worker.answer = lambda _, message: Reply(id=message.message_id or "", status="ok")
    client.run(graph, timeout=3, bind={"timeout": b"1234", "keep": b"5678"}, scalars={"bind": 1}, keep={"keep": "n"})
    (request,) = worker.requests
    assert (request.timeout_ms, request.bind["timeout"], request.scalars, request.keep) == (
        3000,
        b"1234",
        {"bind": 1},
        {"keep": "n"},
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"bind": [1]}, 'bind: expected a mapping by name, as {"x": xs}, given a list'),
        ({"scalars": 5}, 'scalars: expected a mapping by name, as {"x": xs}, given a int'),
        ({"keep": "out"}, 'keep: expected a mapping by name, as {"out": "model/scores"}, given a str'),
        (
            {"out": Keep("a"), "keep": {"out": "b"}},
            "keep.out: 'out' is to be kept under two names, 'a' and 'b'",
        ),
    ],
)
def test_what_gives_nothing_by_name_or_something_twice_is_refused(
    client: Client, worker: FakeWorker, wrong: Any, says: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        client.run(GRAPH, x=X, y=Y, **wrong)
    assert str(caught.value) == says
    assert worker.requests == []


@pytest.mark.parametrize("timeout", [np.float32(2.5), np.int64(3)])
def test_timeout_may_be_a_number_of_numpy(client: Client, worker: FakeWorker, timeout: Any) -> None:
    client.run(GRAPH, x=X, y=Y, timeout=timeout)
    assert worker.requests[-1].timeout_ms == int(timeout * 1000)


@pytest.mark.parametrize("timeout", [0, -1, 0.0001, 1e9, float("nan"), float("inf"), "5"])
def test_timeout_is_a_positive_time(client: Client, worker: FakeWorker, timeout: Any) -> None:
    with pytest.raises(BadRequest, match=r"timeout: expected a time from 0\.001 to 315360000 seconds"):
        client.run(GRAPH, x=X, y=Y, timeout=timeout)


def test_what_is_no_graph_is_refused(client: Client, worker: FakeWorker) -> None:
    with pytest.raises(BadRequest, match=r"graph: expected a kaasq.Graph, given a str"):
        client.run("saxpy", x=X)  # type: ignore[arg-type]


def test_wrong_input_is_refused_before_anything_is_sent(client: Client, worker: FakeWorker) -> None:
    with pytest.raises(BufferSize):
        client.run(GRAPH, x=X[:3], y=Y)
    assert not worker.messages


def test_input_may_change_once_submit_has_returned(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    x = X.copy()
    future = client.submit(GRAPH, x=x, y=Y)
    x[:] = -1
    request, message = held.next()
    worker.reply(message, saxpy(request, message))
    np.testing.assert_array_equal(future.result(5)["out"], 2 * X + Y)


# ------------------------------------------------------------------------------------------------------------ replies


def failed(message: Message, error: KaasqError, status: Any = "error") -> Reply:
    return Reply(id=message.message_id or "", status=status, error=ErrorBody.of(error))


def test_error_reply_is_raised_with_its_fields(client: Client, worker: FakeWorker) -> None:
    worker.answer = lambda _, message: failed(message, BufferSize(buffer="x", expected=16, given=12))
    with pytest.raises(BufferSize) as caught:
        client.run(GRAPH, x=X, y=Y)
    assert caught.value.buffer == "x"
    assert caught.value.request_id == worker.messages[0].message_id


def test_expired_reply_is_deadline_exceeded(client: Client, worker: FakeWorker) -> None:
    worker.answer = lambda _, message: failed(message, DeadlineExceeded("too late"), "expired")
    with pytest.raises(DeadlineExceeded):
        client.run(GRAPH, x=X, y=Y)


def test_replies_out_of_order_find_their_requests(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    futures = [client.submit(GRAPH, x=X, y=Y, a=float(i)) for i in range(10)]
    for request, message in reversed([held.next() for _ in futures]):
        worker.reply(message, saxpy(request, message))
    for i, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(5)["out"], i * X + Y)


def test_duplicate_and_foreign_replies_are_dropped(client: Client, worker: FakeWorker) -> None:
    def twice(request: Request, message: Message) -> Reply:
        worker.reply(message, saxpy(request, message), correlation_id="nobody")
        worker.reply(message, b"\xc1", correlation_id="nobody")
        worker.reply(message, saxpy(request, message))
        return saxpy(request, message)

    worker.answer = twice
    for i in range(5):
        np.testing.assert_array_equal(client.run(GRAPH, x=X, y=Y, a=float(i))["out"], i * X + Y)


def test_reply_that_cannot_be_read_is_an_error(client: Client, worker: FakeWorker) -> None:
    worker.answer = lambda _, message: worker.reply(message, b"\xc1")
    with pytest.raises(KaasqError, match=r"the reply to request .* cannot be read"):
        client.run(GRAPH, x=X, y=Y)


def test_nobody_serves_the_pool(client: Client, settings: Settings) -> None:
    with pytest.raises(Unroutable, match=r"no worker ever served pool 'default'.*kaasq worker --pool default"):
        client.run(GRAPH, x=X, y=Y)
    assert len(client._connected().pending) == 0


# ----------------------------------------------------------------------------------------------------------- timeouts


def test_no_reply_in_time(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    started = time.monotonic()
    with pytest.raises(ReplyTimeout) as caught:
        client.run(GRAPH, x=X, y=Y, timeout=0.2)
    assert time.monotonic() - started >= 0.2 + REPLY_GRACE_S
    error = caught.value
    assert (error.pool, error.timeout_s, error.request_id) == ("default", 0.2, held.next()[1].message_id)
    assert "got no reply within 0.2 s" in error.message
    assert "its kernel has not ended" in error.message
    assert "kaasq doctor" in error.message
    assert isinstance(error, TimeoutError)


def test_verdict_that_comes_right_after_the_deadline_is_heard(client: Client, worker: FakeWorker) -> None:
    def stop(_: Request, message: Message) -> None:
        reply = failed(message, DeadlineExceeded("it was still running when its time was over"), "expired")
        threading.Timer(0.2, worker.reply, (message, reply)).start()

    worker.answer = stop
    with pytest.raises(DeadlineExceeded, match="still running"):
        client.run(GRAPH, x=X, y=Y, timeout=0.1)


def test_timeout_of_a_client_is_that_of_its_requests(node: MemoryNode, settings: Settings, worker: FakeWorker) -> None:
    with Client(MemoryBroker(node, "ann"), timeout=2.5, settings=settings) as client:
        client.run(GRAPH, x=X, y=Y)
        client.run(GRAPH, x=X, y=Y, timeout=1)
    assert [each.timeout_ms for each in worker.requests] == [2500, 1000]
    with pytest.raises(BadRequest, match="timeout: expected a time from"):
        Client(timeout=-1, settings=settings)


def test_reply_after_the_timeout_is_dropped(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    with pytest.raises(ReplyTimeout):
        client.run(GRAPH, x=X, y=Y, timeout=0.05)
    request, message = held.next()
    worker.reply(message, saxpy(request, message))
    worker.answer = saxpy
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)


def test_each_request_has_its_own_timeout(client: Client, worker: FakeWorker) -> None:
    worker.answer = Held()
    started = time.monotonic()
    timeouts = [0.3, 0.1, 60.0, 0.2, 0.1]
    ended: dict[int, float] = {}
    futures = [client.submit(GRAPH, x=X, y=Y, timeout=each) for each in timeouts]
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: ended.__setitem__(i, time.monotonic() - started))  # type: ignore[misc]
    until(lambda: len(ended) == 4)
    assert all(ended[i] >= timeouts[i] for i in (0, 1, 3, 4))
    assert not futures[2].done()


# ------------------------------------------------------------------------------------------------------------- window


def test_submit_waits_for_room(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    small = limited(client, pending_limit=2)
    futures = [small.submit(GRAPH, x=X, y=Y) for _ in range(2)]
    waiting = threading.Thread(target=lambda: futures.append(small.submit(GRAPH, x=X, y=Y)))
    waiting.start()
    until(lambda: small._connected().pending._waiting)
    assert waiting.is_alive()
    until(lambda: held.taken.qsize() == 2)
    request, message = held.next()
    worker.reply(message, saxpy(request, message))
    waiting.join(5)
    assert not waiting.is_alive()
    assert len(small._connected().pending) == 2


def test_waiting_for_room_ends_with_the_timeout(client: Client, worker: FakeWorker) -> None:
    worker.answer = Held()
    small = limited(client, pending_limit=1)
    small.submit(GRAPH, x=X, y=Y)
    with pytest.raises(ReplyTimeout, match="pending_limit is 1"):
        small.run(GRAPH, x=X, y=Y, timeout=0.1)


def test_room_is_free_again_after_timeouts_and_cancels(client: Client, worker: FakeWorker) -> None:
    worker.answer = Held()
    small = limited(client, pending_limit=1)
    for _ in range(3):
        with pytest.raises(ReplyTimeout):
            small.run(GRAPH, x=X, y=Y, timeout=0.05)
        assert small.submit(GRAPH, x=X, y=Y).cancel()
    assert len(small._connected().pending) == 0


def test_callback_form_refuses_instead_of_waiting(client: Client, worker: FakeWorker) -> None:
    worker.answer = Held()
    small = limited(client, pending_limit=1)
    core = small._connected()
    prepared = Preparer(small.settings, None).prepare(GRAPH, {"x": X, "y": Y})
    results: list[Result | KaasqError] = []
    assert core.send(prepared, results.append) is not None
    assert core.send(prepared, results.append) is None
    assert not results


# ------------------------------------------------------------------------------------------------------------ futures


def test_cancelled_future_forgets_the_request(client: Client, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held
    future = client.submit(GRAPH, x=X, y=Y)
    request, message = held.next()
    assert future.cancel()
    assert future.cancel()
    assert concurrent.futures.wait([future], 20).done == {future}
    worker.reply(message, saxpy(request, message))
    worker.answer = saxpy
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(1)


class Hesitant(MemoryBroker):
    """Confirms late; ``confirmed`` are the exchanges of what it confirmed."""

    def __init__(self, node: MemoryNode, tenant: str) -> None:
        super().__init__(node, tenant)
        self.confirmed: list[str] = []

    def publish(self, message: Message, *, exchange: str, done: Done | None = None, **more: Any) -> None:
        def confirm(error: KaasqError | None) -> None:
            self.confirmed.append(exchange)
            assert done is not None
            done(error)

        super().publish(
            message,
            exchange=exchange,
            done=lambda error: self.call_later(0.2, lambda: confirm(error)),
            **more,
        )


def test_closing_waits_until_a_cancellation_is_confirmed(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    worker.answer = Held()
    broker = Hesitant(node, "ann")
    with Client(broker, settings=settings) as client:
        assert client.submit(GRAPH, x=X, y=Y).cancel()
    assert topology.CONTROL in broker.confirmed


INTERRUPTED_TWICE = """
import itertools, os, signal, sys, threading, time
from pathlib import Path
from kaasq import topology
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_producers import Client
from tests.support.fake_worker import FakeWorker, Held
from tests.support.graphs import saxpy
from tests.support.waiting import until

class Recording(MemoryBroker):
    published: list[str]
    def publish(self, message, *, exchange, **more):
        super().publish(message, exchange=exchange, **more)
        self.published.append(exchange)

def interrupt(held, gap_s, sent):
    held.next()
    main = threading.main_thread().ident
    until(lambda: sys._current_frames()[main].f_code.co_name == "wait")  # for the reply
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(gap_s)
    os.kill(os.getpid(), signal.SIGINT)
    sent.set()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
node, held, graph = MemoryNode(), Held(), saxpy()
settings = Settings(store=sys.argv[1])
with FakeWorker(MemoryBroker(node, "worker"), held):
    for gap_us in range(20, 420, 20):
        broker, sent = Recording(node, "ann"), threading.Event()
        broker.published = []
        thread = threading.Thread(target=interrupt, args=(held, gap_us / 1e6, sent))
        thread.start()
        client = Client(broker, settings=settings)
        try:
            try:
                client.run(graph, x=[1, 2, 3, 4], y=[0, 0, 0, 0])
            finally:
                sent.wait()
        except KeyboardInterrupt:
            thread.join()
        until(lambda: topology.CONTROL in broker.published)
        client.close()
"""


def test_a_request_is_cancelled_also_by_two_interrupts_within_a_moment(tmp_path: Path) -> None:
    program = [sys.executable, "-c", INTERRUPTED_TWICE, str(tmp_path / "store")]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert (done.stderr, done.returncode) == ("", 0)


def test_closing_without_a_broker_does_not_wait_for_cancellations(
    node: MemoryNode, settings: Settings, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kaasq_producers.base.CANCEL_TIMEOUT_S", 60.0)
    worker.answer = held = Held()
    broker = MemoryBroker(node, "ann")
    started = time.monotonic()
    with log_lines() as lines, Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        held.next()
        broker.interrupt(60)
        assert future.cancel()
    assert time.monotonic() - started < 30
    assert [line["code"] for line in lines if line["event"] == "cancel.not_sent"] == ["broker_lost"]


def test_future_with_a_result_cannot_be_cancelled(client: Client, worker: FakeWorker) -> None:
    future = client.submit(GRAPH, x=X, y=Y)
    result = future.result(5)
    assert not future.cancel()
    assert isinstance(future, ResultFuture)
    assert future.request_id == result.request_id


def test_waiting_in_a_callback_is_refused_not_a_deadlock(client: Client, worker: FakeWorker) -> None:
    seen: queue.Queue[KaasqError] = queue.Queue()

    def callback(_: object) -> None:
        try:
            client.run(GRAPH, x=X, y=Y)
        except KaasqError as error:
            seen.put(error)

    added = threading.Event()  # a callback added to what is done already runs here, where waiting is allowed

    def after(request: Request, message: Message) -> Reply:
        assert added.wait(5)
        return saxpy(request, message)

    worker.answer = after
    client.submit(GRAPH, x=X, y=Y).add_done_callback(callback)
    added.set()
    assert "callback would wait for itself" in seen.get(timeout=5).message


def test_chain_of_callbacks_may_submit(client: Client, worker: FakeWorker) -> None:
    done: concurrent.futures.Future[Result] = concurrent.futures.Future()

    def again(first: concurrent.futures.Future[Result]) -> None:
        second = client.submit(GRAPH, x=first.result()["out"], y=Y)
        second.add_done_callback(lambda future: done.set_result(future.result()))

    client.submit(GRAPH, x=X, y=Y).add_done_callback(again)
    np.testing.assert_array_equal(done.result(5)["out"], 2 * (2 * X + Y) + Y)


def test_many_threads_share_a_client(client: Client, worker: FakeWorker) -> None:
    def requests(a: int) -> bool:
        return all((client.run(GRAPH, x=X, y=Y, a=float(a))["out"] == a * X + Y).all() for _ in range(50))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(requests, range(8)))
    assert len(client._connected().pending) == 0


# --------------------------------------------------------------------------------------------------------------- store


def test_small_requests_never_touch_the_store(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    assert not client.settings.store_path.exists()


def test_store_alone_needs_no_broker(settings: Settings) -> None:
    with Client("amqp://bob:x@nowhere.invalid/", settings=settings) as client:
        ref = client.put(X, name="x", ttl=60)
        assert (ref.name, ref.version, ref.dtype, ref.shape) == ("x", 1, "float32", (4,))
        np.testing.assert_array_equal(client.get("x"), X)
        assert [each.name for each in client.names()] == ["x"]
        client.delete("x")
        assert client.names() == []


def test_largest_inputs_travel_through_the_store(client: Client, worker: FakeWorker) -> None:
    graph = graphs.saxpy(n=100)
    small = limited(client, inline_limit=500)
    x = np.arange(100, dtype=np.float32)

    def answer(request: Request, message: Message) -> Reply:
        bind = {
            name: each if isinstance(each, bytes) else small.get(each.ref or "").tobytes()
            for name, each in request.bind.items()
        }
        return saxpy(msgspec.structs.replace(request, bind=bind), message)

    worker.answer = answer
    result = small.run(graph, x=x, y=x)
    np.testing.assert_array_equal(result["out"], 3 * x)
    kinds = sorted(type(each).__name__ for each in worker.requests[0].bind.values())
    assert kinds == ["Stored", "bytes"]
    (stored,) = small.buffers.objects()
    assert (stored.nbytes, stored.dtype, stored.shape) == (400, "float32", (100,))
    assert stored.expires is not None
    assert stored.expires - time.time() > 3000
    small.buffers.close()


def test_large_input_without_a_store_is_a_clear_error() -> None:
    preparer = Preparer(Settings(inline_limit=10), None)
    with pytest.raises(StoreUnavailable, match=r"input '[xy]' has 16 bytes.*10 in a message.*no store"):
        preparer.prepare(GRAPH, {"x": X, "y": Y})


def test_core_works_without_a_store(node: MemoryNode, settings: Settings, worker: FakeWorker) -> None:
    broker = MemoryBroker(node, "ann")
    broker.open(5)
    core = ClientCore(broker, None, settings)
    started: queue.Queue[KaasqError | None] = queue.Queue()
    core.start(started.put)
    assert started.get(timeout=5) is None
    results: queue.Queue[Result | KaasqError] = queue.Queue()
    core.send(Preparer(settings, None).prepare(GRAPH, {"x": X, "y": Y}), results.put)
    result = results.get(timeout=5)
    assert isinstance(result, Result)
    np.testing.assert_array_equal(result["out"], 2 * X + Y)
    core.stop()
    broker.close()


# ---------------------------------------------------------------------------------------------------------------- fork


def in_child(what: Callable[[], object], timeout_s: float = 10.0) -> bytes:
    """Run it in a forked child: what it raised, or b"" if nothing. Fails if the child hangs."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b"it broke"
        try:
            what()
            said = b""
        except KaasqError as error:
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    try:
        assert select.select([reading], [], [], timeout_s)[0], "the child hangs"
        return os.read(reading, 10_000)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


@pytest.mark.parametrize("use", ["run", "submit", "connect"])
def test_forked_child_is_refused_its_parents_client(client: Client, worker: FakeWorker, use: str) -> None:
    client.connect()
    uses: dict[str, Callable[[], object]] = {
        "run": lambda: client.run(GRAPH, x=X, y=Y, timeout=3),
        "submit": lambda: client.submit(GRAPH, x=X, y=Y, timeout=3),
        "connect": client.connect,
    }
    said = in_child(uses[use])
    assert said.startswith(b"KaasqError: the client was connected before the fork")
    assert b"one client per process" in said


def test_forked_child_may_close_its_parents_client(client: Client, worker: FakeWorker) -> None:
    client.run(GRAPH, x=X, y=Y)
    client.put(X)
    assert in_child(client.close) == b""
    assert client.run(GRAPH, x=X, y=Y)["out"].shape == (4,)


def test_client_that_connects_after_the_fork_is_the_childs_own(settings: Settings) -> None:
    def use() -> None:
        node = MemoryNode()
        with FakeWorker(MemoryBroker(node, "worker")), Client(MemoryBroker(node, "ann"), settings=settings) as own:
            own.run(GRAPH, x=X, y=Y)

    assert in_child(use) == b""
