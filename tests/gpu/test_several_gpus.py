"""A worker for each GPU of a host that has several: one pool, one store, and what runs where."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

import kaasq
from kaasq.ids import new_id
from kaasq_workers.devices.gpus import count_gpus
from tests.support.graphs import saxpy
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

pytestmark = pytest.mark.gpu(2)

N = 1000
X = np.arange(N, dtype=np.float32)
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


class Host(NamedTuple):
    worker: RunningWorker
    client: kaasq.Client
    devices: set[str]

    def busy(self, for_each: int = 8) -> set[str]:
        """The devices on which so many requests at once for each of them ran."""
        asked = [self.client.submit(waiting(5), x=X) for _ in range(for_each * len(self.devices))]
        results = [each.result() for each in asked]
        for result in results:
            np.testing.assert_array_equal(result["out"], X + 1)
        return {result.worker.device for result in results}

    @property
    def some(self) -> range:
        """So many times something is asked for at once, if each device is to have some of it."""
        return range(8 * len(self.devices))


@pytest.fixture(scope="module")
def host(broker_url, tmp_path_factory) -> Iterator[Host]:
    """``kaasq worker --device all`` and a client; all devices have run the graphs once."""
    folder, pool = tmp_path_factory.mktemp("gpus"), f"t{new_id()[-10:]}"
    with (
        running_worker(broker_url, pool, folder / "store", device="all") as worker,
        kaasq.Client(broker_url, pool=pool, store=folder / "store", timeout=120) as client,
    ):
        host = Host(worker, client, {f"cuda:{i}" for i in range(count_gpus())})
        worker.wait_for("worker.started", count=len(host.devices))
        until(lambda: host.busy() == host.devices, 120)
        yield host


def test_requests_spread_over_all(host: Host) -> None:
    assert host.busy(32) == host.devices


def test_what_is_in_the_store_serves_all_and_each_caches_it(host: Host) -> None:
    stored = host.client.put(X)
    hits: dict[str, int] = {}

    def cached_on_all() -> bool:
        for each in [host.client.submit(waiting(5), x=stored) for _ in host.some]:
            result = each.result()
            np.testing.assert_array_equal(result["out"], X + 1)
            hits[result.worker.device] = max(hits.get(result.worker.device, 0), result.cache.hits)
        return hits.keys() == host.devices and min(hits.values()) >= 2  # the plan and the input

    until(cached_on_all, 60)


def test_what_one_device_kept_the_others_read(host: Host) -> None:
    client = host.client
    kept: dict[str, str] = {}
    read: set[tuple[str, str]] = set()

    def kept_by_all() -> bool:
        names = [f"kept/{new_id()}" for _ in host.some]
        asked = [client.submit(waiting(5), x=X, keep={"out": name}) for name in names]
        kept.update({each.result().worker.device: name for name, each in zip(names, asked, strict=True)})
        return kept.keys() == host.devices

    def read_by_all() -> bool:
        for name in kept.values():
            for each in [client.submit(waiting(5), x=kaasq.Stored(name=name)) for _ in host.some]:
                np.testing.assert_array_equal(each.result()["out"], X + 2)
                read.add((name, each.result().worker.device))
        return read == {(name, device) for name in kept.values() for device in host.devices}

    until(kept_by_all, 60)
    until(read_by_all, 60)


def test_a_chain_stays_where_it_began(host: Host) -> None:
    last = kaasq.Then(waiting(1), x=kaasq.Output("out"), name="last")
    then = kaasq.Then(waiting(1), x=kaasq.Output("out"), name="next", then=last)
    for _ in range(8):
        result = host.client.run(waiting(1), x=X, then=then)
        last_one = result.then["last"].result()
        np.testing.assert_array_equal(last_one["out"], X + 3)
        assert last_one.worker == result.worker


def test_a_map_spreads_over_all_and_is_joined(host: Host) -> None:
    rows, count = kaasq.Graph("test.sum"), 16 * len(host.devices)
    listed = rows.input("rows", shape=(count, N), dtype="float32", const=True)
    rows.call("reduce", listed, rows.output("sum", shape=(N,), dtype="float32"), op="sum", axes=[0])
    flow = kaasq.Workflow("spread")
    given = flow.inputs("xs", shape=N, dtype="float32")
    first = flow.map("first", waiting(5), x=given.each)
    second = flow.map("second", waiting(5), x=first["out"].each)
    flow.output("sum", flow.step("join", rows, rows=second["out"])["sum"])
    run = host.client.start(flow, xs=[X] * count)
    np.testing.assert_allclose(run.wait()["sum"], count * (X + 2), rtol=1e-6)
    ran = [each for each in run.status(items=True).items if each.worker is not None]
    assert len(ran) == 2 * count + 1
    assert {each.worker.device for each in ran if each.worker is not None} == host.devices


def test_while_one_executor_is_away_the_others_serve(host: Host) -> None:
    asked = [host.client.submit(waiting(20), x=X) for _ in range(32)]
    victim = asked[0].result().worker
    os.kill(victim.pid, signal.SIGKILL)
    for each in asked:
        np.testing.assert_array_equal(each.result()["out"], X + 1)
    until(lambda: host.busy() == host.devices, 60)


def test_a_worker_for_the_second_alone_uses_the_second(host: Host, broker_url, tmp_path) -> None:
    pool = f"t{new_id()[-10:]}"
    with (
        running_worker(broker_url, pool, tmp_path / "store", device="cuda:1"),
        kaasq.Client(broker_url, pool=pool, store=tmp_path / "store", timeout=120) as client,
    ):
        result = client.run(saxpy(N), x=X, y=X, a=2.0)
        assert result.worker.device == "cuda:1"
        np.testing.assert_array_equal(result["out"], 3 * X)
