"""A worker and a client that look for messages before they sleep: they answer as others do, and idle they sleep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq.io_thread import IoThread
from kaasq.polling import FEW
from tests.support.graphs import held, saxpy
from tests.support.waiting import until
from tests.support.workers import running_worker

X = np.arange(4, dtype=np.float32)
SPAN_S = 1.0


def used_s(pids: Iterable[int]) -> float:
    """Processor time of the processes since they began."""
    return (
        sum(
            int(each)
            for pid in pids
            for task in Path(f"/proc/{pid}/task").iterdir()
            for each in _times(task / "schedstat")
        )
        / 1e9
    )


def _times(schedstat: Path) -> list[str]:
    try:
        return schedstat.read_text().split()[:1]
    except OSError:  # a thread that has ended meanwhile
        return []


def test_a_worker_that_looks_for_messages_uses_no_processor_once_there_are_none(
    broker_url, pool, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("KAASQ_BUSY_POLL", "0.01")
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store, "--spare", "none") as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        assert client.settings.busy_poll == 0.01
        pids = [worker.process.pid, worker.wait_for("executor.ready")["pid"]]
        graph = saxpy(4)
        client.run(graph, x=X, y=X)
        began, before = time.monotonic(), used_s(pids)
        while time.monotonic() < began + SPAN_S:
            np.testing.assert_array_equal(client.run(graph, x=X, y=X)["out"], 3 * X)
        busy_s = used_s(pids) - before

        def idle_s() -> float:
            before = used_s(pids)
            time.sleep(SPAN_S)
            return used_s(pids) - before

        until(lambda: idle_s() < min(0.1 * SPAN_S, busy_s / 4))


def test_messages_are_looked_for_while_few_requests_are_under_way(tmp_path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Callable[[], bool]] = []
    monkeypatch.setattr(IoThread, "expects", lambda _, anything: asked.append(anything))

    def look() -> list[bool]:
        return [each() for each in asked]

    with kaasq.local(device="cpu") as client:
        client.run(saxpy(4), x=X, y=X)
        until(lambda: look() == [True, False])  # of a worker nobody knows what comes; a client has nothing to expect
        futures = [client.submit(held(tmp_path)) for _ in range(FEW)]
        until((tmp_path / "begun").exists)
        assert look() == [True, True]
        futures.append(client.submit(held(tmp_path)))
        until(lambda: look() == [False, False])
        (tmp_path / "end").touch()
        for each in futures:
            each.result(60)
        until(lambda: look() == [True, False])
