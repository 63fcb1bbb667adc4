"""Workflows on a real RabbitMQ whose workers die at every step's boundaries: they end, and each step happens once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq import codec
from kaasq.flows.model import Asked, FlowCall, FlowReply, FlowSpec, FlowStep, From, MapSpec
from kaasq.rabbit.broker import RabbitBroker
from kaasq_faults.deaths import Deaths
from kaasq_storage import open_store
from real_broker import Broker
from tests.support.flow_system import XS, N, X, wrong
from tests.support.graphs import held, saxpy, sum_of_squares
from tests.support.raw_flows import RawFlows
from tests.support.workers import RunningWorker, running_worker

ITEMS = 3
TENANT = "guest"
PATIENCE_S = 100.0  # each death takes a worker that starts
GRAPHS = {"add": saxpy(N, "add").freeze(), "join": sum_of_squares(N * ITEMS).freeze(), "wrong": wrong().freeze()}


def out(step: str, *, each: bool = False) -> From:
    return From(step=step, output="out", each=each)


def add(name: str, x: From, y: From, **fields: Any) -> FlowStep:
    return FlowStep(name=name, graph="add", bind={"x": x, "y": y}, **fields)


def spec(*steps: FlowStep, **fields: Any) -> FlowSpec:
    used = {each.graph: GRAPHS[each.graph] for each in steps}
    return FlowSpec(name="test.deaths", graphs=used, steps=steps, **fields)


def fan(prefix: str) -> FlowSpec:
    """A step, a map over what it gave, a join: numbers 1, 2 to 4, 5; and 6 concludes."""
    return spec(
        add("a", From(input="x"), From(input="x"), keep={"out": f"{prefix}/a"}),
        add("m", out("a"), From(input="xs", each=True), map="m", keep={"out": f"{prefix}/m/{{item}}"}),
        FlowStep(name="j", graph="join", bind={"x": out("m")}, keep={"out": f"{prefix}/j"}),
        inputs=(X, XS),
        maps={"m": MapSpec(input="xs")},
        outputs={"j": out("j"), "m": out("m")},
    )


def undone(prefix: str) -> FlowSpec:
    """A step, one that fails, the error step: numbers 1, 2, 3; and 4 concludes."""
    return spec(
        add("a", From(input="x"), From(input="x"), keep={"out": f"{prefix}/a"}),
        FlowStep(name="b", graph="wrong", bind={"x": out("a")}),
        add("undo", From(input="x"), out("a"), on="failed", after=("b",), keep={"out": f"{prefix}/undo"}),
        inputs=(X,),
        outputs={"b": out("b")},
    )


def ones(value: float = 1.0) -> bytes:
    return np.full(N, value, np.float32).tobytes()


FAN: dict[str, Any] = {"x": ones(), "xs": tuple(ones(each) for each in range(ITEMS))}
MAPPED = [6.0 + item for item in range(ITEMS)]
KEPT = {"a": 3.0, "j": sum(N * each**2 for each in MAPPED)} | {f"m/{item}": each for item, each in enumerate(MAPPED)}


class Waiting:
    """Both workflows under way, each waited for by its start or by who asked."""

    def __init__(
        self, raw: RawFlows, prefix: str, deaths: Deaths, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        self._raw, self._prefix, self._deaths = raw, prefix, deaths
        self.fan = raw.start(fan(f"{prefix}/fan"), bind=FAN, keep={"m": f"{prefix}/all"})
        self.undone = raw.start(undone(f"{prefix}/undone"), bind={"x": ones()}, reply="started")
        began = raw.reply(self.undone, meanwhile, timeout_s=PATIENCE_S)
        assert began.status == "ok", began.error
        self._asked = raw.send(FlowCall(flow=Asked(id=self.undone, do="wait")))

    def check(self, store_path: Path, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Both end, everybody is told how, and each step happened once, on what the ones before it gave."""
        good, bad = (self._raw.reply(each, meanwhile, timeout_s=PATIENCE_S) for each in (self.fan, self._asked))
        self._deaths.never()
        assert (good.status, good.error) == ("ok", None)
        assert states(good) == ["completed"] * 3
        assert (bad.status, bad.error and bad.error.code) == ("error", "module_rejected")
        assert states(bad) == ["completed", "failed", "completed"]
        for flow, items in ((self.fan, 5), (self.undone, 3)):
            status = self._raw.ask(flow, "status", items=True).flow
            assert status is not None
            assert [each.attempt for each in status.items] == [1] * items, "a death of a process cost an attempt"
        kept = {f"{self._prefix}/fan/{name}": value for name, value in KEPT.items()}
        kept |= {f"{self._prefix}/undone/a": 3.0, f"{self._prefix}/undone/undo": 5.0}
        with open_store(store_path, sync=False) as store:
            found = {each.name: each for each in store.names(TENANT, f"{self._prefix}/")}
            assert {name: each.version for name, each in found.items()} == dict.fromkeys(
                [*kept, f"{self._prefix}/all"], 1
            )
            for name, value in kept.items():
                with store.open(TENANT, found[name].object.ref) as reading:
                    assert np.all(np.frombuffer(bytes(reading.data), np.float32) == value), name


def states(reply: FlowReply) -> list[str]:
    assert reply.flow is not None
    return [each.state for each in reply.flow.steps]


def ends_told(raw: RawFlows, ids: set[str]) -> None:
    """Each of the workflows has its event."""
    deadline = time.monotonic() + 30
    while ids:
        event = raw.events.get(timeout=max(0.1, deadline - time.monotonic())).message
        ids.discard(codec.decode_reply(event.body, codec.JSON).id)


class Workers:
    """Two of one pool. Who has died is started again by ``look``."""

    def __init__(self, url: str, pool: str, store: Path) -> None:
        self._given = (url, pool, store)
        self.ended = 0
        self._workers = [self._start(number) for number in range(2)]
        for each in self._workers:
            each.wait_for("worker.started")

    def _start(self, number: int) -> RunningWorker:
        return RunningWorker(*self._given, "--slot", f"w{number}")

    def look(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                worker.stop()
                self.ended += 1
                self._workers[number] = self._start(number)

    def stop(self) -> None:
        for each in self._workers:
            each.stop()


def test_executors_that_die_at_boundaries_of_steps_cost_and_double_nothing(
    broker_url: str, pool: str, tmp_path: Path, deaths: Deaths
) -> None:
    store = tmp_path / "store"
    with running_worker(broker_url, pool, store), RawFlows(RabbitBroker(broker_url), pool) as raw:
        deaths.at("begun 1 5", "ended 0 3", "committed 0 4 6")
        waiting = Waiting(raw, "kept", deaths)
        waiting.check(store)
        assert min(deaths.count(each) for each in ("begun", "ended", "committed")) >= 2


@pytest.mark.timeout(240)
def test_workers_that_die_at_boundaries_of_steps_cost_and_double_nothing(
    broker_url: str, pool: str, tmp_path: Path, deaths: Deaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAASQ_MOST_ATTEMPTS", "20")  # a slow one may be under way whenever a worker dies of another
    store = tmp_path / "store"
    workers = Workers(broker_url, pool, store)
    try:
        with RawFlows(RabbitBroker(broker_url), pool) as raw:
            deaths.at("sending 0.0 1.1 5.0 6.1", "sent 5", "confirmed 0 4", "acked 3 4")
            waiting = Waiting(raw, "kept", deaths, meanwhile=workers.look)
            waiting.check(store, meanwhile=workers.look)
            # Both starts at least: who goes on with what, and so is there to die, is left to chance.
            assert min(deaths.count(each) for each in ("sending", "confirmed")) >= 2
            ends_told(raw, {waiting.fan, waiting.undone})
    finally:
        deaths.never()
        workers.stop()


def test_workflows_go_on_when_the_broker_has_restarted(
    own_rabbit: Broker, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    monkeypatch.setenv("KAASQ_CHAIN_SPILL", "0")  # each step goes through the broker
    with (
        running_worker(own_rabbit.url, pool, store),
        kaasq.Client(own_rabbit.url, pool=pool, store=store, timeout=60) as client,
    ):
        inputs = {"x": np.ones(N, np.float32), "xs": [np.full(N, item, np.float32) for item in range(ITEMS)]}
        runs = [client.start(fan(f"kept/{number}"), **inputs) for number in range(6)]
        own_rabbit.restart()
        for each in runs:
            assert each.wait(60)["j"][0] == KEPT["j"]
    with open_store(store, sync=False) as opened:
        versions = {each.name: each.version for each in opened.names(TENANT, "kept/")}
    assert versions == {f"kept/{number}/{name}": 1 for number in range(6) for name in KEPT}


def test_steps_that_a_full_queue_rejects_come_again(
    own_rabbit: Broker, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAASQ_WORKFLOW_PATIENCE", "1")
    monkeypatch.setenv("KAASQ_QUEUE_TYPE", "classic")  # a quorum queue takes some more before it says that it is full
    store, count = tmp_path / "store", 5
    limit = '{"max-length": 1, "overflow": "reject-publish"}'
    own_rabbit.ctl("set_policy", "--apply-to", "queues", "full", rf"^kaasq\.work\.{pool}$", limit)
    held_flow = FlowSpec(
        name="test.held",
        graphs={"held": held(tmp_path).freeze()},
        maps={"m": MapSpec(count=count)},
        steps=(FlowStep(name="m", graph="held", map="m", keep={"out": "held/{item}"}),),
        outputs={"m": out("m")},
    )
    with (
        running_worker(own_rabbit.url, pool, store, "--prefetch", "1") as worker,
        RawFlows(RabbitBroker(own_rabbit.url), pool) as raw,
    ):
        flow = raw.start(held_flow)
        worker.wait_for("step.not_published")
        (tmp_path / "end").touch()
        reply = raw.reply(flow)
        assert (reply.status, reply.error) == ("ok", None)
    with open_store(store, sync=False) as opened:
        versions = {each.name: each.version for each in opened.names(TENANT, "held/")}
    assert versions == {f"held/{item}": 1 for item in range(count)}
