"""The process that stands by: it becomes the next executor, and never outlives its worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import kaasq
from tests.support.graphs import saxpy
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

X = np.arange(1000, dtype=np.float32)


def executors(worker: RunningWorker) -> set[int]:
    """The executor processes that the worker has, spares included."""
    children = Path(f"/proc/{worker.process.pid}/task").glob("*/children")
    return {int(pid) for each in children for pid in each.read_text().split()}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("kind", ["imported", "opened"])
def test_the_spare_becomes_the_next_executor(broker_url, pool, tmp_path, kind):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store, "--spare", kind) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        first = client.run(saxpy(1000), x=X, y=X).worker.pid
        until(lambda: len(executors(worker)) == 2)
        (spare,) = executors(worker) - {first}
        os.kill(first, signal.SIGKILL)
        assert client.run(saxpy(1000), x=X, y=X).worker.pid == spare
        until(lambda: len(executors(worker)) == 2)  # there is another one


def test_a_spare_that_died_is_not_missed(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store) as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        first = client.run(saxpy(1000), x=X, y=X).worker.pid
        until(lambda: len(executors(worker)) == 2)
        (spare,) = executors(worker) - {first}
        for each in (spare, first):
            os.kill(each, signal.SIGKILL)
        assert client.run(saxpy(1000), x=X, y=X).worker.pid not in {spare, first}


@pytest.mark.parametrize("kind", ["imported", "opened"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_no_process_outlives_a_worker_that_is_killed_or_told_to_stop(broker_url, pool, tmp_path, kind, how):
    with running_worker(broker_url, pool, tmp_path / "store", "--spare", kind) as worker:
        until(lambda: len(executors(worker)) == 2)
        children = executors(worker)
        if how == "kill":
            worker.process.kill()
        else:
            assert worker.stop() == 0
        until(lambda: all(gone(each) for each in children))


def test_without_a_spare_there_is_one_executor(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store, "--spare", "none") as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        first = client.run(saxpy(1000), x=X, y=X).worker.pid
        os.kill(first, signal.SIGKILL)
        second = client.run(saxpy(1000), x=X, y=X).worker.pid
        assert executors(worker) == {second}
