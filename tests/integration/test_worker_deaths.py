"""Requests that take their whole worker along, as one does for which a container runs out of memory."""

from __future__ import annotations

import pytest

import kaasq
from kaasq_storage import open_store
from tests.support.graphs import only_output
from tests.support.workers import RunningWorker, running_worker

KILLS_ITS_WORKER = r"""
extern "C" int kill(int, int);
extern "C" int getppid();
extern "C" __global__ void kills(int* out) { kill(getppid(), 9); while (out[0] == 0) out[1] = out[1] + 1; }
"""
MOST_ATTEMPTS = 1


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_a_request_that_kills_every_worker_is_given_up_with_what_is_known(broker_url, pool, tmp_path, queue_type):
    store = tmp_path / "store"
    flags = ("--queue-type", queue_type, "--most-attempts", str(MOST_ATTEMPTS))
    with running_worker(broker_url, pool, store, *flags):
        pass  # the queues exist
    with kaasq.Client(broker_url, pool=pool, store=store) as client:
        future = client.submit(only_output(KILLS_ITS_WORKER, "kills"), timeout=100)
        for _ in range(1 + MOST_ATTEMPTS):  # the first time without a claim
            worker = RunningWorker(broker_url, pool, store, *flags)
            assert worker.process.wait(60) == -9
            worker.stop()
        with running_worker(broker_url, pool, store, *flags):
            with pytest.raises(kaasq.KernelFailed) as caught:
                future.result(60)
            assert caught.value.attempts == MOST_ATTEMPTS
            assert caught.value.worker.endswith("/cpu")
        with open_store(store) as opened:
            assert opened.outcome(client.tenant, future.request_id) is not None
