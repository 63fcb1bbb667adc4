"""Workflows on workers with the CPU device and an in-memory broker: small steps to make them of, and the system."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from kaasq import Graph, Module
from kaasq.broker import Done, Message
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Binding
from kaasq.settings import Settings
from kaasq.topology import REQUESTS
from kaasq_storage import open_store
from kaasq_workers.worker import Worker
from tests.support.graphs import saxpy, sum_of_squares
from tests.support.raw_flows import RawFlows
from tests.support.waiting import until

N = 8
TENANT, POOL = "ada", "p"

ADD = saxpy(N, "add").freeze()
TOTAL = sum_of_squares(N).freeze()


def wrong() -> Graph:
    """Names a kernel that its module does not have."""
    graph = Graph("wrong")
    x = graph.input("x", shape=N, dtype="float32", const=True)
    out = graph.output("out", shape=N, dtype="float32")
    module = Module.from_source('extern "C" __global__ void other(const float* x, float* out) {}')
    graph.launch(module.kernel("absent"), grid=1, block=1, args=[x, out])
    return graph


GRAPHS = {"add": ADD, "total": TOTAL, "wrong": wrong().freeze()}
X = FlowInput(name="x", dtype="float32", shape=(N,))
XS = FlowInput(name="xs", dtype="float32", shape=(N,), many=True)


def add(name: str, x: From, y: From | None = None, **fields: Any) -> FlowStep:
    return FlowStep(name=name, graph="add", bind={"x": x, "y": y or x}, **fields)


def total(name: str, x: From, **fields: Any) -> FlowStep:
    return FlowStep(name=name, graph="total", bind={"x": x}, **fields)


def broken(name: str, x: From, **fields: Any) -> FlowStep:
    return FlowStep(name=name, graph="wrong", bind={"x": x}, **fields)


def out(step: str, *, each: bool = False) -> From:
    return From(step=step, output="out", each=each)


def flow(*steps: FlowStep, inputs: tuple[FlowInput, ...] = (X,), **fields: Any) -> FlowSpec:
    fields.setdefault("outputs", {"out": out(steps[-1].name)})
    known = GRAPHS | fields.pop("graphs", {})
    used = {each.graph: known[each.graph] for each in steps}
    return FlowSpec(name="test.flow", inputs=inputs, graphs=used, steps=steps, **fields)


def ones(value: float = 1.0) -> bytes:
    return np.full(N, value, np.float32).tobytes()


def floats(output: Any) -> list[float]:
    return list(np.frombuffer(output.inline, np.float32))


class System:
    """A node, a store, and workers on them."""

    def __init__(self, folder: Path) -> None:
        self.node = MemoryNode()
        self.folder = folder
        self.store = open_store(folder, sync=False)
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.store.close()

    def start(self, **settings: Any) -> Worker:
        isolate = settings.pop("isolate", False)
        broker = settings.pop("broker", None) or MemoryBroker(self.node, "worker", impersonates=True)
        given = {"pool": POOL, "store": str(self.folder), "store_sync": False, "device": "cpu"} | settings
        worker = Worker(Settings(**given), broker=broker, in_process=not isolate)
        worker.start()
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        for each in self.workers:
            each.stop(10.0)
        self.workers.clear()

    def raw(self) -> RawFlows:
        return RawFlows(MemoryBroker(self.node, TENANT), POOL)


class Lossy(MemoryBroker):
    """Loses one message that its program publishes for workers, the first or one behind it, though it is confirmed."""

    lost = False
    before = 0

    def publish(self, message: Message, *, exchange: str, done: Done | None = None, **more: Any) -> None:
        if exchange == REQUESTS and self.before:
            self.before -= 1
        elif exchange == REQUESTS and not self.lost:
            self.lost = True
            if done is not None:
                self.call_soon(lambda: done(None))
            return
        super().publish(message, exchange=exchange, done=done, **more)


def lose_a_step(
    system: System, raw: RawFlows, spec: FlowSpec, *, before: int = 0, x: Binding | None = None, **settings: Any
) -> None:
    """Start it as "f"; the message of its first step is lost, or of one behind it."""
    broker = Lossy(system.node, "worker", impersonates=True)
    broker.before = before
    system.start(broker=broker, chain_spill=0.0, **settings)  # each step goes through the queue
    raw.start(spec, bind={"x": x or ones()}, request_id="f")
    until(lambda: broker.lost)
