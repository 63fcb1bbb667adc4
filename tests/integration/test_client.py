"""The client on a real RabbitMQ, with a scripted worker: connecting, losing the broker, getting every answer."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import kaasq
from kaasq import topology
from kaasq.broker import Message
from kaasq.errors import KaasqError
from kaasq.messages import Reply, Request
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from kaasq_faults.proxy import Proxy
from real_broker import Broker
from tests.support import graphs
from tests.support.fake_worker import FakeWorker, Held, saxpy, sends_hash
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()


@pytest.fixture
def settings(tmp_path: Path, pool: str) -> Settings:
    return Settings(store=str(tmp_path / "store"), pool=pool, timeout=30.0, connect_timeout=10.0)


@pytest.fixture
def worker(broker_url: str, pool: str) -> Iterator[FakeWorker]:
    with FakeWorker(RabbitBroker(broker_url), pool=pool) as made:
        yield made


def test_many_requests(broker_url: str, settings: Settings, worker: FakeWorker) -> None:
    with kaasq.Client(broker_url, settings=settings) as client:
        client.run(GRAPH, x=X, y=X)
        futures = [client.submit(GRAPH, x=X, y=X, a=float(i)) for i in range(500)]
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(30)["out"], (i + 1) * X)
    assert all(map(sends_hash, worker.messages[1:]))
    first = worker.messages[0]
    assert first.timestamp_ms is not None
    assert abs(first.timestamp_ms - time.time() * 1000) < 60_000


def test_pool_that_nobody_ever_served(broker_url: str, settings: Settings) -> None:
    with kaasq.Client(broker_url, settings=settings) as client:
        with pytest.raises(kaasq.Unroutable, match=f"kaasq worker --pool {settings.pool}"):
            client.run(GRAPH, x=X, y=X)


FORKING = """
import os, sys, kaasq, numpy
from tests.support import graphs
url, pool = sys.argv[1:]
x = numpy.arange(4, dtype="f4")
with kaasq.Client(url, pool=pool, timeout=20) as client:
    client.run(graphs.saxpy(), x=x, y=x)
    child = os.fork()
    if child == 0:
        try:
            client.run(graphs.saxpy(), x=x, y=x, timeout=3)
        except kaasq.KaasqError as error:
            print(error, flush=True)
        sys.exit(5)  # closes the client, and ends the interpreter as usual
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    for _ in range(20):
        client.run(graphs.saxpy(), x=x, y=x)
    print("parent done")
"""


def test_forked_child_neither_hangs_nor_disturbs_its_parent(broker_url: str, pool: str, worker: FakeWorker) -> None:
    program = [sys.executable, "-c", FORKING, broker_url, pool]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    refused, child, parent = done.stdout.splitlines()
    assert refused.startswith("the client was connected before the fork")
    assert (child, parent) == ("child 5", "parent done")


def test_no_broker(settings: Settings) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}/"
        short = Settings(store=settings.store, connect_timeout=1.0)
        with kaasq.Client(url, settings=short) as client:
            for _ in range(2):  # trying again is possible
                with pytest.raises(kaasq.BrokerLost, match=r"127\.0\.0\.1"):
                    client.run(GRAPH, x=X, y=X)


def test_wrong_password(broker_url: str, settings: Settings) -> None:
    parts = urlsplit(broker_url)
    place = parts.netloc.rpartition("@")[2]
    wrong = parts._replace(netloc=f"{parts.username or 'guest'}:wrong@{place}").geturl()
    with kaasq.Client(wrong, settings=settings) as client, pytest.raises(kaasq.BrokerRefused):
        client.connect()


def test_every_request_is_answered_though_the_broker_is_killed(own_rabbit: Broker, settings: Settings) -> None:
    """Some are queued, some unconfirmed, some answered while it is away: all come back, with the right answer."""
    slowly = threading.Event()

    def answer(request: Request, message: Message) -> Reply:
        slowly.wait(0.002)
        return saxpy(request, message)

    with (
        FakeWorker(RabbitBroker(own_rabbit.url), answer, pool=settings.pool),
        kaasq.Client(own_rabbit.url, settings=settings) as client,
    ):
        client.run(GRAPH, x=X, y=X)
        futures: list = []

        def submit() -> None:
            for i in range(600):
                futures.append(client.submit(GRAPH, x=X, y=X, a=float(i), timeout=60))
                time.sleep(0.001)

        submitting = threading.Thread(target=submit)
        submitting.start()
        until = time.monotonic() + 30
        while len(futures) < 100:  # under way, and not yet at the end
            assert time.monotonic() < until
            time.sleep(0.001)
        own_rabbit.restart(graceful=False)
        submitting.join()
        slowly.set()
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(60)["out"], (i + 1) * X)
        assert len(client._connected().pending) == 0


def test_replies_lost_with_the_connection_are_asked_for_again(broker_url: str, settings: Settings) -> None:
    """The broker counts a reply as taken once it has sent it."""
    held = Held()
    told: queue.SimpleQueue[KaasqError | None] = queue.SimpleQueue()
    with (
        Proxy(broker_url) as proxy,
        FakeWorker(RabbitBroker(broker_url), held, pool=settings.pool) as worker,
        kaasq.Client(proxy.url, settings=settings) as client,
    ):
        futures = [client.submit(GRAPH, x=X, y=X) for _ in range(5)]
        taken = [held.next() for _ in futures]
        replies = topology.reply_queue(client.tenant, taken[0][1].reply_to or "")
        until(lambda: worker.inspect(replies).consumers == 1)
        proxy.silence()
        for request, message in taken:
            worker.reply(message, saxpy(request, message), done=told.put)
        assert [told.get(timeout=20) for _ in futures] == [None] * 5
        until(lambda: worker.inspect(replies).messages == 0)  # what is left there would come after all
        proxy.reset()
        proxy.resume()
        again = [held.next() for _ in futures]
        assert {each.message_id for _, each in again} == {each.message_id for _, each in taken}
        for request, message in again:
            worker.reply(message, saxpy(request, message))
        assert all((each.result(20)["out"] == 3 * X).all() for each in futures)
