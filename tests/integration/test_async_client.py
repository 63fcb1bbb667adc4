"""AsyncClient on a real RabbitMQ: scripted workers, a real one, and a broker that is killed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

import kaasq
from kaasq.broker import Message
from kaasq.messages import Reply, Request
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from real_broker import Broker
from tests.support import graphs
from tests.support.fake_worker import FakeWorker, Held, saxpy, sends_hash
from tests.support.loops import play
from tests.support.workers import running_worker

X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()
MIB = 1 << 20


@pytest.fixture
def settings(tmp_path: Path, pool: str) -> Settings:
    return Settings(store=str(tmp_path / "store"), store_sync=False, pool=pool, timeout=30.0, connect_timeout=10.0)


@pytest.fixture
def worker(broker_url: str, pool: str) -> Iterator[FakeWorker]:
    with FakeWorker(RabbitBroker(broker_url), pool=pool) as made:
        yield made


def test_many_at_once(broker_url: str, settings: Settings, worker: FakeWorker) -> None:
    async def main() -> None:
        async with kaasq.AsyncClient(broker_url, settings=settings) as client:
            await client.run(GRAPH, x=X, y=X)
            results = await asyncio.gather(*(client.run(GRAPH, x=X, y=X, a=float(i)) for i in range(1000)))
            for i, result in enumerate(results):
                np.testing.assert_array_equal(result["out"], (i + 1) * X)

    play(main)
    assert all(map(sends_hash, worker.messages[1:]))


def test_stream_is_sent_as_it_is_taken(broker_url: str, settings: Settings, worker: FakeWorker) -> None:
    asked = 0

    def inputs() -> Iterator[dict[str, Any]]:
        nonlocal asked
        while True:  # without an end
            asked += 1
            yield {"x": X, "a": float(asked)}

    async def main() -> None:
        async with kaasq.AsyncClient(broker_url, settings=settings) as client:
            taken = 0
            async for done in client.map(GRAPH, inputs(), limit=50, y=X):
                assert done.result["out"][1] == done.index + 2
                taken += 1
                assert asked <= taken + 50
                if taken == 1000:
                    break

    play(main)


def test_cancelled_request_does_not_run(broker_url: str, settings: Settings, tmp_path: Path) -> None:
    """On a real worker: its one executor is busy, the next request is cancelled and leaves no output."""
    n = 1024  # small, so that requests are sent in order
    slow = graphs.saxpy(n)
    slow.iterations = 50_000  # a second or so

    async def main() -> None:
        async with kaasq.AsyncClient(broker_url, settings=settings) as client:
            xs = np.ones(n, np.float32)
            await client.run(graphs.saxpy(n), x=xs, y=xs)
            busy = asyncio.create_task(client.run(slow, x=xs, y=xs))
            queued = asyncio.create_task(client.run(graphs.saxpy(n), x=xs, y=xs, out=kaasq.Keep("never")))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await queued
            await busy
            await client.run(graphs.saxpy(n), x=xs, y=xs)  # behind it
            assert await client.names() == []

    with running_worker(broker_url, settings.pool, settings.store_path):
        play(main)


def test_large_inputs_and_outputs_with_a_real_worker(broker_url: str, settings: Settings) -> None:
    async def main() -> None:
        async with kaasq.AsyncClient(broker_url, settings=settings) as client:
            n = 4 * MIB  # 16 MiB each
            data = np.random.default_rng(1).random(n, dtype=np.float32)
            first = await client.run(graphs.saxpy(n), x=data, y=data)
            second = await client.run(graphs.saxpy(n), x=first.refs["out"], y=data)
            np.testing.assert_allclose(second["out"], 7 * data, rtol=1e-6)
            kept = await client.run(graphs.saxpy(n), x=data, y=data, out=kaasq.Keep("kept"))
            assert kept.refs["out"].name == "kept"
            np.testing.assert_allclose(await client.get("kept"), 3 * data, rtol=1e-6)

    with running_worker(broker_url, settings.pool, settings.store_path):
        play(main)


def test_no_broker_and_wrong_password(broker_url: str, settings: Settings) -> None:
    async def main() -> None:
        with socket.socket() as taken:  # bound, but nobody listens
            taken.bind(("127.0.0.1", 0))
            nobody = f"amqp://guest:guest@127.0.0.1:{taken.getsockname()[1]}/"
            short = Settings(store=settings.store, connect_timeout=0.5)
            async with kaasq.AsyncClient(nobody, settings=short) as client:
                for _ in range(2):
                    with pytest.raises(kaasq.BrokerLost, match=r"127\.0\.0\.1"):
                        await client.run(GRAPH, x=X, y=X)
        place = urlsplit(broker_url).netloc.rpartition("@")[2]
        wrong = urlsplit(broker_url)._replace(netloc=f"guest:wrong@{place}").geturl()
        async with kaasq.AsyncClient(wrong, settings=settings) as client:
            with pytest.raises(kaasq.BrokerRefused):
                await client.connect()

    play(main)


def test_two_loops_have_a_client_each(broker_url: str, settings: Settings, worker: FakeWorker) -> None:
    async def main() -> float:
        async with kaasq.AsyncClient(broker_url, settings=settings) as client:
            results = await asyncio.gather(*(client.run(GRAPH, x=X, y=X) for _ in range(50)))
            return float(sum(each["out"][1] for each in results))

    async def both() -> list[float]:
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, main()) for _ in range(2)))

    assert play(both) == [150.0, 150.0]


def test_every_request_is_answered_though_the_broker_is_killed(own_rabbit: Broker, settings: Settings) -> None:
    def answer(request: Request, message: Message) -> Reply:
        time.sleep(0.002)
        return saxpy(request, message)

    async def main() -> None:
        async with kaasq.AsyncClient(own_rabbit.url, settings=settings) as client:
            await client.run(GRAPH, x=X, y=X)
            inputs = ({"x": X, "a": float(i)} for i in range(600))
            seen = set()
            restarting: asyncio.Future[Any] | None = None
            async for done in client.map(GRAPH, inputs, limit=100, timeout=90, y=X):
                np.testing.assert_array_equal(done.result["out"], (done.index + 1) * X)
                seen.add(done.index)
                if len(seen) == 100:
                    restarting = asyncio.ensure_future(asyncio.to_thread(own_rabbit.restart, graceful=False))
            assert seen == set(range(600))
            assert restarting is not None
            await restarting

    with FakeWorker(RabbitBroker(own_rabbit.url), answer, pool=settings.pool):
        play(main, timeout_s=100)


def test_closing_with_requests_on_their_way(broker_url: str, settings: Settings, worker: FakeWorker) -> None:
    held = Held()
    worker.answer = held

    async def main() -> None:
        client = kaasq.AsyncClient(broker_url, settings=settings)
        futures = [client.submit(GRAPH, x=X, y=X) for _ in range(20)]
        await asyncio.to_thread(held.next)
        await client.close()
        assert all(isinstance(each.exception(), kaasq.BrokerLost) for each in futures)

    play(main)
