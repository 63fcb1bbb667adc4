"""An executor for each tenant: apart in memory and failure, started when needed, stopped when idle, used in turns."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import kaasq
from tests.support.graphs import CRASH, ENDLESS, only_output, saxpy
from tests.support.tenants import SECRETS, pry, secret_address, tenants

X = np.arange(1000, dtype=np.float32)
SECRET = np.random.default_rng(7).integers(1 << 20, 1 << 31, SECRETS, dtype=np.uint32)


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pid(client: kaasq.Client) -> int:
    result = client.run(saxpy(1000), x=X, y=X, timeout=60)
    np.testing.assert_array_equal(result["out"], 3 * X)
    return result.worker.pid


def test_tenants_share_an_executor_unless_told_otherwise(device, tmp_path):
    with tenants(device, tmp_path, "ann", "bob") as (ann, bob):
        assert pid(ann) == pid(bob)


def test_a_stray_pointer_reads_another_tenants_data_where_they_share_an_executor(device, tmp_path):
    with tenants(device, tmp_path, "ann", "bob") as (ann, bob):
        np.testing.assert_array_equal(pry(bob, secret_address(ann, SECRET)), SECRET)


def test_a_stray_pointer_reads_nothing_of_another_tenants_where_each_has_its_own(device, tmp_path):
    with tenants(device, tmp_path, "ann", "bob", isolation="tenant") as (ann, bob):
        before = pid(ann)
        address = secret_address(ann, SECRET)
        found = np.zeros(1, np.uint32)
        with suppress(kaasq.KernelFailed):
            found = pry(bob, address)
        assert not np.isin(found, SECRET).any()
        assert pid(bob) != before
        assert secret_address(ann, SECRET) == address
        assert pid(ann) == before


def test_what_one_tenants_kernels_do_costs_only_its_own_executor(device, tmp_path):
    with tenants(device, tmp_path, "ann", "bob", isolation="tenant") as (ann, bob):
        before = pid(ann)
        bad = [
            bob.submit(only_output(CRASH, "crash"), timeout=60),
            bob.submit(only_output(ENDLESS, "endless"), timeout=60),
        ]
        good = [ann.submit(saxpy(1000), x=X, y=X, a=float(i), timeout=60) for i in range(100)]
        pids = set()
        for i, each in enumerate(good):
            result = each.result(60)
            np.testing.assert_array_equal(result["out"], i * X + X)
            pids.add(result.worker.pid)
        assert pids == {before}
        with pytest.raises(kaasq.KernelFailed):
            bad[0].result(60)
        bob.cancel(bad[1].request_id)
        with pytest.raises(kaasq.Cancelled):
            bad[1].result(60)
        assert pid(bob) != before
        assert pid(ann) == before


def test_a_cancellation_reaches_the_tenants_own_executor(device, tmp_path):
    with tenants(device, tmp_path, "ann", "bob", isolation="tenant") as (ann, bob):
        other = pid(bob)
        stuck = ann.submit(only_output(ENDLESS, "endless"), timeout=60)
        pid(bob)
        ann.cancel(stuck.request_id)
        with pytest.raises(kaasq.Cancelled):
            stuck.result(30)
        assert pid(bob) == other
        assert pid(ann) != other


def test_a_cancellation_while_nobody_has_an_executor_holds(device, tmp_path):
    with tenants(device, tmp_path, "ann", isolation="tenant", isolation_idle=0.3) as (ann,):
        gone(pid(ann))
        future = ann.submit(saxpy(1000), x=X, y=X)
        ann.cancel(future.request_id)
        with suppress(kaasq.Cancelled):
            future.result(30)
        assert pid(ann)


def test_an_idle_executor_is_stopped_and_another_one_started_when_needed(device, tmp_path):
    with tenants(device, tmp_path, "ann", isolation="tenant", isolation_idle=0.3) as (ann,):
        first = pid(ann)
        gone(first)
        assert pid(ann) != first


def test_more_tenants_than_executors_are_all_served(device, tmp_path):
    names = [f"t{i}" for i in range(3)]
    settings = {"isolation": "tenant", "isolation_executors": 2, "isolation_turn": 0.2}
    with tenants(device, tmp_path, *names, **settings) as clients:
        futures = [
            (i, client.submit(saxpy(1000), x=X, y=X, a=float(i), timeout=60)) for i in range(5) for client in clients
        ]
        for i, each in futures:
            np.testing.assert_array_equal(each.result(60)["out"], i * X + X)


def test_who_keeps_every_executor_busy_makes_room_when_its_turn_is_over(device, tmp_path):
    settings = {"isolation": "tenant", "isolation_executors": 1, "isolation_turn": 0.2}
    with tenants(device, tmp_path, "greedy", "other", **settings) as (greedy, other):
        asked: list[object] = []
        enough = time.monotonic() + 60

        def again(_future: object) -> None:
            if not asked and time.monotonic() < enough:
                greedy.submit(saxpy(1000), x=X, y=X).add_done_callback(again)

        for _ in range(8):
            again(None)
        assert pid(other)
        asked.append(True)
        assert time.monotonic() < enough


@pytest.mark.parametrize("device_memory", [1 << 30, 0])
def test_each_executor_has_its_part_of_the_devices_memory(device, tmp_path, device_memory):
    shared = {"isolation": "shared", "device_memory": device_memory}
    apart = {"isolation": "tenant", "isolation_executors": 4, "device_memory": device_memory}
    with tenants(device, tmp_path / "shared", "ann", **shared) as (ann,):
        whole = capacity(ann)
    with tenants(device, tmp_path / "apart", "ann", "bob", **apart) as (ann, bob):
        parts = {capacity(ann), capacity(bob)}  # whoever comes later finds less, and is told
    assert len(parts) == 1
    part = parts.pop()
    assert part == whole // 4 if device_memory else whole // 5 < part <= whole // 4


def capacity(client: kaasq.Client) -> int:
    """What an executor may use of the device, as it says when it does not suffice."""
    graph = kaasq.Graph("test.huge")
    huge = graph.temp("huge", nbytes=1 << 40)
    out = graph.output("out", nbytes=64)
    source = 'extern "C" __global__ void k(char* huge, char* out) { out[0] = huge[0]; }'
    graph.launch(kaasq.Module.from_source(source).kernel("k"), grid=1, block=1, args=[huge, out])
    with pytest.raises(kaasq.OutOfMemory) as caught:
        client.run(graph, timeout=60)
    return int(caught.value.capacity)


def gone(process: int) -> None:
    """Wait until that process has ended."""
    deadline = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(process, 0)
            time.sleep(0.02)
    assert not Path(f"/proc/{process}").exists()
