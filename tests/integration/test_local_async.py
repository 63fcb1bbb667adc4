"""kaasq.local_async: started and ended off the loop, whatever happens in between."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq_workers.worker import Worker
from tests.support.async_clients import Gate
from tests.support.graphs import saxpy
from tests.support.loops import play, until

N = 1000
X = np.arange(N, dtype=np.float32)


def worker_threads() -> set[str]:
    return {each.name for each in threading.enumerate() if each.name.startswith("kaasq")}


def test_runs_and_leaves_nothing_behind() -> None:
    paths: list[Path] = []

    async def main() -> None:
        async with kaasq.local_async(device="cpu") as client:
            paths.append(client.settings.store_path)
            result = await client.run(saxpy(N), x=X, y=X, a=3.0)
            np.testing.assert_allclose(result["out"], 4 * X)
            large = np.ones(1 << 20, np.float32)
            np.testing.assert_array_equal((await client.run(saxpy(1 << 20), x=large, y=large))["out"], 3 * large)
            assert paths[0].exists()
        with pytest.raises(kaasq.BrokerLost, match="the client is closed"):
            await client.run(saxpy(N), x=X, y=X)

    before = worker_threads()
    play(main)
    assert not paths[0].exists()
    assert worker_threads() <= before


def test_given_store_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(2):
            async with kaasq.local_async(device="cpu", store=tmp_path / "store", fetch=False) as client:
                await client.put(X, name="x")
        assert (tmp_path / "store").exists()

    play(main)


def test_error_inside_ends_it_too() -> None:
    async def fail() -> None:
        async with kaasq.local_async(device="cpu") as client:
            await client.connect()
            raise ZeroDivisionError

    before = worker_threads()
    with pytest.raises(ZeroDivisionError):
        play(fail)
    assert worker_threads() <= before


def test_device_that_is_not_there_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(kaasq.KaasqError, match="cuda:99"):
            async with kaasq.local_async(device="cuda:99"):
                pass

    play(main)


def test_cancelled_while_it_starts_ends_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, stopped, stop = Gate(), threading.Event(), Worker.stop
    monkeypatch.setattr(Worker, "start", gate.before(Worker.start))

    def watched(self: Worker, *args: float) -> bool:
        stopped.set()
        return stop(self, *args)

    monkeypatch.setattr(Worker, "stop", watched)

    async def start() -> None:
        async with kaasq.local_async(device="cpu"):
            raise AssertionError("it was cancelled before")

    async def main() -> None:
        starting = asyncio.create_task(start())
        await until(gate.reached.is_set)
        starting.cancel()
        await asyncio.sleep(0.01)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert stopped.is_set()

    before = worker_threads()
    play(main)
    assert worker_threads() <= before
