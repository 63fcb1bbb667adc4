"""Workflows from their clients to real workers on a real RabbitMQ: run, started by one and awaited by another."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq import Stored, Workflow
from kaasq.flows.model import ENDED
from kaasq.ids import new_id
from kaasq_producers.flows.run import Run
from real_broker import Broker
from tests.support.connections import close_connections
from tests.support.graphs import saxpy, sum_of_squares
from tests.support.workers import running_worker

N = 16
SAXPY = saxpy(N)
ONES = np.ones(N, np.float32)
TILES = [np.full(N, index, np.float32) for index in range(6)]
TIMEOUT_S = 60.0

SLOW = kaasq.Module.from_source(r"""
extern "C" __global__ void slow(const float* x, float* out, int n)
{ volatile int spin = 0; while (spin < 30000000) spin = spin + 1; for (int i = 0; i < n; i++) out[i] = x[i]; }
""")


def slow() -> kaasq.Graph:
    """Takes some tenths of a second."""
    graph = kaasq.Graph("slow")
    x, out = graph.input("x", shape=N, dtype="float32", const=True), graph.output("out", shape=N, dtype="float32")
    graph.launch(SLOW.kernel("slow"), grid=1, block=1, args=[x, out, np.int32(N)])
    return graph


class Pool:
    """A pool with one worker, and clients of it."""

    def __init__(self, url: str, name: str, store: Path) -> None:
        self.url, self.name, self.store = url, name, store

    def client(self) -> kaasq.Client:
        return kaasq.Client(self.url, pool=self.name, store=self.store, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def pool(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    store = tmp_path_factory.mktemp("flows") / "store"
    name = f"t{new_id()[-10:]}"
    with running_worker(broker_url, name, store):
        yield Pool(broker_url, name, store)


@pytest.fixture(scope="module")
def client(pool: Pool) -> Iterator[kaasq.Client]:
    with pool.client() as client:
        yield client


def begun(run: Run) -> bool:
    try:
        return run.status().steps[0].since_ms is not None
    except kaasq.NameNotFound:
        return False


def until(condition) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tiles(name: str = "tiles", graph: kaasq.Graph = SAXPY) -> Workflow:
    """A list scaled twice, item by item, and what the last ones give together."""
    flow = Workflow(name)
    listed = flow.inputs("tiles", shape=N, dtype="float32")
    first = flow.map("first", graph, x=listed.each, **({"y": ONES} if graph is SAXPY else {}))
    second = flow.map("second", SAXPY, x=first["out"].each, y=listed.each, a=flow.item)
    join = flow.step("join", sum_of_squares(64 * N), x=second["out"])
    flow.output("sum", join["out"])
    flow.output("scaled", second["out"])
    return flow


def test_a_workflow_runs_item_by_item_and_joins(client: kaasq.Client) -> None:
    result = client.run(tiles(), tiles=TILES)
    expected = np.stack([index * (2 * each + 1) + each for index, each in enumerate(TILES)])
    np.testing.assert_array_equal(result["scaled"], expected)
    np.testing.assert_allclose(result["sum"], [np.sum(expected**2)], rtol=1e-5)
    assert {name: (each.state, each.completed) for name, each in result.steps.items()} == {
        "first": ("completed", 6),
        "second": ("completed", 6),
        "join": ("completed", 1),
    }


def test_large_inputs_and_outputs_of_items_go_through_the_store(client: kaasq.Client) -> None:
    n = 100_000
    flow = Workflow("large")
    listed = flow.inputs("tiles", shape=n, dtype="float32")
    flow.map("scale", saxpy(n), x=listed.each, y=listed.each)
    given = np.arange(3 * n, dtype=np.float32).reshape(3, n)
    result = client.run(flow, tiles=given)
    assert set(result.refs) == {"scale.out"}
    np.testing.assert_array_equal(result["scale.out"], 3 * given)


def test_small_inputs_of_items_that_do_not_fit_the_message_are_taken_from_the_store(client: kaasq.Client) -> None:
    n, count = 1000, 40  # 156 KiB
    flow = Workflow("packed")
    listed = flow.inputs("tiles", shape=n, dtype="float32")
    flow.map("scale", saxpy(n), x=listed.each, y=listed.each)
    flow.step("all", saxpy(n * count), x=listed, y=listed)
    given = np.arange(count * n, dtype=np.float32).reshape(count, n)
    result = client.run(flow, tiles=given)
    np.testing.assert_array_equal(result["scale.out"], 3 * given)
    np.testing.assert_array_equal(result["all.out"], 3 * given.ravel())


def test_a_workflow_inside_another_runs_on_what_that_one_has(client: kaasq.Client) -> None:
    flow = Workflow("outer")
    made = flow.map("made", SAXPY, count=4, x=ONES, y=ONES, a=flow.item)
    sub = flow.step("sub", tiles(), tiles=made["out"])
    flow.output("sum", sub["sum"])
    items = np.stack([(index + 1) * ONES for index in range(4)])
    expected = np.stack([index * (2 * each + 1) + each for index, each in enumerate(items)])
    np.testing.assert_allclose(client.run(flow)["sum"], [np.sum(expected**2)], rtol=1e-5)


def test_items_that_fail_are_borne_or_the_workflow_s_error(client: kaasq.Client) -> None:
    flow = Workflow("careful")
    listed = flow.inputs("tiles", shape=N, dtype="float32")
    flow.map("ok", SAXPY, x=listed.each, y=ONES)
    lost = flow.step("lost", SAXPY, x=Stored(name="no/such"), y=ONES)
    flow.step("bears", SAXPY, x=lost["out"], y=ONES, tolerate=True)
    result = client.run(flow, tiles=TILES)
    np.testing.assert_array_equal(result["bears.out"], ONES)
    assert result.steps["lost"].state == "failed"
    flow.step("does-not", SAXPY, x=lost["out"], y=ONES)
    flow.step("mends", SAXPY, x=ONES, y=ONES, on="failed", after=lost, keep={"out": "mended"})
    with pytest.raises(kaasq.BufferMissing, match=r"^step 'lost': buffer 'x' is bound to name 'no/such'") as caught:
        client.run(flow, tiles=TILES)
    assert caught.value.step == "lost"
    assert {each.name: each.state for each in caught.value.flow.steps} == {
        "ok": "completed",
        "lost": "failed",
        "bears": "completed",
        "does-not": "failed",
        "mends": "completed",
    }
    np.testing.assert_array_equal(client.get("mended"), 3 * ONES)


def test_a_condition_skips_a_step_and_what_takes_of_it(client: kaasq.Client) -> None:
    flow = Workflow("conditions")
    first = flow.step("first", sum_of_squares(N), x=ONES)
    more = flow.step("more", SAXPY, x=ONES, y=ONES, when=first["out"] > N)
    flow.step("after", SAXPY, x=more["out"], y=ONES)
    flow.step("less", SAXPY, x=ONES, y=ONES, a=first["out"], when=first["out"] <= N)
    flow.output("first", first["out"])
    states = {name: each.state for name, each in client.run(flow).steps.items()}
    assert states == {"first": "completed", "more": "skipped", "after": "skipped", "less": "completed"}


def test_a_workflow_goes_on_without_who_started_it_and_anybody_waits_for_it(pool: Pool, client: kaasq.Client) -> None:
    with pool.client() as starter:
        run = starter.start(tiles(graph=slow()), tiles=TILES[:3], keep={"sum": "sums/1"})
    attached = client.attach(run.id)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        results = [each.result() for each in [threads.submit(attached.wait, TIMEOUT_S) for _ in range(3)]]
    assert len({each["sum"].item() for each in results}) == 1
    assert client.get("sums/1").item() == results[0]["sum"].item()
    assert attached.wait()["sum"].item() == results[0]["sum"].item()  # long after its end, too
    status = attached.status(items=True)
    assert status.state == "completed"
    assert [each.state for each in status.items] == ["completed"] * 7
    assert all(each.timings is not None and each.worker is not None for each in status.items)


def test_a_start_under_an_id_is_repeated_as_often_as_one_likes(client: kaasq.Client) -> None:
    flow_id = f"nightly-{new_id()}"
    runs = [client.start(tiles(), tiles=TILES, id=flow_id) for _ in range(3)]
    assert {each.wait(TIMEOUT_S).id for each in runs} == {flow_id}
    assert max(each.number for each in runs[0].status(items=True).items) == 13  # each step was due once
    with pytest.raises(kaasq.Conflict):
        client.start(tiles(), tiles=TILES[:1], id=flow_id)


def test_cancelling_ends_a_workflow_for_all_who_wait(client: kaasq.Client) -> None:
    run = client.start(tiles(graph=slow()), tiles=TILES * 8)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(run.wait)
        run.cancel()
        with pytest.raises(kaasq.Cancelled) as caught:
            waiting.result(TIMEOUT_S)
    assert caught.value.flow.state == "cancelled"
    assert run.status().state == "cancelled"


def test_a_future_s_cancelling_cancels_the_workflow(client: kaasq.Client) -> None:
    future = client.submit(tiles(graph=slow()), tiles=TILES * 8)
    assert future.request_id is not None
    run = client.attach(future.request_id)
    until(lambda: begun(run))
    assert future.cancel()
    until(lambda: run.status().state in ENDED)
    assert run.status().state == "cancelled"


def test_the_time_of_a_workflow_is_for_all_of_its_steps(client: kaasq.Client) -> None:
    with pytest.raises(kaasq.DeadlineExceeded) as caught:
        client.run(tiles(graph=slow()), tiles=TILES * 8, timeout=0.5)
    assert caught.value.flow.state == "expired"


def test_who_waits_without_end_is_told_although_all_connections_were_lost(own_rabbit: Broker, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with running_worker(own_rabbit.url, "p", store), kaasq.Client(own_rabbit.url, pool="p", store=store) as client:
        run = client.start(tiles(graph=slow()), tiles=TILES * 2)
        with concurrent.futures.ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(run.wait)
            until(lambda: run.status().steps[0].completed)
            close_connections(own_rabbit)
            assert waiting.result(TIMEOUT_S)["scaled"].shape == (12, N)
        assert max(each.number for each in run.status(items=True).items) == 25  # each step was due once


def test_the_end_of_a_workflow_is_an_event(client: kaasq.Client) -> None:
    name = f"told-{new_id()[-8:]}"
    with client.events(f"{name}.*") as events:
        result = client.run(tiles(name), tiles=TILES)
        event = next(iter(events))
        assert (event.graph, event.word, event.request_id) == (name, "completed", result.id)


def test_event_loops_run_start_and_wait_for_workflows(pool: Pool) -> None:
    async def main() -> None:
        async with kaasq.AsyncClient(pool.url, pool=pool.name, store=pool.store, timeout=TIMEOUT_S) as client:
            results = await asyncio.gather(*(client.run(tiles(), tiles=TILES[: 1 + i]) for i in range(4)))
            assert [each["scaled"].shape for each in results] == [(1 + i, N) for i in range(4)]
            run = await client.start(tiles(graph=slow()), tiles=TILES[:2])
            assert (await run.wait()).steps["second"].completed == 2
            assert (await client.attach(run.id).status()).state == "completed"
            task = asyncio.ensure_future(client.run(tiles(graph=slow()), tiles=TILES * 8, timeout=TIMEOUT_S))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())


def test_the_command_starts_shows_and_awaits_workflows(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "tiles.json").write_bytes(tiles().to_json())
    np.save(tmp_path / "tiles.npy", np.stack(TILES))

    def command(*arguments: str) -> str:
        where = ("--broker", pool.url, "--pool", pool.name)
        program = [sys.executable, "-m", "kaasq", "flow", *arguments, *where]
        ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    store = ("--store", str(pool.store))
    flow_id = command("start", "tiles.json", "--input", "tiles=tiles.npy", *store).strip()
    assert "6/6" in command("show", flow_id, "--watch", "--svg", "flow.svg", "--trace", "flow.json")
    assert (tmp_path / "flow.svg").read_text().startswith("<svg")
    assert json.loads((tmp_path / "flow.json").read_text())["otherData"]["state"] == "completed"
    command("wait", flow_id, "--output", "scaled=out.npy", *store)
    assert np.load(tmp_path / "out.npy").shape == (6, N)
    assert flow_id in command("ls", "--state", "completed")
    assert command("cancel", flow_id) == f"workflow {flow_id} has ended already: completed\n"
