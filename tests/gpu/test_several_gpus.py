"""A worker for each of two GPUs: one pool, one store, and what runs where."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

import kaasq
from kaasq.ids import new_id
from tests.support.graphs import saxpy
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

pytestmark = pytest.mark.gpu(2)

N = 1000
X = np.arange(N, dtype=np.float32)
TWO = {"cuda:0", "cuda:1"}
WAIT = r"""
extern "C" __global__ void wait_and_add(const float* x, float* out, unsigned long long ns, int n)
{
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - start < ns);
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = x[i] + 1;
}
"""


def waiting(ms: float, blocks: int = 1024) -> kaasq.Graph:
    """Adds one and takes so long; as many blocks as fill a device, so that one has no room for a second of them."""
    graph = kaasq.Graph("test.wait")
    x, out = graph.input("x", shape=N, dtype="float32", const=True), graph.output("out", shape=N, dtype="float32")
    kernel = kaasq.Module.from_source(WAIT).kernel("wait_and_add")
    graph.launch(kernel, grid=blocks, block=1024, args=[x, out, np.uint64(ms * 1e6), np.int32(N)])
    return graph


class Both(NamedTuple):
    worker: RunningWorker
    client: kaasq.Client


@pytest.fixture(scope="module")
def both(broker_url, tmp_path_factory) -> Iterator[Both]:
    """``kaasq worker --device all`` and a client; both devices have run the graphs once."""
    folder, pool = tmp_path_factory.mktemp("gpus"), f"t{new_id()[-10:]}"
    with (
        running_worker(broker_url, pool, folder / "store", device="all") as worker,
        kaasq.Client(broker_url, pool=pool, store=folder / "store", timeout=120) as client,
    ):
        worker.wait_for("worker.started", count=2)
        until(lambda: busy(client) == TWO, 120)
        yield Both(worker, client)


def busy(client: kaasq.Client, count: int = 16) -> set[str]:
    """The devices on which so many requests at once ran."""
    asked = [client.submit(waiting(5), x=X) for _ in range(count)]
    results = [each.result() for each in asked]
    for each in results:
        np.testing.assert_array_equal(each["out"], X + 1)
    return {each.worker.device for each in results}


def test_requests_spread_over_both(both: Both) -> None:
    assert busy(both.client, 64) == TWO


def test_what_is_in_the_store_serves_both_and_each_caches_it(both: Both) -> None:
    stored = both.client.put(X)
    hits: dict[str, int] = {}

    def cached_on_both() -> bool:
        for each in [both.client.submit(waiting(5), x=stored) for _ in range(16)]:
            result = each.result()
            np.testing.assert_array_equal(result["out"], X + 1)
            hits[result.worker.device] = max(hits.get(result.worker.device, 0), result.cache.hits)
        return hits.keys() == TWO and min(hits.values()) >= 2  # the plan and the input

    until(cached_on_both, 60)


def test_what_one_device_kept_the_other_reads(both: Both) -> None:
    client = both.client
    kept: dict[str, str] = {}
    read: set[tuple[str, str]] = set()

    def kept_by_both() -> bool:
        names = [f"kept/{new_id()}" for _ in range(16)]
        asked = [client.submit(waiting(5), x=X, keep={"out": name}) for name in names]
        kept.update({each.result().worker.device: name for name, each in zip(names, asked, strict=True)})
        return kept.keys() == TWO

    def read_by_both() -> bool:
        for name in kept.values():
            for each in [client.submit(waiting(5), x=kaasq.Stored(name=name)) for _ in range(16)]:
                np.testing.assert_array_equal(each.result()["out"], X + 2)
                read.add((name, each.result().worker.device))
        return read == {(name, device) for name in kept.values() for device in TWO}

    until(kept_by_both, 60)
    until(read_by_both, 60)


def test_a_chain_stays_where_it_began(both: Both) -> None:
    last = kaasq.Then(waiting(1), x=kaasq.Output("out"), name="last")
    then = kaasq.Then(waiting(1), x=kaasq.Output("out"), name="next", then=last)
    for _ in range(8):
        result = both.client.run(waiting(1), x=X, then=then)
        last_one = result.then["last"].result()
        np.testing.assert_array_equal(last_one["out"], X + 3)
        assert last_one.worker == result.worker


def test_a_map_spreads_over_both_and_is_joined(both: Both) -> None:
    rows = kaasq.Graph("test.sum")
    listed = rows.input("rows", shape=(32, N), dtype="float32", const=True)
    rows.call("reduce", listed, rows.output("sum", shape=(N,), dtype="float32"), op="sum", axes=[0])
    flow = kaasq.Workflow("spread")
    given = flow.inputs("xs", shape=N, dtype="float32")
    first = flow.map("first", waiting(5), x=given.each)
    second = flow.map("second", waiting(5), x=first["out"].each)
    flow.output("sum", flow.step("join", rows, rows=second["out"])["sum"])
    run = both.client.start(flow, xs=[X] * 32)
    np.testing.assert_allclose(run.wait()["sum"], 32 * (X + 2), rtol=1e-6)
    ran = [each for each in run.status(items=True).items if each.worker is not None]
    assert len(ran) == 2 * 32 + 1
    assert {each.worker.device for each in ran if each.worker is not None} == TWO


def test_while_one_executor_is_away_the_other_serves(both: Both) -> None:
    asked = [both.client.submit(waiting(20), x=X) for _ in range(32)]
    victim = asked[0].result().worker
    os.kill(victim.pid, signal.SIGKILL)
    for each in asked:
        np.testing.assert_array_equal(each.result()["out"], X + 1)
    until(lambda: busy(both.client) == TWO, 60)


def test_a_worker_for_the_second_alone_uses_the_second(both: Both, broker_url, tmp_path) -> None:
    pool = f"t{new_id()[-10:]}"
    with (
        running_worker(broker_url, pool, tmp_path / "store", device="cuda:1"),
        kaasq.Client(broker_url, pool=pool, store=tmp_path / "store", timeout=120) as client,
    ):
        result = client.run(saxpy(N), x=X, y=X, a=2.0)
        assert result.worker.device == "cuda:1"
        np.testing.assert_array_equal(result["out"], 3 * X)
