"""The engine on each device: several requests on their way, memory used again, what is shared and what shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.errors import BufferMissing, BufferSize, KaasqError, OutOfMemory
from kaasq.messages import Request, Stored
from kaasq.model import GraphSpec
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Executed
from kaasq_workers.executor.resident import Resident, Taken
from tests.support.devices import Poisoned

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


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def bare(request: pytest.FixtureRequest, code_folder: Path) -> Iterator[Device]:
    opened: Device
    if request.param == "cpu":
        from kaasq_workers.devices.cpu import CpuDevice

        opened = CpuDevice(cache_dir=code_folder / "cpu", memory_limit=MEMORY)
    else:
        from kaasq_workers.devices.cuda import CudaDevice

        opened = CudaDevice(0, cache_dir=code_folder / "cuda", memory_limit=MEMORY)
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


# ---------------------------------------------------------------------------------------------- outputs that stay here


def doubled(n: int = N, *, builtin: bool = False) -> kaasq.Graph:
    """y = 2 x, by a kernel that spoils x, or by a built-in that only reads it."""
    graph = kaasq.Graph(f"doubled.{n}.{builtin}")
    x, y = graph.input("x", shape=n, dtype="float32"), graph.output("y", shape=n, dtype="float32")
    if builtin:
        graph.call("add", x, x, y)
    else:
        graph.launch(MODULE.kernel("add"), grid=4, block=128, args=[np.float32(2), x, y, np.int32(n)])
        graph.launch(MODULE.kernel("scribble"), grid=1, block=1, args=[x, graph.temp("t", shape=1, dtype="float32")])
    return graph


def hold(engine: Engine, graph: kaasq.Graph, tenant: str = "t", **given: Any) -> Resident:
    """Its output y, which stays on the device."""
    bind = {name: each for name, each in given.items() if not isinstance(each, Taken)}
    resident = {name: each for name, each in given.items() if isinstance(each, Taken)}
    executed = engine.end(engine.begin(tenant, *asked(graph, **bind), resident=resident, hold={"y"}))
    assert "y" not in {each.buffer.name for each in executed.outputs}
    return executed.held["y"]


def read(resident: Resident, n: int = N, offset: int = 0) -> np.ndarray:
    data = bytearray(4 * n)
    resident.read(offset, memoryview(data))
    return np.frombuffer(data, np.float32)


def test_a_chain_of_a_hundred_copies_nothing_through_the_host_in_between(engine, device):
    n = 1 << 18  # a MiB
    held = hold(engine, doubled(n), x=np.full(n, 2.0**-60, np.float32))
    for _ in range(3):
        held = hold(engine, doubled(n), x=Taken(held, last=True))
    device.copied.clear()
    allocations = device.allocations
    for _ in range(96):
        held = hold(engine, doubled(n), x=Taken(held, last=True))
    assert device.copied == {}  # not even on the device
    assert device.allocations == allocations
    result = engine.end(engine.begin("t", *asked(doubled(n)), resident={"x": Taken(held, last=True)}))
    np.testing.assert_array_equal(array(result, "y"), np.full(n, 2.0**41, np.float32))


def test_what_others_need_is_copied_for_who_may_write_to_it_and_shared_by_who_only_reads(engine, device):
    held = hold(engine, doubled(), x=np.arange(N, dtype=np.float32))
    device.copied.clear()
    for _ in range(3):
        assert array(engine.end(engine.begin("t", *asked(doubled()), resident={"x": Taken(held)})), "y")[7] == 28
    assert device.copied["here"] == 3 * 4 * N
    for _ in range(3):
        wanted = asked(doubled(builtin=True))
        assert array(engine.end(engine.begin("t", *wanted, resident={"x": Taken(held)})), "y")[7] == 28
    assert device.copied["here"] == 3 * 4 * N
    assert device.copied["in"] == 0
    np.testing.assert_array_equal(read(held), 2 * np.arange(N, dtype=np.float32))
    engine.let_go(held)
    engine.let_go(held)


def test_two_inputs_of_one_request_that_take_the_same_do_not_see_each_others_writes(engine):
    held = hold(engine, doubled(), x=np.ones(N, np.float32))
    graph = kaasq.Graph("twice")
    x, z, y = (graph.input(name, shape=N, dtype="float32") for name in ("x", "z", "w"))
    out = graph.output("y", shape=N, dtype="float32")
    first = graph.temp("first", shape=1, dtype="float32")
    graph.launch(MODULE.kernel("scribble"), grid=1, block=1, args=[x, first])
    for each in (z, y):
        graph.launch(MODULE.kernel("add"), grid=4, block=128, args=[np.float32(1), each, out, np.int32(N)])
    taken = Taken(held, last=True)
    executed = engine.end(engine.begin("t", *asked(graph), resident={"x": taken, "z": taken, "w": taken}))
    np.testing.assert_array_equal(array(executed, "y"), np.full(N, 4, np.float32))


@pytest.mark.parametrize("offset", [0, 4, 256, 1000])
def test_a_part_of_what_stayed_is_taken_from_its_offset_on(engine, offset):
    n = 300
    held = hold(engine, doubled(), x=np.arange(N, dtype=np.float32))
    executed = engine.end(engine.begin("t", *asked(doubled(n)), resident={"x": Taken(held, offset, last=True)}))
    np.testing.assert_array_equal(array(executed, "y"), 4 * np.arange(offset // 4, offset // 4 + n, dtype=np.float32))


def test_a_part_beyond_its_end_is_refused_and_harms_nothing(engine):
    held = hold(engine, doubled(), x=np.ones(N, np.float32))
    with pytest.raises(BufferSize, match="'x'"):
        engine.begin("t", *asked(doubled(n=300)), resident={"x": Taken(held, 4 * N - 400, last=True)})
    np.testing.assert_array_equal(read(held), np.full(N, 2, np.float32))


def swapping() -> kaasq.Graph:
    """Two inouts, each of which counts up by its own amount."""
    graph = kaasq.Graph("swapping")
    ones = graph.input("ones", shape=N, dtype="float32", const=True)
    for name, by in (("a", 1.0), ("b", 10.0)):
        inout = graph.inout(name, shape=N, dtype="float32")
        graph.launch(MODULE.kernel("add"), grid=4, block=128, args=[np.float32(by), ones, inout, np.int32(N)])
    return graph


def test_inouts_change_places_without_being_copied(engine, device, store):
    ones = put(store, np.ones(N, np.float32))
    graph = swapping()
    start = {"a": np.zeros(N, np.float32), "b": np.full(N, 1000, np.float32)}
    held = engine.end(engine.begin("t", *asked(graph, ones=ones, **start), hold={"a", "b"})).held
    a, b = 1.0, 1010.0
    device.copied.clear()
    for _ in range(9):
        resident = {"a": Taken(held["b"], last=True), "b": Taken(held["a"], last=True)}
        held = engine.end(engine.begin("t", *asked(graph, ones=ones), resident=resident, hold={"a", "b"})).held
        a, b = b + 1, a + 10
    assert device.copied["here"] == 0
    assert (read(held["a"])[-1], read(held["b"])[-1]) == (a, b)


def test_outputs_that_stay_and_outputs_that_go_come_from_one_request(engine, device):
    graph = kaasq.Graph("both")
    x = graph.input("x", shape=N, dtype="float32", const=True)
    for name, by in (("y", 1.0), ("z", 3.0)):
        args = [np.float32(by), x, graph.output(name, shape=N, dtype="float32"), np.int32(N)]
        graph.launch(MODULE.kernel("add"), grid=4, block=128, args=args)
    device.copied.clear()
    executed = engine.end(engine.begin("t", *asked(graph, x=np.ones(N, np.float32)), hold={"y"}))
    assert [each.buffer.name for each in executed.outputs] == ["z"]
    assert device.copied["out"] == 4 * N
    assert (array(executed, "z")[0], read(executed.held["y"])[0]) == (3, 1)


def test_what_stays_goes_to_the_host_where_others_need_the_memory_or_the_slots(engine):
    x = np.arange(N, dtype=np.float32)
    many = [hold(engine, doubled(), x=x + index) for index in range(30)]  # far more than there are slots for
    large = 6 << 20  # floats; with its output 48 of 64 MiB
    some = hold(engine, doubled(5 << 20), x=np.ones(5 << 20, np.float32))
    assert array(engine.run("t", *asked(adding(n=large), x=np.ones(large, np.float32))), "y")[-1] == 1
    assert some.memory is None
    assert read(some, 5 << 20)[-1] == 2
    for index, held in enumerate(many):
        executed = engine.end(engine.begin("t", *asked(doubled()), resident={"x": Taken(held, last=True)}))
        np.testing.assert_array_equal(array(executed, "y"), 4 * (x + index))


def test_a_request_that_only_fits_without_what_it_takes_still_runs(engine):
    n = 7 << 20  # floats: 28 MiB, and twice as much for the request, of 64
    held = hold(engine, doubled(n), x=np.ones(n, np.float32))
    assert held.memory is not None
    executed = engine.end(engine.begin("t", *asked(doubled(n)), resident={"x": Taken(held)}))
    assert array(executed, "y")[-1] == 4
    assert read(held, n)[-1] == 2


def test_what_stayed_for_one_tenant_is_zeroed_before_another_has_the_memory(engine):
    n = 32 << 10
    graph = kaasq.Graph("secrets")
    x, y = graph.input("x", shape=n, dtype="float32"), graph.output("y", shape=n, dtype="float32")
    graph.launch(MODULE.kernel("peek"), grid=1, block=128, args=[x, np.int64(0), y, np.int32(n)])
    secret = np.full(n, SECRET, np.uint32).view(np.float32)
    for _ in range(4):
        engine.let_go(hold(engine, graph, "a", x=secret))
        for _ in range(3):
            assert not np.any(array(engine.run("b", *asked(peeking(n, n))), "out", "u4"))


def test_a_request_that_fails_lets_go_of_what_it_was_given_only_if_it_had_begun(engine):
    held = hold(engine, doubled(), x=np.ones(N, np.float32))

    def stop() -> None:
        raise KaasqError("stopped")

    for _ in range(20):  # more than there are slots
        with pytest.raises(KaasqError, match="stopped"):
            engine.begin("t", *asked(doubled()), stop, resident={"x": Taken(held, last=True)}, hold={"y"})
    after = hold(engine, doubled(), x=Taken(held, last=True))
    assert read(after)[0] == 4
    with pytest.raises(AssertionError):
        engine.begin("other", *asked(doubled()), resident={"x": Taken(after)})


def test_guard_mode_watches_requests_that_take_what_others_left(device, store):
    engine = Engine(device, store, inline_limit=1 << 20, guard_band=4096)
    try:
        held = hold(engine, doubled(), x=np.ones(N, np.float32))
        for _ in range(4):
            held = hold(engine, doubled(), x=Taken(held, last=True))
        assert read(held)[-1] == 2**5
        assert device.copied["here"] == 0
    finally:
        engine.close()
