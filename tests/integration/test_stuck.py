"""Executors that stand still and requests without end: found in bounded time, replaced, and everybody answered."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

import kaasq
from tests.support.graphs import ENDLESS, only_output, saxpy
from tests.support.workers import running_worker

X = np.arange(1000, dtype=np.float32)
SLOW = r"""
extern "C" __global__ void slow(int* out)
{ volatile int spin = 0; for (int i = 0; i < 20000000; ++i) spin = spin + 1; out[0] = out[0] + 1; }
"""


def test_a_stopped_executor_is_replaced_idle_or_running(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    slow = only_output(SLOW, "slow")
    with (
        running_worker(broker_url, pool, store, "--executor-timeout", "2") as worker,
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        idle = client.run(slow).worker.pid
        os.kill(idle, signal.SIGSTOP)
        assert client.run(saxpy(1000), x=X, y=X)["out"][3] == 9
        running = worker.wait_for("executor.ready", count=2)["pid"]
        slow.iterations = 50
        future = client.submit(slow)
        time.sleep(0.3)  # it is running
        os.kill(running, signal.SIGSTOP)
        assert future.result(30)["out"].view(np.int32)[0] == 50
        worker.wait_for("executor.stuck", count=2)


def test_a_request_that_outlasts_the_workers_longest_run_is_stopped(broker_url, pool, tmp_path):
    store = tmp_path / "store"
    with (
        running_worker(broker_url, pool, store, "--longest-run", "1"),
        kaasq.Client(broker_url, pool=pool, store=store) as client,
    ):
        with pytest.raises(kaasq.DeadlineExceeded, match="longest_run"):
            client.run(only_output(ENDLESS, "endless"), timeout=50)
        assert client.run(saxpy(1000), x=X, y=X)["out"][3] == 9
