"""A worker in operation: kernels that outlast the broker's patience, queues that vanish, stopping in time, health."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pika
import pytest

import kaasq
from kaasq import codec, topology
from kaasq.ids import new_id
from kaasq.messages import Reply, Request
from kaasq.model import GraphSpec
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_storage import open_store
from tests.support.graphs import ENDLESS, held, only_output, saxpy
from tests.support.waiting import until
from tests.support.workers import running_worker

X = np.arange(4, dtype=np.float32)
PATIENCE_MS = 600


@pytest.fixture(scope="module")
def impatient() -> Iterator[RabbitNode]:
    """A broker that soon takes back what is not acknowledged within PATIENCE_MS."""
    with RabbitNode(config={"consumer_timeout": str(PATIENCE_MS)}) as node:
        node.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 200).")  # no key of rabbitmq.conf
        yield node


class Requester:
    """Publishes requests and counts what comes back, without kaasq in between."""

    def __init__(self, url: str, pool: str) -> None:
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.queue_declare("kaasq.reply.guest.raw", durable=True)
        self.channel.queue_bind("kaasq.reply.guest.raw", topology.REPLIES, "guest.raw")
        self.pool = pool

    def publish(self, graph: GraphSpec, **changes) -> str:
        id_ = new_id()
        body = codec.encode(Request(graph=graph, **changes))
        properties = pika.BasicProperties(
            user_id="guest", message_id=id_, reply_to="raw", content_type=codec.MSGPACK, delivery_mode=2
        )
        self.channel.basic_publish(topology.REQUESTS, topology.request_key("guest", self.pool), body, properties)
        return id_

    def collect(self, id_: str) -> list[Reply]:
        """The replies to that request since the last time."""
        replies: list[Reply] = []
        while (got := self.channel.basic_get("kaasq.reply.guest.raw", auto_ack=True))[0] is not None:
            _, properties, body = got
            if properties.correlation_id == id_:
                replies.append(codec.decode_reply(body, properties.content_type))
        return replies

    def close(self) -> None:
        self.connection.close()


def test_a_kernel_longer_than_the_brokers_patience_runs_once_and_is_answered(impatient, pool, tmp_path):
    with (
        running_worker(impatient.url, pool, tmp_path / "store", "--log-level", "debug") as worker,
        kaasq.Client(impatient.url, pool=pool, store=tmp_path / "store") as client,
    ):
        raw = Requester(impatient.url, pool)
        id_ = raw.publish(held(tmp_path).freeze())
        try:
            worker.wait_for("consumer.interrupted", 30)
            worker.wait_for("request.joined", 30)
            assert not raw.collect(id_)
        finally:
            (tmp_path / "end").touch()
        replies: list = []

        def answered() -> bool:
            replies.extend(raw.collect(id_))
            return bool(replies)

        until(answered, 40)
        assert client.run(saxpy(), x=X, y=X)["out"][1] == 3  # it takes requests again, and nothing came meanwhile
        assert len([each for each in worker.events() if each["event"] == "request.ran" and each["request"] == id_]) == 1
        # Mostly one. If the broker had just taken it back as it ended, it comes again and is answered from its outcome.
        replies += raw.collect(id_)
        raw.close()
        assert {each.outputs["out"].inline for each in replies} == {np.int32(7).tobytes()}
        until(lambda: all(each.get("messages") == 0 for each in impatient.management.queues() if pool in each["name"]))


def test_a_worker_whose_queues_were_deleted_takes_requests_again_and_its_health_tells(
    broker, rabbit_url, pool, tmp_path
):
    health = tmp_path / "health.json"
    vhost = rabbit_url.rsplit("/", 1)[1]
    extra = ("--health-file", str(health))
    with running_worker(rabbit_url, pool, tmp_path / "store", *extra) as worker:
        with kaasq.Client(rabbit_url, pool=pool, store=tmp_path / "store") as client:
            assert client.run(saxpy(), x=X, y=X)["out"][1] == 3
            until(health.exists)
            for queue in (
                topology.work_queue(pool),
                topology.work_queue(pool, "cpu"),
                topology.control_queue(pool, "cpu"),
            ):
                broker.management.call("DELETE", "queues", vhost, queue)
            worker.wait_for("consumer.interrupted", 10)
            until(lambda: len([each for each in broker.management.queues(vhost) if pool in each["name"]]) == 3)
            until(lambda: answers(client))
        until(lambda: requests_held(health) == 0)  # it holds one until the broker has confirmed its answer
        done = subprocess.run(
            [sys.executable, "-m", "kaasq", "health", "--file", str(health)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, f"alive: 1 slots of pool {pool}, 0 requests held\n")
        worker.process.send_signal(signal.SIGSTOP)
        stamp = json.loads(health.read_text())["written_at"]
        try:
            time.sleep(1.2)
            done = health_command(health, "--within", "1")
        finally:
            worker.process.send_signal(signal.SIGCONT)
        assert done.returncode == 1
        assert "the worker hangs, or has ended" in done.stdout
        until(lambda: json.loads(health.read_text())["written_at"] > stamp)
        assert worker.stop() == 0
        assert not health.exists()


def test_what_killed_processes_left_in_the_store_goes_when_a_worker_starts(broker_url, pool, tmp_path):
    with open_store(tmp_path / "store", sync=False) as store:
        left = store.path / "staging" / "left"
        left.write_bytes(bytes(1000))  # as of a process that was killed while it wrote: nobody locks it
    with running_worker(broker_url, pool, tmp_path / "store"):
        until(lambda: not left.exists(), 15)


def test_what_is_not_finished_in_time_goes_back_and_the_worker_exits_3(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with kaasq.Client(broker_url, pool=pool, store=store) as client:
        health = tmp_path / "health"
        with running_worker(broker_url, pool, store, "--drain", "0.5", "--health-file", str(health)) as worker:
            client.run(saxpy(), x=X, y=X)
            stuck = client.submit(only_output(ENDLESS, "endless"), timeout=60)
            waiting = client.submit(saxpy(), x=X, y=X, timeout=60)
            until(lambda: requests_held(health) == 2)
            started = time.monotonic()
            assert worker.stop() == 3
            assert time.monotonic() - started < 15
        stuck.cancel()
        with running_worker(broker_url, pool, store):
            assert waiting.result(60)["out"][1] == 3


def test_a_second_signal_stops_at_once(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with kaasq.Client(broker_url, pool=pool, store=store) as client:
        health = tmp_path / "health"
        with running_worker(broker_url, pool, store, "--drain", "60", "--health-file", str(health)) as worker:
            client.run(saxpy(), x=X, y=X)
            stuck = client.submit(only_output(ENDLESS, "endless"), timeout=60)
            until(lambda: requests_held(health) == 1)
            worker.process.send_signal(signal.SIGTERM)
            worker.wait_for("worker.draining")
            assert worker.stop(15) == 130
            assert worker.wait_for("worker.stopped")["drained"] is False
        stuck.cancel()


def answers(client: kaasq.Client) -> bool:
    """Whether a request is answered; the queue that it goes to may not be bound yet."""
    try:
        return bool(client.run(saxpy(), x=X, y=X, timeout=20)["out"][1] == 3)
    except kaasq.Unroutable:
        return False


def requests_held(health: Path) -> int:
    """How many requests the worker holds, by its health file."""
    return sum(each["held"] for each in json.loads(health.read_text())["slots"])


def health_command(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaasq", "health", "--file", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
