"""The main job on a real RabbitMQ with a real worker process: every answer right, every bad input told clearly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import codec
from kaasq.broker import Delivery, Message
from kaasq.ids import new_id
from kaasq.messages import Reply
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from kaasq.topology import EVENTS, REQUESTS, Binding, Queue, Topology, reply_queue, reply_topology, request_key
from kaasq_storage import open_store
from tests.support.graphs import CRASH, SAXPY, endless, only_output, saxpy, scribble, sum_of_squares
from tests.support.workers import RunningWorker, running_worker

N = 1000
X = np.arange(N, dtype=np.float32)
Y = np.ones(N, dtype=np.float32)
NOWHERE = kaasq.BufferRef(ref="0" * 64, nbytes=4 * N)


class Served:
    """A pool that a worker serves."""

    def __init__(self, url: str, pool: str, store: Path, worker: RunningWorker) -> None:
        self.url, self.pool, self.store, self.worker = url, pool, store, worker

    def client(self) -> kaasq.Client:
        return kaasq.Client(self.url, pool=self.pool, store=self.store)


@pytest.fixture(scope="module")
def served(broker_url, tmp_path_factory) -> Iterator[Served]:
    """One worker for the tests that do not harm it."""
    folder = tmp_path_factory.mktemp("served")
    pool = f"t{new_id()[-10:]}"
    with running_worker(broker_url, pool, folder / "store") as worker:
        yield Served(broker_url, pool, folder / "store", worker)


@pytest.fixture(scope="module")
def client(served) -> Iterator[kaasq.Client]:
    with served.client() as client:
        yield client


class Raw:
    """A producer that publishes whatever the test says and collects replies and events."""

    def __init__(self, served: Served) -> None:
        self.broker = RabbitBroker(served.url)
        self.pool = served.pool
        self.replies: list[Message] = []
        self.events: list[Message] = []
        self.reply_id = new_id()
        self._arrived = threading.Condition()
        self.broker.open(10)
        self._await(lambda done: self.broker.declare(reply_topology(self.broker.tenant, self.reply_id), done))
        events = Queue(name=f"test.events.{self.reply_id}", arguments={"x-expires": 60_000})
        topology = Topology(queues=(events,), bindings=(Binding(EVENTS, events.name, "#"),))
        self._await(lambda done: self.broker.declare(topology, done))
        self.broker.consume(reply_queue(self.broker.tenant, self.reply_id), self._collect(self.replies), prefetch=100)
        self.broker.consume(events.name, self._collect(self.events), prefetch=100)

    def publish(self, body: bytes, content_type: str | None = codec.JSON, **changes) -> str:
        key = new_id()
        properties = {
            "message_id": key,
            "user_id": self.broker.tenant,
            "reply_to": self.reply_id,
            "content_type": content_type,
            **changes,
        }
        routing_key = request_key(self.broker.tenant, self.pool)
        message = Message(body=body, **properties)
        self._await(lambda done: self.broker.publish(message, exchange=REQUESTS, routing_key=routing_key, done=done))
        return properties["message_id"]

    def reply(self, key: str, timeout_s: float = 30.0) -> Reply:
        found = self._find(self.replies, lambda each: each.correlation_id == key, timeout_s)
        return codec.decode_reply(found.body, found.content_type)

    def event(self, key: str, timeout_s: float = 30.0) -> Message:
        return self._find(self.events, lambda each: each.correlation_id == key, timeout_s)

    def _find(self, where: list[Message], wanted, timeout_s: float) -> Message:
        with self._arrived:
            assert self._arrived.wait_for(lambda: any(map(wanted, where)), timeout_s), "nothing came"
            return next(filter(wanted, where))

    def _collect(self, into: list[Message]):
        def on_delivery(delivery: Delivery) -> None:
            with self._arrived:
                into.append(delivery.message)
                self._arrived.notify_all()
            delivery.ack()

        return on_delivery

    def _await(self, operation) -> None:
        done, errors = threading.Event(), []

        def finished(error) -> None:
            errors.append(error)
            done.set()

        operation(finished)
        assert done.wait(10)
        if errors[0] is not None:
            raise errors[0]


@pytest.fixture
def raw(served) -> Iterator[Raw]:
    made = Raw(served)
    yield made
    made.broker.close()


# -- the main job ----------------------------------------------------------------------------------------------------


def test_publish_and_await(client):
    result = client.run(saxpy(N), x=X, y=Y, a=3.0, timeout=30)
    np.testing.assert_allclose(result["out"], 3 * X + Y, rtol=1e-6)
    assert result["out"].dtype == np.float32
    assert result.timings.total > 0
    assert result.worker.device == "cpu"


def test_a_graph_with_a_temp_and_shared_memory(client):
    result = client.run(sum_of_squares(N), x=X)
    assert result["out"][0] == pytest.approx(float((X.astype(np.float64) ** 2).sum()), rel=1e-4)


def test_iterations_run_the_launches_again(client):
    graph = kaasq.Graph("test.count")
    out = graph.output("out", shape=1, dtype="int32")
    module = kaasq.Module.from_source('extern "C" __global__ void add(int* out) { out[0] += 2; }')
    graph.launch(module.kernel("add"), grid=1, block=1, args=[out])
    graph.iterations = 50
    assert client.run(graph)["out"][0] == 100


def test_many_requests_at_once_from_many_threads(client):
    graph = saxpy(N)
    wrong: list[float] = []

    def one(a: float) -> None:
        futures = [client.submit(graph, x=X, y=Y, a=a + i) for i in range(20)]
        wrong.extend(
            a + i for i, each in enumerate(futures) if not np.allclose(each.result(60)["out"], (a + i) * X + Y)
        )

    threads = [threading.Thread(target=one, args=(100.0 * i,)) for i in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert wrong == []


def test_inputs_larger_than_a_message_go_through_the_store(client):
    n = 1 << 20
    x = np.arange(n, dtype=np.float32)
    result = client.run(saxpy(n), x=x, y=x)
    np.testing.assert_allclose(result["out"], 3 * x, rtol=1e-6)


def test_a_stored_object_is_bound_by_reference_and_kept_outputs_by_name(client):
    weights = client.put(X, name="test/w")
    result = client.run(saxpy(N), x=weights, y=Y, out=kaasq.Keep("test/out"))
    np.testing.assert_allclose(client.get("test/out"), 2 * X + Y)
    assert result.refs["out"].name == "test/out"
    again = client.run(saxpy(N), x=weights, y=weights)
    assert again.cache.hits >= 1
    client.delete("test/w")
    client.delete("test/out")


def test_a_kernel_that_writes_over_its_input_never_changes_a_later_answer(client):
    n = 256
    x = np.arange(n, dtype=np.float32)
    stored = client.put(x)
    for _ in range(3):
        np.testing.assert_array_equal(client.run(scribble(n), x=stored)["out"], x)


def test_outputs_and_temps_start_as_zeros_whatever_ran_before(client):
    dirty = only_output(
        'extern "C" __global__ void fill(int* out) { for (int i = 0; i < 1024; ++i) out[i] = 7; }', "fill", 4096
    )
    clean = only_output('extern "C" __global__ void touch(int* out) { out[0] = 1; }', "touch", 4096)
    for _ in range(3):
        client.run(dirty)
        assert client.run(clean)["out"].view(np.int32).sum() == 1


# -- other programs --------------------------------------------------------------------------------------------------


def test_a_json_request_is_answered_in_json_with_a_cloud_event(raw):
    graph = {
        "name": "by.hand",
        "buffers": [
            {"name": "x", "role": "input", "dtype": "float32", "shape": [4]},
            {"name": "y", "role": "input", "dtype": "float32", "shape": [4]},
            {"name": "out", "role": "output", "dtype": "float32", "shape": [4]},
        ],
        "modules": {"m": {"source": SAXPY}},
        "launches": [
            {
                "module": "m",
                "kernel": "saxpy",
                "block": 4,
                "args": [{"dtype": "float32", "value": 10}, "x", "y", "out", {"dtype": "int32", "value": 4}],
            }
        ],
    }
    x = np.arange(4, dtype=np.float32)
    body = msgspec.json.encode({"graph": graph, "bind": {"x": x.tobytes(), "y": x.tobytes()}})
    key = raw.publish(body)
    reply = raw.reply(key)
    assert reply.status == "ok"
    np.testing.assert_allclose(np.frombuffer(reply.outputs["out"].inline, np.float32), 11 * x)
    event = raw.event(key)
    assert event.headers["cloudEvents_type"] == "kaasq.request.completed"
    data = msgspec.json.decode(event.body)
    assert data["id"] == key
    assert "inline" not in data["outputs"]["out"]


def test_a_repeated_id_is_answered_from_its_outcome_and_another_body_is_a_conflict(raw):
    graph = only_output('extern "C" __global__ void one(int* out) { out[0] = 1; }', "one").freeze()
    body = codec.encode(kaasq.messages.Request(graph=graph))
    key = raw.publish(body, codec.MSGPACK)
    first = raw.reply(key)
    raw.replies.clear()
    raw.publish(body, codec.MSGPACK, message_id=key)
    assert raw.reply(key).outputs == first.outputs
    raw.replies.clear()
    raw.publish(codec.encode(kaasq.messages.Request(graph=graph, keep={"out": "x"})), codec.MSGPACK, message_id=key)
    assert raw.reply(key).error.code == "conflict"


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "at"),
    [
        (b"\xc1\xff\x00", codec.MSGPACK, "body"),
        (b"{nonsense", codec.JSON, "body"),
        (b"{}", "text/html", "content_type"),
        (b'{"graph": 5}', codec.JSON, "graph"),
        (b'{"graph": {"name": "x"}, "scalars": []}', codec.JSON, "scalars"),
        (b'{"graph": {"name": "x", "buffers": [{"name": "b", "role": "in"}]}}', codec.JSON, "graph.buffers[0].role"),
        (b'{"kaasq": 99, "graph": {"name": "x"}}', codec.JSON, "kaasq"),
        (b"[" * 100_000, codec.JSON, "body"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_where(raw, body, content_type, at):
    reply = raw.reply(raw.publish(body, content_type))
    assert reply.status == "error"
    assert reply.error.code == "bad_request"
    assert reply.error.detail["at"] == at


@pytest.mark.parametrize(
    ("run", "error", "words"),
    [
        (lambda c: c.run(saxpy(N), x=X), kaasq.BufferMissing, "'y'"),
        (lambda c: c.run(saxpy(N), x=X, y=c.put(Y[:10])), kaasq.KaasqError, "4000 bytes.*40 bytes|10"),
        (lambda c: c.run(saxpy(N, source=SAXPY + "oops"), x=X, y=Y), kaasq.ModuleRejected, "kernel.cu"),
        (lambda c: c.run(saxpy(N, kernel="nothere"), x=X, y=Y), kaasq.ModuleRejected, "saxpy"),
        (lambda c: c.run(wrong_arguments()), kaasq.BadArguments, "takes 5 parameters, 1 arguments"),
        (
            lambda c: c.run(saxpy(N), x=kaasq.BufferRef(ref="0" * 64, nbytes=4 * N), y=Y),
            kaasq.BufferMissing,
            "does not hold",
        ),
    ],
    ids=["missing buffer", "wrong size", "does not compile", "no such kernel", "wrong arguments", "unknown object"],
)
def test_a_wrong_request_is_refused_and_the_worker_serves_the_next(client, run, error, words):
    with pytest.raises(error, match=words):
        run(client)
    assert client.run(saxpy(N), x=X, y=Y)["out"][1] == 3


def wrong_arguments() -> kaasq.Graph:
    graph = kaasq.Graph("test.wrong")
    out = graph.output("out", nbytes=64)
    graph.launch(kaasq.Module.from_source(SAXPY).kernel("saxpy"), grid=1, block=1, args=[out])
    return graph


def test_no_worker_for_the_pool(served):
    with (
        kaasq.Client(served.url, pool="nobody-serves-this", store=served.store) as client,
        pytest.raises(kaasq.Unroutable, match="nobody-serves-this"),
    ):
        client.run(saxpy(N), x=X, y=Y)


def test_no_broker(tmp_path):
    settings = Settings(store=str(tmp_path), connect_timeout=1)
    with (
        kaasq.Client("amqp://guest:guest@127.0.0.1:1/", settings=settings) as client,
        pytest.raises(kaasq.BrokerLost, match=r"127\.0\.0\.1:1"),
    ):
        client.run(saxpy(N), x=X, y=Y)


def test_a_second_worker_on_the_slot_is_refused(served):
    second = RunningWorker(served.url, served.pool, served.store)
    assert second.process.wait(30) == 1
    failure = next(each for each in second.events() if each["event"] == "worker.failed")
    assert failure["code"] == "slot_taken"
    assert "--slot" in failure["error"]


def test_a_worker_with_another_store_on_the_slot_is_refused(served, tmp_path):
    second = RunningWorker(served.url, served.pool, tmp_path / "store")
    assert second.process.wait(30) == 1
    failure = next(each for each in second.events() if each["event"] == "worker.failed")
    assert failure["code"] == "slot_taken"
    assert "another store" in failure["error"]
    assert any(each["event"] == "slot.wanted" for each in served.worker.events())


def test_a_worker_logs_folder_and_id_of_the_store_that_it_has_opened(broker_url, pool, tmp_path):
    with running_worker(broker_url, pool, tmp_path / "store") as worker, open_store(tmp_path / "store") as store:
        ready = worker.wait_for("executor.ready")
        assert (ready["store"], ready["store_id"]) == (str(tmp_path / "store"), store.id)


def test_a_store_that_cannot_be_used(broker_url, pool, tmp_path):
    (tmp_path / "store").write_text("not a folder")
    worker = RunningWorker(broker_url, pool, tmp_path / "store")
    assert worker.process.wait(30) == 1
    failure = next(each for each in worker.events() if each["event"] == "worker.failed")
    assert failure["code"] == "store_unavailable"


def test_a_full_store_refuses_what_does_not_fit_and_serves_what_does(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store, "--store-capacity", str(8 << 20)),
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        big = only_output('extern "C" __global__ void big(int* out) { out[0] = 1; }', "big", 32 << 20)
        with pytest.raises(kaasq.StoreFull):
            client.run(big)
        assert client.run(saxpy(N), x=X, y=Y)["out"][1] == 3


# -- kernels that misbehave ------------------------------------------------------------------------------------------


def test_a_kernel_that_crashes_is_told_and_dead_lettered_and_others_are_served(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        events = client.events("#.failed")
        crash = client.submit(only_output(CRASH, "crash"), timeout=60)
        others = [client.submit(saxpy(N), x=X, y=Y, a=float(i), timeout=60) for i in range(20)]
        for i, each in enumerate(others):
            np.testing.assert_allclose(each.result(60)["out"], i * X + Y)
        with pytest.raises(kaasq.KernelFailed, match="SIGSEGV"):
            crash.result(60)
        assert worker.wait_for("request.dead")["kills"] == 2
        told = events.next(20)
        assert (told.request_id, told.error.code) == (crash.request_id, "kernel_failed")


def test_a_kernel_that_never_ends_is_stopped_at_its_deadline(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        client.run(endless(), out=np.ones(16, np.int32))  # compiled from here on
        events = client.events("#.expired")
        with pytest.raises((kaasq.DeadlineExceeded, kaasq.ReplyTimeout)):
            client.run(endless(), out=np.zeros(16, np.int32), timeout=2)
        worker.wait_for("request.overdue")
        assert events.next(20).error.code == "deadline_exceeded"
        assert client.run(saxpy(N), x=X, y=Y, timeout=60)["out"][1] == 3


def test_a_killed_executor_is_replaced(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        first = client.run(saxpy(N), x=X, y=Y).worker.pid
        os.kill(first, signal.SIGKILL)
        second = client.run(saxpy(N), x=X, y=Y, timeout=60).worker.pid
        assert second != first
        assert worker.wait_for("executor.died")["how"] == "SIGKILL"


def test_a_killed_worker_leaves_no_executor_and_its_requests_are_run_by_the_next(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with kaasq.Client(broker_url, pool=pool, store=store) as client:
        with running_worker(broker_url, pool, store) as worker:
            executor = client.run(saxpy(N), x=X, y=Y).worker.pid
            worker.process.kill()
            worker.process.wait()
            deadline = time.monotonic() + 10
            while Path(f"/proc/{executor}").exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not Path(f"/proc/{executor}").exists()
        waiting = client.submit(saxpy(N), x=X, y=Y, timeout=60)
        with running_worker(broker_url, pool, store):
            assert waiting.result(60)["out"][1] == 3


def test_sigterm_finishes_what_was_taken_and_exits_0(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        client.run(saxpy(N), x=X, y=Y)
        futures = [client.submit(saxpy(N), x=X, y=Y, a=float(i)) for i in range(50)]
        futures[0].result(30)
        assert worker.stop() == 0
        with running_worker(broker_url, pool, store):  # what it had not taken is still in the queue
            for i, each in enumerate(futures):
                np.testing.assert_allclose(each.result(60)["out"], i * X + Y)


def test_worker_that_cannot_start_leaves_no_pool_behind(broker_url: str, pool: str, tmp_path: Path) -> None:
    worker = RunningWorker(broker_url, pool, tmp_path / "store", device="cpuu")
    assert worker.process.wait(30) == 1
    with kaasq.Client(broker_url, store=tmp_path / "store", pool=pool) as client:
        with pytest.raises(kaasq.Unroutable, match=f"kaasq worker --pool {pool}"):
            client.run(saxpy(4), x=np.ones(4, np.float32), y=np.ones(4, np.float32), timeout=5)
