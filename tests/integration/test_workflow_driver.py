"""Workflows as a worker drives them, started by messages: no client, an in-memory broker, the CPU device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kaasq import Graph, Module, codec
from kaasq.broker import Done, Message
from kaasq.checks import GraphLimits
from kaasq.errors import NameNotFound
from kaasq.flows.model import (
    Asked,
    Due,
    FlowCall,
    FlowList,
    FlowStart,
    FlowStep,
    From,
    MapSpec,
    StepCall,
    StepCondition,
    Value,
)
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Condition, Repeat, Source, Stored
from kaasq.model import Scalar
from kaasq.quotas import Quotas
from kaasq.topology import REQUESTS
from tests.support.flow_system import (
    ADD,
    POOL,
    TENANT,
    TOTAL,
    XS,
    N,
    System,
    add,
    broken,
    floats,
    flow,
    lose_a_step,
    ones,
    out,
    total,
)
from tests.support.graphs import saxpy, sum_of_squares
from tests.support.raw_flows import RawFlows
from tests.support.waiting import until


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System(tmp_path / "store") as system:
        yield system


@pytest.fixture
def raw(system: System) -> Iterator[RawFlows]:
    system.start()
    with system.raw() as raw:
        yield raw


def test_steps_run_on_what_those_before_them_gave(raw: RawFlows) -> None:
    spec = flow(add("a", From(input="x")), add("b", out("a"), From(input="x")), total("c", out("b")))
    reply = raw.run(spec, bind={"x": ones()})
    assert (reply.status, reply.error) == ("ok", None)
    assert floats(reply.outputs["out"]) == [N * 49.0]
    assert reply.flow is not None
    assert [each.state for each in reply.flow.steps] == ["completed"] * 3
    assert [raw.told() for _ in range(4)][-1] == f"{TENANT}.test.flow.completed"


def test_a_workflow_may_come_as_json(raw: RawFlows) -> None:
    spec = flow(add("a", From(input="x")), add("b", out("a")))
    request = raw.send(FlowStart(workflow=spec, bind={"x": ones()}), content_type=codec.JSON)
    assert floats(raw.reply(request).outputs["out"]) == [9.0] * N


def test_inputs_from_the_store_outputs_kept_there_and_scalars(raw: RawFlows, system: System) -> None:
    system.store.put(TENANT, ones(2.0), name="two", dtype="float32", shape=(N,))
    spec = flow(
        add("a", From(input="x"), From(name="two"), scalars={"a": Value(scalar="k")}, keep={"out": "kept/a"}),
        add("b", out("a"), scalars={"a": Value(step="a", output="out", index=1)}),
        scalars=(Scalar(name="k", dtype="float32", default=3.0),),
    )
    reply = raw.run(spec, bind={"x": Stored(name="two")}, scalars={"k": 5.0}, keep={"out": "kept/out"})
    assert reply.status == "ok", reply.error
    with system.store.open(TENANT, system.store.lookup(TENANT, name="kept/a").ref) as reading:
        assert list(np.frombuffer(bytes(reading.data), np.float32)) == [12.0] * N
    with system.store.open(TENANT, system.store.lookup(TENANT, name="kept/out").ref) as reading:
        assert list(np.frombuffer(bytes(reading.data), np.float32)) == [12.0 * 12.0 + 12.0] * N
    assert reply.outputs["out"].name == "kept/out"


def test_a_map_over_a_list_item_by_item_and_a_join(raw: RawFlows) -> None:
    items = 5
    join = sum_of_squares(6).freeze()
    spec = flow(
        add("a", From(input="xs", each=True), map="m", scalars={"a": Value(item=True)}),
        total("b", out("a", each=True), map="m"),
        FlowStep(name="j", graph="join", bind={"x": out("b")}),
        inputs=(XS,),
        maps={"m": MapSpec(input="xs", most=6)},
        graphs={"add": ADD, "total": TOTAL, "join": join},
        outputs={"j": out("j"), "b": out("b")},
    )
    reply = raw.run(spec, bind={"xs": tuple(ones(each) for each in range(items))})
    assert reply.status == "ok", reply.error
    expected = [N * (each * each + each) ** 2.0 for each in range(items)]
    assert floats(reply.outputs["b"]) == expected
    assert reply.outputs["b"].shape == (items, 1)
    assert floats(reply.outputs["j"]) == [float(np.square(np.array(expected, np.float32)).sum())]


def test_a_map_over_parts_of_an_output_whose_number_is_an_output(raw: RawFlows) -> None:
    half = saxpy(2, "half").freeze()
    count = Graph("count")
    x = count.input("x", shape=N, dtype="float32", const=True)
    n = count.output("n", shape=1, dtype="int32")
    code = 'extern "C" __global__ void c(const float* x, int* n) { *n = (int)x[0]; }'
    count.launch(Module.from_source(code).kernel("c"), grid=1, block=1, args=[x, n])
    spec = flow(
        add("a", From(input="x")),
        FlowStep(name="n", graph="count", bind={"x": From(input="x")}),
        FlowStep(name="p", graph="half", map="m", bind={"x": out("a", each=True), "y": From(input="x", each=True)}),
        graphs={"add": ADD, "count": count.freeze(), "half": half},
        maps={"m": MapSpec(count=Value(step="n", output="n"), most=4)},
    )
    numbers = np.arange(3, 3 + N, dtype=np.float32)
    reply = raw.run(spec, bind={"x": numbers.tobytes()})
    assert reply.status == "ok", reply.error
    assert floats(reply.outputs["out"]) == list(7 * numbers[:6])
    numbers[0] = 5  # more than there are parts, and than the map may have
    reply = raw.run(spec, bind={"x": numbers.tobytes()})
    assert reply.error is not None
    assert reply.error.code == "bad_request"
    assert reply.error.message.startswith("step 'p': maps.m.count: the map has 5 items")


def test_conditions_loops_and_masks(raw: RawFlows) -> None:
    mask = Graph("mask")
    ok = mask.input("ok", shape=4, dtype="uint8", const=True)
    both = mask.output("out", shape=4, dtype="uint8")
    code = 'extern "C" __global__ void m(const unsigned char* a, unsigned char* b) { b[threadIdx.x] = a[threadIdx.x]; }'
    mask.launch(Module.from_source(code).kernel("m"), grid=1, block=4, args=[ok, both])
    many = StepCondition(step="a", output="out", index=0, op=">", value=10)
    loop = Repeat(bind={"x": Source(output="out")}, until=Condition(output="out", index=0, op=">", value=100), most=9)
    spec = flow(
        add("a", From(input="xs", each=True), map="m"),
        add("b", out("a", each=True), map="m", condition=many, repeat=loop),
        FlowStep(name="k", graph="mask", bind={"ok": From(mask="b")}, tolerate=True),
        graphs={"add": ADD, "mask": mask.freeze()},
        inputs=(XS,),
        maps={"m": MapSpec(input="xs", most=4)},
        outputs={"mask": out("k"), "b": out("b")},
    )
    reply = raw.run(spec, bind={"xs": (ones(1.0), ones(4.0), ones(5.0))})
    assert reply.status == "ok", reply.error
    assert reply.outputs["mask"].inline == bytes([0, 1, 1, 0])
    assert floats(reply.outputs["b"])[::N] == [0.0, 180.0, 105.0]
    status = raw.ask(reply.id, "status", items=True).flow
    assert status is not None
    assert reply.flow is not None
    runs = [each.repeat.runs for each in status.items if each.repeat is not None]
    assert len(runs) == 2  # of the one that was skipped nothing ran
    assert [each.runs for each in status.steps] == [each.runs for each in reply.flow.steps] == [0, sum(runs), 0]
    assert sum(runs) > 2


def test_a_step_that_fails_fails_the_workflow_with_its_place_and_the_error_step_runs(
    raw: RawFlows, system: System
) -> None:
    spec = flow(
        add("a", From(input="x")),
        broken("b", out("a")),
        add("c", out("b")),
        add("undo", From(input="x"), on="failed", after=("c",), keep={"out": "undone"}),
    )
    reply = raw.run(spec, bind={"x": ones()})
    assert (reply.status, reply.outputs) == ("error", {})
    assert reply.error is not None
    assert reply.error.code == "module_rejected"
    assert reply.error.message.startswith("step 'b': ")
    assert reply.error.detail["step"] == "b"
    assert reply.flow is not None
    assert [each.state for each in reply.flow.steps] == ["completed", "failed", "failed", "completed"]
    assert system.store.lookup(TENANT, name="undone").nbytes == 4 * N


def test_a_join_that_tolerates_gets_zeros_of_what_failed(raw: RawFlows) -> None:
    spec = flow(broken("b", From(input="x")), add("c", From(input="x"), out("b"), tolerate=True))
    reply = raw.run(spec, bind={"x": ones()})
    assert reply.status == "ok", reply.error
    assert floats(reply.outputs["out"]) == [2.0] * N


def test_what_is_wrong_is_refused_before_anything_runs(raw: RawFlows, system: System) -> None:
    system.store.put(TENANT, b"1234", name="short")
    good = flow(add("a", From(input="x"), keep={"out": "kept"}), add("b", out("a")))
    cases: list[tuple[Any, str, str]] = [
        (msgspec.structs.replace(good, steps=(add("a", out("b")), add("b", out("a")))), "bad_request", "a -> b -> a"),
        (msgspec.structs.replace(good, steps=(*good.steps, add("c", out("zz")))), "bad_request", "steps[2] (c)"),
    ]
    for spec, code, place in cases:
        reply = raw.run(spec, bind={"x": ones()})
        assert reply.error is not None
        assert (reply.status, reply.error.code) == ("error", code)
        assert place in reply.error.message
    for bind, code in (
        ({}, "buffer_missing"),
        ({"x": b"1"}, "buffer_size"),
        ({"x": Stored(name="no")}, "buffer_missing"),
        ({"x": Stored(name="short")}, "buffer_size"),
        ({"x": Stored(name="short", offset=0)}, "buffer_size"),
    ):
        reply = raw.run(good, bind=bind)
        assert reply.error is not None
        assert (reply.status, reply.error.code) == ("error", code)
    with pytest.raises(NameNotFound):
        system.store.lookup(TENANT, name="kept")


@pytest.mark.parametrize(
    ("flow_id", "message"),
    [("f+1", "message_id: 'f+1' is the id of a step"), ("f" * 119, "the id of a workflow has at most 118 bytes")],
)
def test_an_id_that_leaves_its_steps_none_of_their_own_is_refused(raw: RawFlows, flow_id: str, message: str) -> None:
    reply = raw.run(flow(add("a", From(input="x"))), bind={"x": ones()}, request_id=flow_id)
    assert reply.error is not None
    assert reply.error.code == "bad_request"
    assert message in reply.error.message


def test_more_items_of_all_steps_than_may_be_are_refused(system: System) -> None:
    system.start(graph_limits=GraphLimits(items_together=7))
    maps = {"m": MapSpec(count=3)}
    each = add("a", From(input="x"), map="m"), add("b", From(input="x"), map="m")
    with system.raw() as raw:
        assert raw.run(flow(*each, add("c", From(input="x")), maps=maps), bind={"x": ones()}).status == "ok"
        more = flow(*each, add("c", From(input="x")), add("d", From(input="x")), maps=maps)
        error = raw.run(more, bind={"x": ones()}).error
        assert error is not None
        assert error.code == "bad_request"
        assert "steps[0] (a): all steps together would run 8 times, this one 3 times; the limit is 7" in error.message


def test_whoever_waited_longest_is_told_when_more_wait_than_may(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x"))), graph_limits=GraphLimits(waiting=2))
        asked = [raw.send(FlowCall(flow=Asked(id="f", do="wait"))) for _ in range(2)]
        error = raw.reply("f").error
        assert error is not None
        assert error.code == "quota_exceeded"
        assert "more wait for this workflow than the 2 that may" in error.message
        raw.cancel("f")
        assert [raw.reply(each).status for each in asked] == ["cancelled"] * 2


def test_a_cancelled_workflow_has_its_event_and_nothing_of_it_runs_any_more(system: System) -> None:
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x"), keep={"out": "a"}), add("b", out("a"))))
        raw.cancel("f")
        assert raw.reply("f").status == "cancelled"
        assert raw.told() == f"{TENANT}.test.flow.cancelled"
        raw.send(StepCall(step=Due(flow="f", step="a")), "f+1")
        error = raw.reply("f+1").error
        assert error is not None
        assert error.code == "cancelled"
    with pytest.raises(NameNotFound):
        system.store.lookup(TENANT, name="a")


def test_a_fan_out_beyond_what_a_worker_may_hold_of_a_tenant_takes_longer_and_no_harm(system: System) -> None:
    system.start(quotas=Quotas(queued=2), chain_spill=0.0)
    spec = flow(add("a", From(input="x"), map="m"), maps={"m": MapSpec(count=12)})
    with system.raw() as raw:
        reply = raw.run(spec, bind={"x": ones()})
        assert reply.status == "ok", reply.error
        assert len(floats(reply.outputs["out"])) == 12 * N


def test_where_each_tenant_has_an_executor_both_have_their_workflows_under_one_id(system: System) -> None:
    system.start(isolate=True, isolation="tenant")
    spec = flow(add("a", From(input="x"), keep={"out": "a"}), total("b", out("a")))
    with system.raw() as ada, RawFlows(MemoryBroker(system.node, "bob"), POOL) as bob:
        for value, each in ((1.0, ada), (2.0, bob)):
            each.start(spec, bind={"x": ones(value)}, request_id="f")
        assert floats(ada.reply("f").outputs["out"]) == [N * 9.0]
        assert floats(bob.reply("f").outputs["out"]) == [N * 36.0]
    for tenant in (TENANT, "bob"):
        assert [each.version for each in system.store.names(tenant)] == [1]


def test_the_same_start_again_is_the_same_workflow_and_another_under_its_id_is_refused(raw: RawFlows) -> None:
    spec = flow(add("a", From(input="x")))
    first = raw.run(spec, bind={"x": ones()}, request_id="f")
    raw.start(spec, bind={"x": ones()}, request_id="f")
    again = raw.reply("f")
    assert (again.outputs, again.flow) == (first.outputs, first.flow)
    raw.start(spec, bind={"x": ones(2.0)}, request_id="f")
    refused = raw.reply("f")
    assert refused.error is not None
    assert refused.error.code == "conflict"


def test_who_starts_one_that_has_failed_meanwhile_is_told_that_it_began(raw: RawFlows) -> None:
    spec = flow(broken("a", From(input="x")))
    assert raw.run(spec, bind={"x": ones()}, request_id="f").status == "error"
    assert raw.told() == f"{TENANT}.wrong.failed"
    assert raw.told() == f"{TENANT}.test.flow.failed"
    raw.start(spec, bind={"x": ones()}, request_id="f", reply="started")
    again = raw.reply("f")
    assert (again.status, again.error, again.flow and again.flow.state) == ("ok", None, "failed")
    raw.run(flow(add("a", From(input="x"))), bind={"x": ones()}, request_id="g")
    assert raw.told() == f"{TENANT}.add.completed"  # nothing was told twice


def test_many_may_wait_and_ask_before_and_after_the_end(raw: RawFlows) -> None:
    spec = flow(add("a", From(input="x")), total("b", out("a")))
    started = raw.run(spec, bind={"x": ones()}, reply="started")
    assert started.flow is not None
    assert (started.status, started.flow.state) == ("ok", "running")
    waited = raw.ask(started.id, "wait")
    assert floats(waited.outputs["out"]) == [72.0]
    status = raw.ask(started.id, "status", items=True).flow
    assert status is not None
    assert [(each.step, each.state, each.attempt) for each in status.items] == [
        ("a", "completed", 1),
        ("b", "completed", 1),
    ]
    assert all(each.timings is not None and each.timings.total > 0 and each.worker is not None for each in status.items)
    assert status.steps[1].waits_for == ("a",)
    page = raw.ask(started.id, "status", items=True, after=1).flow
    assert page is not None
    assert [each.step for each in page.items] == ["b"]
    unknown = raw.ask("nobody", "wait")
    assert unknown.error is not None
    assert unknown.error.code == "name_not_found"


def test_cancelling_ends_it_and_tells_who_waits(system: System) -> None:
    system.start(isolate=True)
    spin = Graph("spin")
    flag = spin.output("out", shape=N, dtype="float32")
    code = 'extern "C" __global__ void spin(volatile float* out) { while (out[0] == 0.0f) out[1] = out[1] + 1; }'
    spin.launch(Module.from_source(code).kernel("spin"), grid=1, block=1, args=[flag])
    spec = flow(
        FlowStep(name="s", graph="spin"), add("b", out("s")), inputs=(), graphs={"spin": spin.freeze(), "add": ADD}
    )
    with system.raw() as raw:
        flow_id = raw.run(spec, reply="started").id
        waiting = raw.send(FlowCall(flow=Asked(id=flow_id, do="wait")))
        time.sleep(0.2)  # it may have begun by then, or not: both are to end
        raw.cancel(flow_id)
        reply = raw.reply(waiting)
        assert (reply.status, reply.error and reply.error.code) == ("cancelled", "cancelled")
        assert reply.flow is not None
        assert [each.state for each in reply.flow.steps] == ["cancelled", "cancelled"]
        assert raw.ask(flow_id, "wait").status == "cancelled"
        assert raw.run(flow(add("a", From(input="x"))), bind={"x": ones()}).status == "ok"


def test_a_step_that_runs_too_long_is_stopped_and_the_workflow_goes_on(system: System) -> None:
    system.start(isolate=True)
    spin = Graph("spin")
    flag = spin.output("out", shape=N, dtype="float32")
    code = 'extern "C" __global__ void spin(volatile float* out) { while (out[0] == 0.0f) out[1] = out[1] + 1; }'
    spin.launch(Module.from_source(code).kernel("spin"), grid=1, block=1, args=[flag])
    spec = flow(
        FlowStep(name="s", graph="spin", timeout_ms=300),
        add("b", From(input="x"), out("s"), tolerate=True),
        graphs={"spin": spin.freeze(), "add": ADD},
    )
    with system.raw() as raw:
        reply = raw.run(spec, bind={"x": ones()})
        assert reply.status == "ok", reply.error
        assert floats(reply.outputs["out"]) == [2.0] * N
        assert reply.flow is not None
        assert reply.flow.steps[0].state == "expired"


def test_the_time_of_the_whole_is_over(system: System) -> None:
    with system.raw() as raw:
        system.start().stop(10.0)  # so that there is a queue
        spec = flow(add("a", From(input="x")), add("undo", From(input="x"), on="failed", after=("a",)))
        flow_id = raw.start(spec, bind={"x": ones()}, timeout_ms=1)
        time.sleep(0.05)
        system.start()
        reply = raw.reply(flow_id)
        assert (reply.status, reply.error and reply.error.code) == ("expired", "deadline_exceeded")
        assert reply.flow is not None
        assert [each.state for each in reply.flow.steps] == ["expired", "completed"]


def test_a_step_that_is_not_due_is_refused(raw: RawFlows) -> None:
    spec = flow(add("a", From(input="x")), add("b", out("a")))
    raw.run(spec, bind={"x": ones()}, request_id="f")
    for request_id, due in (
        ("f+99", Due(flow="f", step="b")),
        ("f+1", Due(flow="g", step="a")),
        ("g+1", Due(flow="g", step="a")),
        ("f+2", Due(flow="f", step="zz")),
        ("f+2", Due(flow="f", step="b", item=7)),
    ):
        raw.send(StepCall(step=due), request_id)
        error = raw.reply(request_id).error
        assert error is not None
        assert error.code in {"bad_request", "name_not_found", "conflict"}
    assert raw.ask("f", "wait").status == "ok"


class Counting(MemoryBroker):
    """Counts messages for workers. Loses the first conclusion, though it is confirmed."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node, "worker", impersonates=True)
        self.published = Counter[str]()

    def publish(self, message: Message, *, exchange: str, done: Done | None = None, **more: Any) -> None:
        if exchange == REQUESTS:
            self.published[message.message_id or ""] += 1
            call = codec.decode(message.body, message.content_type, StepCall)
            if call.step.step is None and self.published[message.message_id or ""] == 1:
                if done is not None:
                    self.call_soon(lambda: done(None))
                return
        super().publish(message, exchange=exchange, done=done, **more)


def test_starts_and_steps_that_are_sent_again_have_nothing_published_and_nothing_done_twice(system: System) -> None:
    broker, items = Counting(system.node), 20
    system.start(broker=broker, chain_spill=0.0, workflow_patience=4.0)
    spec = flow(
        add("a", From(input="x"), keep={"out": "kept/a"}),
        add("m", out("a"), map="m", keep={"out": "kept/m/{item}"}),
        maps={"m": MapSpec(count=items)},
        outputs={"m": out("m")},
    )
    once = Counter({f"f+{number}": 1 for number in range(1, items + 3)})
    with system.raw() as raw, RawFlows(MemoryBroker(system.node, "bob"), POOL) as bob:
        raw.start(spec, bind={"x": ones()}, request_id="f")
        until(lambda: broker.published == once)  # all steps have ended, and nobody concludes it
        for _ in range(30):
            raw.start(spec, bind={"x": ones()}, request_id="f")
            for number, due in ((1, Due(flow="f", step="a")), (2, Due(flow="f", step="m"))):
                raw.send(StepCall(step=due), f"f+{number}")
                bob.send(StepCall(step=due), f"f+{number}")
        asked = raw.ask("f", "status").flow
        assert asked is not None
        assert asked.state == "running"
        assert broker.published == once
        error = bob.reply("f+2").error
        assert error is not None
        assert error.code == "name_not_found"
        assert raw.reply("f").status == "ok"  # after a while it is looked at, and concluded
    assert broker.published == once + Counter({f"f+{items + 2}": 1})
    versions = {each.name: each.version for each in system.store.names(TENANT)}
    assert versions == {"kept/a": 1} | {f"kept/m/{item}": 1 for item in range(items)}
    assert list(system.store.names("bob")) == []


def test_another_tenants_workflow_cannot_be_seen(raw: RawFlows, system: System) -> None:
    flow_id = raw.run(flow(add("a", From(input="x"))), bind={"x": ones()}).id
    with RawFlows(MemoryBroker(system.node, "bob"), POOL) as other:
        for do in ("wait", "status"):
            error = other.ask(flow_id, do).error
            assert error is not None
            assert error.code == "name_not_found"


def test_a_tenants_workflows_are_listed_the_latest_first_as_they_stand(raw: RawFlows, system: System) -> None:
    assert raw.list().flows == FlowList()
    spec = flow(add("a", From(input="x")), add("b", out("a")))
    for name in ("one", "two"):
        assert raw.run(spec, bind={"x": ones()}, request_id=name).status == "ok"
    raw.run(flow(broken("a", From(input="x")), add("b", out("a"))), bind={"x": ones()}, request_id="bad")
    with RawFlows(MemoryBroker(system.node, "bob"), POOL) as bob:
        bob.run(spec, bind={"x": ones()}, request_id="three")
        listed = bob.list().flows
        assert listed is not None
        assert ([each.id for each in listed.found], listed.total) == (["three"], 1)
    first, rest = raw.list(most=1).flows, raw.list(most=2, state="completed").flows
    assert first is not None
    assert rest is not None
    (line,) = first.found
    assert (line.id, line.name, line.state) == ("bad", "test.flow", "failed")
    assert (line.steps, line.ended, line.ended_ms is None, first.total) == (2, 2, False, 3)
    assert [(each.id, each.state, each.ended) for each in rest.found] == [
        ("two", "completed", 2),
        ("one", "completed", 2),
    ]
    assert (rest.total, rest.next) == (2, "")
    second = raw.list(most=1, after=first.next).flows
    assert second is not None
    assert [each.id for each in second.found] == ["two"]
    error = raw.list(after="nonsense").error
    assert error is not None
    assert (error.code, error.message[:15]) == ("bad_request", "flows.after: ex")


def test_a_list_has_workflows_that_run_and_those_whose_records_cannot_be_read(system: System) -> None:
    with system.store.transaction() as transaction:
        transaction.notes(TENANT, "broken").put(b"h", b"\xc1")
        transaction.notes(TENANT, "broken").label("running", 1.0)
    with system.raw() as raw:
        lose_a_step(system, raw, flow(add("a", From(input="x")), add("b", out("a"))))
        listed = raw.list(state="running").flows
        assert listed is not None
        going, broken = listed.found
        assert (going.id, going.state, going.ended, going.steps, going.ended_ms) == ("f", "running", 0, 2, None)
        assert (broken.id, broken.name, broken.state) == ("broken", "", "running")
