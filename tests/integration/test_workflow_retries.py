"""How often a step is run again: its own failures count, the deaths of processes that it did not cause do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kaasq.flows.model import FlowReply, FlowSpec, FlowStep, From
from kaasq.model import GraphSpec
from kaasq.rabbit.broker import RabbitBroker
from kaasq_storage import open_store
from tests.support.graphs import held, only_output
from tests.support.raw_flows import RawFlows
from tests.support.waiting import until
from tests.support.workers import RunningWorker, running_worker

TENANT = "guest"

COUNTED = r"""
extern "C" int mkdir(const char* path, unsigned mode);
extern "C" int kill(int, int);
extern "C" int getppid();
extern "C" __global__ void counted(int* out)
{ char path[] = "FOLDER/run-a"; while (mkdir(path, 0700) != 0) path[sizeof(path) - 2]++; END }
"""
CRASHES = "*(volatile int*)8 = 1; out[0] = 1;"
KILLS_ITS_WORKER = "kill(getppid(), 9); while (out[0] == 0) out[1] = out[1] + 1;"


def counted(folder: Path, end: str) -> GraphSpec:
    """Leaves a folder each time that it runs, and ends so."""
    return only_output(COUNTED.replace("FOLDER", str(folder)).replace("END", end), "counted").freeze()


def spec(graph: GraphSpec, retries: int) -> FlowSpec:
    return FlowSpec(
        name="test.retries",
        graphs={"g": graph},
        steps=(FlowStep(name="s", graph="g", retries=retries, keep={"out": "kept"}),),
        outputs={"out": From(step="s", output="out")},
    )


def attempts(raw: RawFlows, flow: str) -> list[int]:
    status = raw.ask(flow, "status", items=True).flow
    assert status is not None
    return [each.attempt for each in status.items]


def runs(folder: Path) -> int:
    return len(list(folder.glob("run-*")))


def failed(reply: FlowReply) -> dict[str, Any]:
    """What is known of the executors or workers that the step killed."""
    assert reply.error is not None
    assert reply.error.code == "kernel_failed"
    return {key: value for key, value in reply.error.detail.items() if key in {"kills", "attempts"}}


def test_workers_that_are_killed_under_a_step_cost_it_no_attempt(broker_url: str, pool: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with RawFlows(RabbitBroker(broker_url), pool) as raw:
        worker = RunningWorker(broker_url, pool, store)
        try:
            worker.wait_for("worker.started")
            flow = raw.start(spec(held(tmp_path).freeze(), retries=0))
            for _ in range(2):
                until((tmp_path / "begun").exists, 60.0)
                (tmp_path / "begun").rmdir()
                worker.process.kill()
                worker.stop()
                worker = RunningWorker(broker_url, pool, store)
            until((tmp_path / "begun").exists, 60.0)
            (tmp_path / "end").touch()
            reply = raw.reply(flow)
            assert (reply.status, reply.error) == ("ok", None)
            assert attempts(raw, flow) == [1]
        finally:
            worker.stop()
    with open_store(store, sync=False) as opened:
        assert [each.version for each in opened.names(TENANT)] == [1]


def test_a_step_that_crashes_its_executor_has_its_attempts_and_no_more(
    broker_url: str, pool: str, tmp_path: Path
) -> None:
    with (
        running_worker(broker_url, pool, tmp_path / "store"),
        RawFlows(RabbitBroker(broker_url), pool) as raw,
    ):
        flow = raw.start(spec(counted(tmp_path, CRASHES), retries=1))
        assert failed(raw.reply(flow)) == {"kills": 2}
        assert attempts(raw, flow) == [2]
        assert runs(tmp_path) == 2 * 2  # an executor has to die twice of it until it is blamed


def test_a_step_that_takes_its_worker_along_has_its_attempts_and_no_more(
    broker_url: str, pool: str, tmp_path: Path
) -> None:
    store, most = tmp_path / "store", 1
    flags = ("--most-attempts", str(most))
    with RawFlows(RabbitBroker(broker_url), pool) as raw:
        worker = RunningWorker(broker_url, pool, store, *flags)
        dead = 0

        def look() -> None:
            nonlocal worker, dead
            if worker.process.poll() is not None:
                dead += 1
                worker.stop()
                worker = RunningWorker(broker_url, pool, store, *flags)

        try:
            worker.wait_for("worker.started")
            flow = raw.start(spec(counted(tmp_path, KILLS_ITS_WORKER), retries=1))
            assert failed(raw.reply(flow, look)) == {"attempts": most}
            assert attempts(raw, flow) == [2]
            assert runs(tmp_path) == dead
            assert 2 * most < dead <= 2 * (1 + most)  # the first delivery of an attempt may not be counted
        finally:
            worker.stop()
