"""Cancelling an AsyncClient's request, wherever it is: nothing is sent, or the workers are told, and room is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kaasq.errors import BadRequest, BufferSize
from kaasq.memory import MemoryBroker
from kaasq.messages import Cancel, Output
from kaasq.topology import CONTROL, Binding, Queue, Topology
from tests.support import graphs
from tests.support.async_clients import Bench, Gate, GatedBroker, bench
from tests.support.fake_worker import saxpy
from tests.support.loops import play, until
from tests.support.messaging import Deliveries, declare

X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


@pytest.fixture
def withdrawn(on: Bench) -> Iterator[Deliveries]:
    """What workers are told to cancel."""
    broker = MemoryBroker(on.node, "watcher")
    broker.open(5)
    declare(broker, Topology(queues=(Queue(name="seen"),), bindings=(Binding(CONTROL, "seen", "#"),)))
    yield Deliveries(broker, "seen")
    broker.close()


async def cancelled(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_while_connecting(on: Bench) -> None:
    broker = GatedBroker(on.node)

    async def main() -> None:
        async with on.client(broker) as client:
            given_up = asyncio.create_task(client.run(GRAPH, x=X, y=X, a=1.0))
            kept = asyncio.create_task(client.run(GRAPH, x=X, y=X, a=2.0))
            await until(broker.gate.reached.is_set)
            await cancelled(given_up)
            broker.gate.open()
            np.testing.assert_array_equal((await kept)["out"], 3 * X)
        assert [each.scalars["a"] for each in on.worker.requests] == [2.0]

    play(main)


def test_while_its_inputs_are_brought_to_the_store(on: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with on.client(inline_limit=8) as client:
            gate = Gate()
            monkeypatch.setattr(client.buffers, "put_all", gate.before(client.buffers.put_all))
            task = asyncio.create_task(client.run(GRAPH, x=X, y=X))
            await until(gate.reached.is_set)
            await cancelled(task)
            gate.open()
            await client.names()  # behind it
        assert not on.worker.messages

    play(main)


def test_while_it_waits_for_room(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client(pending_limit=1) as client:
            held = on.held()
            first = client.submit(GRAPH, x=X, y=X, a=0.0)
            waiting = [client.submit(GRAPH, x=X, y=X, a=float(a)) for a in (1, 2, 3)]
            request, message = await asyncio.to_thread(held.next)
            assert [each.request_id for each in waiting] == [None] * 3
            await cancelled(waiting[0])
            await cancelled(waiting[1])
            on.worker.answer = saxpy
            on.worker.reply(message, saxpy(request, message))
            await first
            np.testing.assert_array_equal((await waiting[2])["out"], 4 * X)
        assert [each.scalars["a"] for each in on.worker.requests] == [0.0, 3.0]
        assert withdrawn.none(0.1)

    play(main)


def test_when_it_is_sent(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client(pending_limit=1) as client:
            held = on.held()
            task = asyncio.create_task(client.run(GRAPH, x=X, y=X))
            request, message = await asyncio.to_thread(held.next)
            await cancelled(task)
            on.worker.reply(message, saxpy(request, message))  # it comes all the same, and is dropped
            on.worker.answer = saxpy
            assert (await client.run(GRAPH, x=X, y=X))["out"].shape == (4,)
        assert msgspec.msgpack.decode(withdrawn.one().message.body, type=Cancel).cancel == message.message_id

    play(main)


def test_by_a_timeout(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client() as client:
            on.held()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.run(GRAPH, x=X, y=X)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.submit(GRAPH, x=X, y=X), 0.1)
        assert len(withdrawn.some(2)) == 2

    play(main)


def test_when_its_reply_has_just_come(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client() as client:
            await client.connect()
            future = client.submit(GRAPH, x=X, y=X)
            core = client._core
            deadline = time.monotonic() + 5
            while core is None or core.pending:  # without giving way: the loop has not heard of the reply
                assert time.monotonic() < deadline
                time.sleep(0.001)  # noqa: ASYNC251
            assert not future.done()
            await cancelled(future)
            assert (await client.run(GRAPH, x=X, y=X))["out"].shape == (4,)
        assert withdrawn.none(0.1)

    play(main)


def test_while_its_outputs_are_read(on: Bench, withdrawn: Deliveries, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with on.client() as client:
            ref = await client.put(X)
            on.answers_with(out=Output(nbytes=16, ref=ref.ref))
            gate = Gate()
            monkeypatch.setattr(client.buffers, "read", gate.before(client.buffers.read))
            task = asyncio.create_task(client.run(GRAPH, x=X, y=X))
            await until(gate.reached.is_set)
            await cancelled(task)
            gate.open()
            np.testing.assert_array_equal((await client.run(GRAPH, x=X, y=X))["out"], X)
        assert withdrawn.none(0.1)

    play(main)


def test_what_is_done_cannot_be_cancelled(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client() as client:
            future = client.submit(GRAPH, x=X, y=X)
            result = await future
            assert future.request_id == result.request_id
            assert not future.cancel()
        assert withdrawn.none(0.1)

    play(main)


def test_task_group_that_fails_cancels_the_others(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client() as client:
            held = on.held()

            async def two() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(client.run(GRAPH, x=X, y=X))
                    await asyncio.to_thread(held.next)
                    group.create_task(client.run(GRAPH, x=X[:1], y=X))

            with pytest.raises(ExceptionGroup) as caught:
                await two()
            assert [type(each) for each in caught.value.exceptions] == [BufferSize]
        withdrawn.one()

    play(main)


def test_by_its_id_whoever_sent_it(on: Bench, withdrawn: Deliveries) -> None:
    async def main() -> None:
        async with on.client() as client:
            await client.cancel("somebody-elses")
            with pytest.raises(BadRequest, match="an id of 1 to"):
                await client.cancel("")
        assert msgspec.msgpack.decode(withdrawn.one().message.body, type=Cancel).cancel == "somebody-elses"

    play(main)
