"""Guard mode on each device: what a launch does outside of its buffers, or to const ones, is told with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.errors import KernelFailed
from kaasq.messages import Request, Stored
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Executed

BAND = 1000  # no multiple of 256
N = 100

SOURCE = r"""
extern "C" __global__ void fill(float* out, int n) { if (threadIdx.x < n) out[threadIdx.x] = threadIdx.x; }
extern "C" __global__ void stray(float* out, int at) {
    __syncthreads();
    if (threadIdx.x == 0) out[at] = 1.5f;
}
extern "C" __global__ void read_past(const float* x, float* out) { out[0] = x[0] + 0.0f * (x[100] != x[101]); }
extern "C" __global__ void scribble(float* x, float* out) { if (threadIdx.x == 0) { x[3] += 1; out[0] = x[3]; } }
"""
MODULE = kaasq.Module.from_source(SOURCE)


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, code_folder: Path) -> Iterator[Device]:
    if request.param == "cpu":
        from kaasq_workers.devices.cpu import CpuDevice

        opened: Device = CpuDevice(cache_dir=code_folder / "cpu", guard=True)
    else:
        from kaasq_workers.devices.cuda import CudaDevice

        opened = CudaDevice(0, cache_dir=code_folder / "cuda")
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BufferStore]:
    with open_store(tmp_path / "store", sync=False) as opened:
        yield opened


def run(device: Device, store: BufferStore, graph: kaasq.Graph, **bind: Any) -> Executed:
    engine = Engine(device, store, inline_limit=1 << 20, guard_band=BAND)
    return engine.run("guest", graph.freeze(), Request(graph=graph.freeze(), bind=bind))


def straying(at: int, *, iterations: int = 1) -> kaasq.Graph:
    graph = kaasq.Graph("straying")
    first, out = graph.temp("first", shape=(N,), dtype="float32"), graph.output("out", shape=(N,), dtype="float32")
    graph.launch(MODULE.kernel("fill"), grid=1, block=128, args=[first, np.int32(N)])
    graph.launch(MODULE.kernel("fill"), grid=1, block=128, args=[out, np.int32(N)])
    graph.launch(MODULE.kernel("stray"), grid=1, block=32, args=[out, np.int32(at)])
    graph.iterations = iterations
    return graph


@pytest.mark.parametrize(
    ("at", "offset", "where"),
    [
        (N, 4 * N, "from 1 to 4 bytes past the end"),
        (N + 200, 4 * (N + 200), "from 801 to 804 bytes past the end"),
        (-1, -4, "from 1 to 4 bytes before the start"),
        (-200, -800, "from 797 to 800 bytes before the start"),
    ],
)
def test_a_write_outside_of_a_buffer_is_told_with_buffer_distance_kernel_and_launch(
    device: Device, store: BufferStore, at: int, offset: int, where: str
) -> None:
    with pytest.raises(KernelFailed) as caught:
        run(device, store, straying(at))
    error = caught.value
    assert (error.buffer, error.kernel, error.launch) == ("out", "stray", "graph.launches[2]")
    assert (error.offset, error.changed) == (offset, 4)
    assert where in error.message
    assert error.message.startswith("graph.launches[2]: kernel 'stray' wrote outside of buffer 'out' of 400 bytes")


def test_a_launch_in_a_later_iteration_is_counted_within_its_own(device: Device, store: BufferStore) -> None:
    source = """extern "C" __global__ void count(int* seen, int* out) {
        if (threadIdx.x == 0) { seen[0]++; out[seen[0] == 3 ? 1 : 0] = seen[0]; }
    }"""
    graph = kaasq.Graph("late")
    seen, out = graph.temp("seen", nbytes=4), graph.output("out", nbytes=4)
    module = kaasq.Module.from_source(source)
    graph.launch(MODULE.kernel("fill"), grid=1, block=1, args=[out, np.int32(1)])
    graph.launch(module.kernel("count"), grid=1, block=1, args=[seen, out])
    graph.iterations = 2
    run(device, store, graph)
    graph.iterations = 3
    with pytest.raises(KernelFailed) as caught:
        run(device, store, graph)
    assert (caught.value.buffer, caught.value.launch) == ("out", "graph.launches[1]")


@pytest.mark.parametrize("stored", [False, True])
def test_a_const_input_that_is_written_to_is_told_and_the_stored_object_stays(
    device: Device, store: BufferStore, stored: bool
) -> None:
    x = np.arange(N, dtype=np.float32)
    graph = kaasq.Graph("promise")
    given = graph.input("x", shape=(N,), dtype="float32", const=True)
    out = graph.output("out", shape=(N,), dtype="float32")
    graph.launch(MODULE.kernel("scribble"), grid=1, block=32, args=[given, out])
    ref = store.put("guest", x.tobytes())[0].ref
    bound = Stored(ref=ref) if stored else x.tobytes()
    for _ in range(2):
        with pytest.raises(KernelFailed, match="declares const") as caught:
            run(device, store, graph, x=bound)
        assert (caught.value.buffer, caught.value.kernel, caught.value.launch) == ("x", "scribble", "graph.launches[0]")
        assert caught.value.offset // 4 == 3
    with store.open("guest", ref) as reading:
        assert bytes(reading.data) == x.tobytes()


def test_what_keeps_to_its_buffers_runs_as_ever_and_is_aligned(device: Device, store: BufferStore) -> None:
    source = """extern "C" __global__ void where(const char* x, unsigned long long* out, char* odd) {
        out[0] = (unsigned long long)x; out[1] = (unsigned long long)odd; odd[12] = 1; out[2] = x[6];
    }"""
    graph = kaasq.Graph("aligned")
    x, out, odd = (
        graph.input("x", nbytes=7),
        graph.output("out", shape=(3,), dtype="uint64"),
        graph.temp("odd", nbytes=13),
    )
    graph.launch(kaasq.Module.from_source(source).kernel("where"), grid=1, block=1, args=[x, out, odd])
    (produced,) = run(device, store, graph, x=b"abcdefg").outputs
    values = np.frombuffer(produced.data, np.uint64)
    assert not (values[:2] % 256).any()
    assert values[2] == ord("g")


def test_an_input_may_be_written_to_where_nothing_was_promised(device: Device, store: BufferStore) -> None:
    graph = kaasq.Graph("input")
    x, out = graph.input("x", shape=(N,), dtype="float32"), graph.output("out", shape=(N,), dtype="float32")
    graph.launch(MODULE.kernel("scribble"), grid=1, block=32, args=[x, out])
    (produced,) = run(device, store, graph, x=np.zeros(N, np.float32).tobytes()).outputs
    assert np.frombuffer(produced.data, np.float32)[0] == 1
