"""Loops in an executor: what goes round stays on the device, and nothing of it stays there afterwards."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import kaasq
from kaasq import codec
from kaasq.ids import new_id
from kaasq.messages import Condition, Repeat, Reply, Request, Source
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.link import Job
from tests.support.devices import Poisoned
from tests.support.executors import serving

N = 1 << 16  # floats: 256 KiB
MODULE = kaasq.Module.from_source(
    r"""
extern "C" __global__ void halve(float* x, float* next, float* left, int n)
{ for (int i = 0; i < n; i++) { next[i] = x[i] / 2; x[i] = -1; } left[0] = next[0]; }
extern "C" __global__ void count(float by, float* a, int n) { for (int i = 0; i < n; i++) a[i] += by; }
extern "C" __global__ void slow(float* left) { volatile int spin = 0; while (spin < 2000000) spin = spin + 1; }
"""
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    opened = open_store(tmp_path / "store", sync=False)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CpuDevice]:
    opened = CpuDevice(cache_dir=tmp_path_factory.mktemp("code") / "cpu", compiler=None, memory_limit=64 << 20)
    yield opened
    opened.close()


@pytest.fixture
def device(bare: CpuDevice) -> Any:
    return Poisoned(bare)


def halving(*, slow: bool = False) -> kaasq.Graph:
    """Writes over its input."""
    graph = kaasq.Graph("halving")
    x, next_ = graph.input("x", shape=N, dtype="float32"), graph.output("next", shape=N, dtype="float32")
    left = graph.output("left", shape=1, dtype="float32")
    graph.launch(MODULE.kernel("halve"), grid=1, block=1, args=[x, next_, left, np.int32(N)])
    if slow:
        graph.launch(MODULE.kernel("slow"), grid=1, block=1, args=[left])
    return graph


def looping(until: Condition, most: int, graph: kaasq.Graph | None = None, **changes: Any) -> Job:
    request = Request(
        graph=(graph or halving()).freeze(),
        **{
            "bind": {"x": np.ones(N, np.float32).tobytes()},
            "repeat": Repeat(bind={"x": Source(output="next")}, until=until, most=most),
            **changes,
        },
    )
    return Job(1, "guest", new_id(), codec.encode(request), codec.MSGPACK, time.time_ns() // 1_000_000)


def answer(store: BufferStore, device: Any, job: Job, **settings: Any) -> Reply:
    with serving(store, device, **settings) as one:
        one.send(job)
        (given,) = one.answers(1)
    return codec.decode_reply(given.reply, codec.MSGPACK)


def array(store: BufferStore, reply: Reply, name: str) -> np.ndarray:
    output = reply.outputs[name]
    if output.inline is not None:
        return np.frombuffer(output.inline, np.float32)
    assert output.ref is not None
    with store.open("guest", output.ref) as reading:
        return np.frombuffer(reading.data, np.float32).copy()


@pytest.mark.parametrize("inline_limit", [1 << 20, 0])
def test_what_goes_round_is_copied_in_before_the_first_run_and_out_after_the_last(store, device, inline_limit):
    device.copied.clear()
    reply = answer(store, device, looping(Condition(output="left", op="<", value=1e-9), 100), inline_limit=inline_limit)
    assert reply.repeat is not None
    assert (reply.status, reply.repeat.runs, reply.repeat.held) == ("ok", 30, True)
    np.testing.assert_array_equal(array(store, reply, "next"), np.full(N, 2.0**-30, np.float32))
    assert array(store, reply, "left") == [np.float32(2.0**-30)]
    assert device.copied == {"in": 4 * N, "out": 4 * N + 30 * 4}  # the number that decides, each time
    assert (reply.outputs["next"].ref is None) == (inline_limit > 0)


def test_a_condition_on_what_goes_round_asks_for_that_number_alone(store, device):
    device.copied.clear()
    reply = answer(store, device, looping(Condition(output="next", index=N - 1, op="<", value=1e-3), 100))
    assert reply.repeat is not None
    assert reply.repeat.runs == 10
    np.testing.assert_array_equal(array(store, reply, "next"), np.full(N, 2.0**-10, np.float32))
    assert device.copied["out"] == 4 * N + 4 + 10 * 4


def test_a_loop_keeps_what_it_is_to_keep(store, device):
    reply = answer(
        store, device, looping(Condition(output="left", op="<", value=0), 3, keep={"next": "n", "left": "l"})
    )
    assert reply.repeat is not None
    assert (reply.repeat.runs, reply.repeat.held) == (3, False)
    assert {each.name: each.version for each in store.names("guest")} == {"n": 1, "l": 1}
    assert array(store, reply, "left") == [0.125]


def test_inouts_that_change_places_each_run_do_not_pass_through_the_host(store, device):
    graph = kaasq.Graph("swapping")
    for name, by in (("a", 1.0), ("b", 10.0)):
        inout = graph.inout(name, shape=N, dtype="float32")
        graph.launch(MODULE.kernel("count"), grid=1, block=1, args=[np.float32(by), inout, np.int32(N)])
    start = {"a": np.zeros(N, np.float32).tobytes(), "b": np.full(N, 1000, np.float32).tobytes()}
    turn = {"a": Source(output="b"), "b": Source(output="a")}
    until = Condition(output="a", index=0, op="<", value=0)
    device.copied.clear()
    job = looping(until, 6, graph, bind=start, repeat=Repeat(bind=turn, until=until, most=6))
    reply = answer(store, device, job, inline_limit=1 << 20)
    a, b = 1.0, 1010.0
    for _ in range(5):
        a, b = b + 1, a + 10
    assert (array(store, reply, "a")[-1], array(store, reply, "b")[-1]) == (a, b)
    assert device.copied == {"in": 8 * N, "out": 8 * N + 6 * 4}


@pytest.mark.parametrize("end", ["cancelled", "no room"])
def test_a_loop_that_ends_early_leaves_nothing_behind(store, device, bare, end):
    used = bare._allocator.used
    store.set_quotas(10, {})  # bytes: what it is to keep does not fit
    runs = 10**5 if end == "cancelled" else 100
    job = looping(Condition(output="left", op="<", value=-1), runs, halving(slow=True), keep={"next": "n"})
    with serving(store, device, inline_limit=1 << 20) as one:
        one.send(job)
        if end == "cancelled":
            time.sleep(0.2)
            one.vitals.withdraw(job.tag)
        (given,) = one.answers(1)
        assert given.error is not None
        assert given.error.code == ("cancelled" if end == "cancelled" else "quota_exceeded")
        store.set_quotas(0, {})
        for tag in range(2, 7):  # more than there are slots
            one.send(msgspec.structs.replace(looping(Condition(output="left", op="<", value=1e-2), 100), tag=tag))
            (given,) = one.answers(1)
            assert given.error is None
    assert bare._allocator.used == used
