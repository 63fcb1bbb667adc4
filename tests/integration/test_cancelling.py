"""Cancelling on a real RabbitMQ with real workers: queued, running, stuck, early, late, and by a stranger."""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq.ids import new_id
from kaasq_storage import open_store
from tests.support.graphs import held, only_output, saxpy
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

N = 1000
X = np.arange(N, dtype=np.float32)
SLOW = r"""
extern "C" __global__ void slow(int* out)
{ volatile int spin = 0; for (int i = 0; i < 20000000; ++i) spin = spin + 1; out[0] = out[0] + 1; }
"""
LAUNCHES = 2000  # of some 30 ms each: a minute


def many(launches: int = LAUNCHES) -> kaasq.Graph:
    graph = only_output(SLOW, "slow")
    graph.iterations = launches
    return graph


class Pool:
    """A pool with one worker, and clients of it."""

    def __init__(self, url: str, name: str, store: Path, worker: RunningWorker) -> None:
        self.url, self.name, self.store, self.worker = url, name, store, worker

    def client(self) -> kaasq.Client:
        return kaasq.Client(self.url, pool=self.name, store=self.store)

    def executors(self) -> int:
        return sum(each["event"] == "executor.ready" for each in self.worker.events())


@pytest.fixture(scope="module")
def pool(broker_url, tmp_path_factory) -> Iterator[Pool]:
    store = tmp_path_factory.mktemp("cancelling") / "store"
    name = f"t{new_id()[-10:]}"
    with running_worker(broker_url, name, store) as worker:
        pool = Pool(broker_url, name, store, worker)
        with pool.client() as client:
            client.run(many(1))  # compiled from here on
        yield pool


def cancelled(future: concurrent.futures.Future) -> kaasq.Cancelled:
    with pytest.raises(kaasq.Cancelled) as caught:
        future.result(20)
    return caught.value


def test_a_running_request_ends_between_two_launches_and_its_executor_lives(pool):
    before = pool.executors()
    with pool.client() as client:
        future = client.submit(many())
        time.sleep(0.5)
        client.cancel(future.request_id)
        started = time.monotonic()
        assert cancelled(future).detail["request_id"] == future.request_id
        assert time.monotonic() - started < 20  # and not the minute that it would have taken
        assert client.run(saxpy(N), x=X, y=X)["out"][3] == 9
    assert pool.executors() == before


def test_the_command_cancels_a_workflow_whose_kernel_never_ends(pool, tmp_path):
    flow = kaasq.Workflow("hung")
    flow.step("hang", held(tmp_path))
    with pool.client() as client:
        run = client.start(flow)
        until((tmp_path / "begun").exists)  # from now on the only executor is busy for ever
        where = ("--broker", pool.url, "--pool", pool.name)
        program = [sys.executable, "-m", "kaasq", "flow", "cancel", run.id, *where]
        ran = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
        assert (ran.returncode, ran.stdout) == (0, f"workflow {run.id} is cancelled\n"), ran.stderr
        assert run.status().steps[0].state == "cancelled"
        assert client.run(saxpy(N), x=X, y=X)["out"][3] == 9


def test_a_queued_request_never_runs(pool):
    with pool.client() as client:
        running = client.submit(many())
        queued = client.submit(saxpy(N), x=X, y=X, bind=None, keep={"out": "never/kept"})
        client.cancel(queued.request_id)
        client.cancel(running.request_id)
        cancelled(running)
        cancelled(queued)
        with pytest.raises(kaasq.BufferMissing):
            client.get("never/kept")


def test_cancelling_a_future_stops_its_request(pool):
    with pool.client() as client:
        future = client.submit(many())
        time.sleep(0.3)
        assert future.cancel()
        started = time.monotonic()
        client.run(saxpy(N), x=X, y=X)
        assert time.monotonic() - started < 20  # and not the minute that the other one would have taken


def test_a_kernel_that_never_ends_is_killed_with_its_executor(pool, tmp_path):
    before = pool.executors()
    with pool.client() as client:
        future = client.submit(held(tmp_path))
        until((tmp_path / "begun").exists)
        client.cancel(future.request_id)
        cancelled(future)
        assert client.run(saxpy(N), x=X, y=X)["out"][3] == 9
    assert pool.executors() == before + 1


def test_cancelling_what_has_ended_changes_nothing(pool):
    with pool.client() as client:
        result = client.run(saxpy(N), x=X, y=X, out=kaasq.Keep("kept/1"))
        client.cancel(result.request_id)
        client.run(saxpy(N), x=X, y=X)
        assert client.get("kept/1")[3] == 9
        with open_store(pool.store) as store:
            outcome = store.outcome(client.tenant, result.request_id)
        assert outcome is not None
        assert b"cancelled" not in outcome.reply


def test_what_was_cancelled_while_no_worker_was_there_is_answered_by_the_next_one(broker_url, tmp_path):
    name = f"t{new_id()[-10:]}"
    with running_worker(broker_url, name, tmp_path / "store"):
        pass  # queues exist from here on
    with kaasq.Client(broker_url, pool=name, store=tmp_path / "store") as client:
        future = client.submit(saxpy(N), x=X, y=X)
        client.cancel(future.request_id)
        with running_worker(broker_url, name, tmp_path / "store"):
            cancelled(future)
