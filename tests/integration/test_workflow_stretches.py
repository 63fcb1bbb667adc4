"""Steps of a workflow that run in a row in one executor: what only the next one takes never leaves the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq import Graph, Module
from kaasq.flows.model import FlowInput, FlowSpec, FlowStep, From, Value
from kaasq.ids import following_id
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Stored
from kaasq.settings import Settings
from kaasq_storage import BufferStore, open_store
from kaasq_workers.worker import Worker
from tests.support.graphs import saxpy
from tests.support.raw_flows import RawFlows

N = 4 << 10
TENANT, POOL = "ada", "p"
ADD = saxpy(N, "add").freeze()
X = FlowInput(name="x", dtype="float32", shape=(N,))


def crash() -> Graph:
    graph = Graph("crash")
    x = graph.input("x", shape=N, dtype="float32", const=True)
    out = graph.output("out", shape=N, dtype="float32")
    code = 'extern "C" __global__ void crash(const float* x, float* out) { *(volatile int*)8 = 1; out[0] = x[0]; }'
    graph.launch(Module.from_source(code).kernel("crash"), grid=1, block=1, args=[x, out])
    return graph


def increment() -> Graph:
    """Writes over its inout, which the step before gave."""
    graph = Graph("increment")
    x = graph.inout("x", shape=N, dtype="float32")
    code = 'extern "C" __global__ void inc(float* x) { x[blockIdx.x * blockDim.x + threadIdx.x] += 1.0f; }'
    graph.launch(Module.from_source(code).kernel("inc"), grid=N // 256, block=256, args=[x])
    return graph


GRAPHS = {"add": ADD, "crash": crash().freeze(), "increment": increment().freeze()}


def out(step: str) -> From:
    return From(step=step, output="out")


def add(name: str, x: From, **fields: Any) -> FlowStep:
    """out = 2 x + input."""
    return FlowStep(name=name, graph="add", bind={"x": x, "y": From(input="x")}, **fields)


def flow(*steps: FlowStep, **fields: Any) -> FlowSpec:
    fields.setdefault("outputs", {"out": out(steps[-1].name)})
    return FlowSpec(
        name="test.flow", inputs=(X,), graphs={each.graph: GRAPHS[each.graph] for each in steps}, steps=steps, **fields
    )


class System:
    """A store, and a worker on an in-memory node."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.node = MemoryNode()
        self.store: BufferStore = open_store(folder, sync=False)
        self.store.put(TENANT, np.ones(N, np.float32).data, name="x", dtype="float32", shape=(N,))
        isolate = settings.pop("isolate", False)
        given = {
            "pool": POOL,
            "store": str(folder),
            "store_sync": False,
            "device": "cpu",
            "inline_limit": 1024,
        } | settings
        broker = MemoryBroker(self.node, "worker", impersonates=True)
        self.worker = Worker(Settings(**given), broker=broker, in_process=not isolate)
        self.worker.start()

    def stop(self) -> None:
        self.worker.stop(10.0)
        self.store.close()

    def run(self, spec: FlowSpec, flow_id: str = "f") -> list[float]:
        """Start it on ones: the first number of its output, which all others are too; or no numbers, if it failed."""
        with RawFlows(MemoryBroker(self.node, TENANT), POOL) as raw:
            self.reply = raw.run(spec, bind={"x": Stored(name="x")}, request_id=flow_id)
            self.told = [raw.told() for _ in range(len(spec.steps) + 1)]
        output = self.reply.outputs.get("out")
        if output is None:
            return []
        assert output.ref is not None
        with self.store.open(TENANT, output.ref) as reading:
            return sorted(set(np.frombuffer(bytes(reading.data), np.float32).tolist()))

    def stored(self) -> int:
        """Objects of the size of an output."""
        return sum(each.nbytes == 4 * N for each in self.store.objects(TENANT))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path / "store")
    yield system
    system.stop()


CHAIN = (add("a", From(input="x")), add("b", out("a")), add("c", out("b")), add("d", out("c")))


def test_intermediates_of_a_chain_are_never_stored_and_each_step_has_its_outcome_and_event(system: System) -> None:
    assert system.run(flow(*CHAIN)) == [31.0]
    assert system.stored() == 2  # the input, and what the last step gave
    for number in range(1, 5):
        assert system.store.outcome(TENANT, following_id("f", number)) is not None
    assert system.told == [f"{TENANT}.add.completed"] * 4 + [f"{TENANT}.test.flow.completed"]
    assert system.reply.flow is not None
    ends = [each.ended_ms or 0 for each in system.reply.flow.steps]
    assert ends == sorted(ends)


def test_what_is_kept_given_or_taken_by_others_is_stored(system: System) -> None:
    steps = (add("a", From(input="x"), keep={"out": "kept"}), *CHAIN[1:3], add("d", out("c")), add("e", out("c")))
    assert system.run(flow(*steps, outputs={"out": out("e"), "b": out("d")})) == [31.0]
    assert system.store.lookup(TENANT, name="kept").nbytes == 4 * N
    assert system.stored() == 1 + 3  # a, c, and the equal outputs of d and e


def test_a_step_may_write_over_what_it_was_given(system: System) -> None:
    steps = (
        add("a", From(input="x")),
        FlowStep(name="b", graph="increment", bind={"x": out("a")}),
        FlowStep(name="c", graph="increment", bind={"x": From(step="b", output="x")}),
        add("d", From(step="c", output="x")),
    )
    assert system.run(flow(*steps)) == [11.0]
    assert system.stored() == 2


def test_numbers_of_outputs_and_joins_are_waited_for(system: System) -> None:
    number = Value(step="a", output="out", index=0)
    steps = (
        add("a", From(input="x")),
        add("b", From(input="x")),
        FlowStep(
            name="c",
            graph="add",
            bind={"x": out("a"), "y": out("b")},
            scalars={"a": number},
        ),
        add("d", out("c")),
    )
    assert system.run(flow(*steps)) == [2 * (3 * 3.0 + 3.0) + 1]


def test_with_chains_through_the_broker_each_step_goes_by_itself(tmp_path: Path) -> None:
    system = System(tmp_path / "store", chain_spill=0.0)
    assert system.run(flow(*CHAIN)) == [31.0]
    assert system.stored() == 5
    system.stop()


def test_the_step_that_crashes_is_told_so_and_those_before_it_have_completed(tmp_path: Path) -> None:
    system = System(tmp_path / "store", isolate=True)
    steps = (*CHAIN[:2], FlowStep(name="bad", graph="crash", bind={"x": out("b")}), add("d", out("bad")))
    spec = flow(*steps)
    with RawFlows(MemoryBroker(system.node, TENANT), POOL) as raw:
        reply = raw.run(spec, bind={"x": Stored(name="x")})
        assert reply.flow is not None
        assert [each.state for each in reply.flow.steps] == ["completed", "completed", "failed", "failed"]
        assert reply.error is not None
        assert reply.error.code == "kernel_failed"
        assert reply.error.message.startswith("step 'bad': ")
    system.stop()
