"""The engine on each device: several requests on their way, memory used again, what is shared and what shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.errors import BufferMissing, KaasqError, OutOfMemory
from kaasq.messages import Request, Stored
from kaasq.model import GraphSpec
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.protocol import Device, Memory
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Executed

SOURCE = r"""
extern "C" __global__ void add(float a, const float* x, float* y, int n)
{ for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] += a * x[i]; }
extern "C" __global__ void scribble(float* x, float* out) { out[0] = x[0]; x[0] = -1; }
extern "C" __global__ void peek(const unsigned* from, long long at, unsigned* out, int n)
{ for (int i = threadIdx.x; i < n; i += blockDim.x) out[i] = from[at + i]; }
extern "C" __global__ void some(float* out, int n) { if (threadIdx.x < n) out[threadIdx.x] += 1; }
"""
MODULE = kaasq.Module.from_source(SOURCE)
N = 1000
MEMORY = 64 << 20
SECRET = 0x5EC2E75E


class Poisoned:
    """A device whose memory comes filled with what nobody should ever see."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = device.stream()
        self.allocations = 0

    def allocate(self, nbytes: int) -> Memory:
        memory = self._device.allocate(nbytes)
        self._stream.copy_in(memory, memoryview(b"\xab" * nbytes))
        self._stream.synchronize()
        self.allocations += 1
        return memory

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def bare(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder: Path = tmp_path_factory.mktemp("engine")
    opened: Device
    if request.param == "cpu":
        from kaasq_workers.devices.cpu import CpuDevice

        opened = CpuDevice(cache_dir=folder / "code", memory_limit=MEMORY)
    else:
        from kaasq_workers.devices.cuda import CudaDevice

        opened = CudaDevice(0, cache_dir=folder / "code", memory_limit=MEMORY)
    yield opened
    assert not opened.poisoned
    opened.close()


@pytest.fixture
def device(bare: Device) -> Any:
    return Poisoned(bare)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False) as opened:
        yield opened


@pytest.fixture
def engine(device: Any, store: BufferStore) -> Iterator[Engine]:
    made = Engine(device, store, inline_limit=1 << 20, in_flight=4)
    yield made
    made.close()


def put(store: BufferStore, array: np.ndarray, tenant: str = "t") -> Stored:
    return Stored(ref=store.put(tenant, array.data.cast("B"))[0].ref)


def asked(graph: kaasq.Graph, scalars: dict[str, float] | None = None, **bind: Any) -> tuple[GraphSpec, Request]:
    spec = graph.freeze()
    given = {name: each if isinstance(each, Stored) else each.tobytes() for name, each in bind.items()}
    return spec, Request(graph=spec, bind=given, scalars=scalars or {})


def array(executed: Executed, name: str, dtype: str = "f4") -> np.ndarray:
    (data,) = [each.data for each in executed.outputs if each.buffer.name == name]
    return np.frombuffer(data if isinstance(data, bytearray) else data.data, dtype).copy()


def adding(times: int = 1, *, const: bool = False, n: int = N) -> kaasq.Graph:
    graph = kaasq.Graph(f"adding.{times}.{n}")
    x = graph.input("x", shape=n, dtype="float32", const=const)
    y = graph.output("y", shape=n, dtype="float32")
    a = graph.scalar("a", "float32", default=1.0)
    for _ in range(times):
        graph.launch(MODULE.kernel("add"), grid=4, block=128, args=[a, x, y, np.int32(n)])
    return graph


def peeking(n: int, at: int) -> kaasq.Graph:
    """Words from ``at`` words behind the output's start on."""
    graph = kaasq.Graph("peeking")
    out = graph.output("out", shape=n, dtype="uint32")
    args = [out, np.int64(at), out, np.int32(n)]
    graph.launch(MODULE.kernel("peek"), grid=1, block=128, args=args)
    return graph


def test_several_on_their_way_give_what_each_gives_alone(engine, store):
    random = np.random.default_rng(0)
    weights = put(store, random.random(N, np.float32))
    wanted = []
    for index in range(40):
        times = 1 + index % 7
        x = random.random(N, np.float32)
        wanted.append(asked(adding(times), {"a": float(index)}, x=weights if index % 3 else x))
    alone = [array(engine.run("t", *each), "y") for each in wanted]
    flying: list[tuple[int, Any]] = []
    drawn = np.random.default_rng(1)
    for index, each in enumerate(wanted):
        if len(flying) == engine.in_flight:
            which, flight = flying.pop(int(drawn.integers(len(flying))))  # in any order
            np.testing.assert_array_equal(array(engine.end(flight), "y"), alone[which])
        flying.append((index, engine.begin("t", *each)))
    for which, flight in flying:
        np.testing.assert_array_equal(array(engine.end(flight), "y"), alone[which])


def test_what_no_kernel_wrote_is_zero_in_memory_used_again(engine):
    graph = kaasq.Graph("some")
    out, rest = graph.output("out", shape=N, dtype="float32"), graph.output("rest", shape=N, dtype="float32")
    scratch = graph.temp("scratch", shape=N, dtype="float32")
    for each in (out, rest, scratch):
        graph.launch(MODULE.kernel("some"), grid=1, block=128, args=[each, np.int32(10)])
    expected = np.zeros(N, np.float32)
    expected[:10] = 1
    for tenant in ("a", "a", "b", "a"):
        executed = engine.run(tenant, *asked(graph))
        np.testing.assert_array_equal(array(executed, "out"), expected)
        np.testing.assert_array_equal(array(executed, "rest"), expected)


def chained(scale: float, *, bound: bool = False, n: int = 64) -> kaasq.Graph:
    """out = (x x) x + scale * out, through a temp that a product writes before anything reads it."""
    graph = kaasq.Graph(f"chained.{scale}.{bound}")
    x = graph.input("x", shape=(n, n), dtype="float32")
    square, out = (
        graph.temp("square", shape=(n, n), dtype="float32"),
        graph.output("out", shape=(n, n), dtype="float32"),
    )
    factor: Any = graph.scalar("factor", "float32", default=scale) if bound else np.float32(scale)
    graph.call("gemm", x, x, square)
    graph.call("gemm", square, x, out, np.float32(1), factor)
    return graph


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_what_a_builtin_writes_whole_need_not_be_zeroed_and_what_it_adds_to_is(engine, store, scale, bound):
    x = np.random.default_rng(7).random((64, 64), np.float32)
    secret = put(store, np.full(64 << 10, SECRET, np.uint32).view(np.float32))
    for _ in range(3):
        engine.run("t", *asked(adding(n=64 << 10), x=secret))  # leaves something in the memory
        result = array(engine.run("t", *asked(chained(scale, bound=bound), x=x)), "out").reshape(64, 64)
        np.testing.assert_allclose(result, x @ x @ x, rtol=1e-4)


def test_memory_that_need_not_be_zeroed_is_so_for_another_tenant(engine):
    n = 64
    x = np.full((n, n), SECRET, np.uint32).view(np.float32)
    for at in (n * n, 2 * n * n):
        engine.run("a", *asked(chained(0.0), x=x))
        assert not np.any(array(engine.run("b", *asked(peeking(n * n, at))), "out", "u4"))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_inputs_arrive_each_in_its_place_with_zeros_behind_them(engine, store, count):
    random = np.random.default_rng(3)
    graph = kaasq.Graph(f"several.{count}")
    xs = [graph.input(f"x{index}", shape=1 + 300 * index, dtype="float32") for index in range(count)]
    ys = [graph.output(f"y{index}", shape=1 + 300 * index, dtype="float32") for index in range(count)]
    for x, y in zip(xs, ys, strict=True):
        graph.launch(MODULE.kernel("add"), grid=1, block=32, args=[np.float32(1), x, y, np.int32(x.shape[0])])
    for _ in range(3):
        given = {f"x{index}": random.random(1 + 300 * index, np.float32) for index in range(count)}
        stored = {**given, "x0": put(store, given["x0"])}
        for bind in (given, stored):
            executed = engine.run("t", *asked(graph, **bind))
            for index in range(count):
                np.testing.assert_array_equal(array(executed, f"y{index}"), given[f"x{index}"])


@pytest.mark.parametrize("through_store", [False, True])
def test_a_tenant_never_sees_what_another_left_in_the_memory_that_both_use(engine, store, through_store):
    n = 32 << 10  # words: 128 KiB
    secret = np.full(n, SECRET, np.uint32).view(np.float32)
    graph = kaasq.Graph("secrets")
    x, out = graph.input("x", shape=n, dtype="float32"), graph.output("out", shape=n, dtype="float32")
    temp = graph.temp("temp", shape=n, dtype="float32")
    for each in (out, temp):
        graph.launch(MODULE.kernel("peek"), grid=1, block=128, args=[x, np.int64(0), each, np.int32(n)])
    given = put(store, secret, "a") if through_store else secret
    before = engine.run("a", *asked(graph, x=given))
    assert (array(before, "out", "u4") == SECRET).all()
    seen = array(engine.run("b", *asked(peeking(n, n))), "out", "u4")  # far behind its own buffer
    assert (seen == 0).all()
    own = array(engine.run("a", *asked(graph, x=given)), "out", "u4")
    assert (own == SECRET).all()


def test_a_kernel_that_writes_over_its_input_changes_no_later_answer(engine, store):
    graph = kaasq.Graph("scribbling")
    x, out = graph.input("x", shape=N, dtype="float32"), graph.output("out", shape=1, dtype="float32")
    graph.launch(MODULE.kernel("scribble"), grid=1, block=1, args=[x, out])
    stored = put(store, np.full(N, 7, np.float32))
    for _ in range(3):
        assert array(engine.run("t", *asked(graph, x=stored)), "out")[0] == 7
    flying = [engine.begin("t", *asked(graph, x=stored)) for _ in range(4)]
    assert [array(engine.end(each), "out")[0] for each in flying] == [7] * 4


def test_what_one_request_loads_the_next_finds_though_the_first_is_still_on_its_way(engine, store):
    x = np.random.default_rng(2).random(1 << 20, np.float32)
    stored = put(store, x)
    flying = [engine.begin("t", *asked(adding(const=True, n=1 << 20), x=stored)) for _ in range(4)]
    executed = [engine.end(each) for each in flying]
    for each in executed:
        np.testing.assert_array_equal(array(each, "y"), x)
    assert [each.cache.hits for each in executed] == [0, 2, 2, 2]  # the plan, and the object


def test_parts_of_an_object_are_told_apart(engine, store):
    x = np.arange(4 * N, dtype=np.float32)
    ref = put(store, x).ref
    for _ in range(2):
        for start in (0, N, 2 * N):
            part = Stored(ref=ref, offset=4 * start)
            result = array(engine.run("t", *asked(adding(const=True), x=part)), "y")
            np.testing.assert_array_equal(result, x[start : start + N])


def test_a_request_that_repeats_allocates_nothing(engine, device, store):
    stored = put(store, np.ones(N, np.float32))
    wanted = asked(adding(5, const=True), x=stored)
    for _ in range(2):
        engine.run("t", *wanted)
    before = device.allocations
    for _ in range(5):
        engine.run("t", *wanted)
    assert device.allocations == before


def test_cached_objects_and_idle_slots_make_room(engine, store):
    for index in range(12):  # 48 MiB of objects in a cache of 32
        stored = put(store, np.full(1 << 20, index, np.float32))
        assert array(engine.run("t", *asked(adding(const=True, n=1 << 20), x=stored)), "y")[5] == index
    large = 7 << 20  # floats; twice 28 of 64 MiB
    x = np.ones(large, np.float32)
    assert array(engine.run("t", *asked(adding(n=large), x=x)), "y").sum() == large


def test_what_does_not_fit_beside_others_fits_once_they_have_ended(engine):
    large = 5 << 20  # floats; twice 20 MiB, of 64
    wanted = asked(adding(n=large), x=np.ones(large, np.float32))
    first = engine.begin("t", *wanted)
    with pytest.raises(OutOfMemory):
        engine.begin("t", *wanted)
    small = engine.begin("t", *asked(adding(), x=np.ones(N, np.float32)))
    assert array(engine.end(first), "y")[-1] == 1
    assert array(engine.end(small), "y")[-1] == 1
    assert array(engine.run("t", *wanted), "y")[-1] == 1


def test_one_that_fails_costs_the_others_nothing(engine, store):
    good = asked(adding(3), x=np.ones(N, np.float32))
    gone = put(store, np.ones(N, np.float32))
    flying = [engine.begin("t", *good)]
    store.delete("t", ref=gone.ref)
    with pytest.raises(BufferMissing):
        engine.begin("t", *asked(adding(), x=gone))

    def stop() -> None:
        raise KaasqError("stopped")

    for _ in range(10):  # more than there are slots
        with pytest.raises(KaasqError, match="stopped"):
            engine.begin("t", *good, stop)
    flying += [engine.begin("t", *good) for _ in range(3)]
    with pytest.raises(RuntimeError, match="slots"):
        engine.begin("t", *good)
    for each in flying:
        np.testing.assert_array_equal(array(engine.end(each), "y"), np.full(N, 3))


def test_large_outputs_arrive_in_the_store(engine, store):
    n = 3 << 20
    x = np.random.default_rng(4).random(n, np.float32)
    flying = [engine.begin("t", *asked(adding(times, n=n), x=x)) for times in (1,)]
    flying.append(engine.begin("t", *asked(adding(), x=x[:N])))
    executed = [engine.end(each) for each in flying]
    (produced,) = executed[0].outputs
    assert not isinstance(produced.data, bytearray)
    with store.transaction() as transaction:
        stored, _ = transaction.publish(produced.data)
    with store.open("t", stored.ref) as reading:
        assert bytes(reading.data) == x.tobytes()
    np.testing.assert_array_equal(array(executed[1], "y"), x[:N])
