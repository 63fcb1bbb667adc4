"""What the engine adds to the device: whole requests beside the same kernels by hand. One GPU, half a minute.

Without broker and processes: requests go straight to the engine, which has a store in /dev/shm. Medians.

    PYTHONPATH=.:storage:workers:producers python3 ops/bench/engine.py --json engine.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cupy
import numpy as np

import kaasq
from kaasq.messages import Request, Stored
from kaasq.model import GraphSpec
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.executor.engine import Engine

SOURCE = r"""
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i] + y[i]; }
extern "C" __global__ void sweep(const float* from, float* to, int n)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x > 0 && y > 0 && x < n - 1 && y < n - 1)
    to[y * n + x] = 0.25f * (from[y * n + x - 1] + from[y * n + x + 1] + from[(y - 1) * n + x] + from[(y + 1) * n + x]);
}
extern "C" __global__ void spin(float* out, long long cycles)
{ long long start = clock64(); while (clock64() - start < cycles); out[0] += 1; }
"""
MODULE = kaasq.Module.from_source(SOURCE)
TENANT = "bench"
LARGE_BYTES = 256 << 20
Figures = dict[str, float]


def request(graph: GraphSpec, **bind: bytes | Stored) -> Request:
    """A request with those bindings."""
    return Request(graph=graph, bind=bind)


def timed(work: Callable[[], object], count: int) -> float:
    """Median microseconds, after a tenth of them to warm up."""
    for _ in range(max(2, count // 10)):
        work()
    spent = []
    for _ in range(count):
        start = time.perf_counter_ns()
        work()
        spent.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(spent)


def put(store: BufferStore, array: np.ndarray) -> Stored:
    """A binding to the array, stored."""
    return Stored(ref=store.put(TENANT, array.data.cast("B"))[0].ref)


def run(engine: Engine, spec: GraphSpec, asked: Request) -> Any:
    """Run it and drop what it gives."""
    executed = engine.run(TENANT, spec, asked)
    for each in executed.outputs:
        if not isinstance(each.data, bytearray):
            each.data.discard()
    return executed


def by_hand(launches: Callable[[], None]) -> tuple[Any, Any]:
    """The launches captured as a CUDA graph with CuPy, and their stream."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        launches()
        stream.synchronize()
        stream.begin_capture()
        launches()
        return stream, stream.end_capture()


def host(engine: Engine, store: BufferStore) -> Figures:
    """The smallest request: two cached weights, one input, one output of 4 KiB."""
    n = 1024
    graph = kaasq.Graph("host")
    x = graph.input("x", shape=n, dtype="float32", const=True)
    y = graph.input("y", shape=n, dtype="float32", const=True)
    z = graph.input("z", shape=n, dtype="float32")
    out = graph.output("out", shape=n, dtype="float32")
    for left, right in ((x, y), (z, out)):
        graph.launch(MODULE.kernel("saxpy"), grid=4, block=256, args=[np.float32(2), left, right, out, np.int32(n)])
    spec = graph.freeze()
    random = np.random.default_rng(0)
    bind: dict[str, Any] = {each: put(store, random.random(n, np.float32)) for each in "xy"}
    asked = request(spec, **bind, z=random.random(n, np.float32).tobytes())
    return {"request_us": timed(lambda: run(engine, spec, asked), 2000)}


def launches(engine: Engine, store: BufferStore) -> Figures:  # noqa: ARG001
    """100 launches, device time, beside a CUDA graph captured by hand."""
    n = 1024
    graph = kaasq.Graph("launches")
    x = graph.input("x", shape=n, dtype="float32")
    out = graph.output("out", shape=n, dtype="float32")
    for _ in range(100):
        graph.launch(MODULE.kernel("saxpy"), grid=4, block=256, args=[np.float32(0.5), x, out, out, np.int32(n)])
    spec = graph.freeze()
    asked = request(spec, x=np.ones(n, np.float32).tobytes())
    kernel = cupy.RawKernel(SOURCE, "saxpy")
    a, b = cupy.ones(n, cupy.float32), cupy.zeros(n, cupy.float32)

    def hand() -> None:
        for _ in range(100):
            kernel((4,), (256,), (np.float32(0.5), a, b, b, np.int32(n)))

    stream, captured = by_hand(hand)
    spent = []
    for _ in range(200):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        captured.launch(stream)
        end.record(stream)
        end.synchronize()
        spent.append(cupy.cuda.get_elapsed_time(begin, end) * 1000)
    for _ in range(5):
        run(engine, spec, asked)
    ours = statistics.median(run(engine, spec, asked).timings.kernel for _ in range(200))
    return {"kaasq_us": ours, "hand_us": statistics.median(spent), "ratio": ours / statistics.median(spent)}


def jacobi(engine: Engine, store: BufferStore) -> Figures:  # noqa: ARG001
    """3,000 sweeps over 512 x 512, a whole request beside copies and a captured graph by hand."""
    n, sweeps = 512, 3000
    graph = kaasq.Graph("jacobi")
    here = graph.inout("here", shape=(n, n), dtype="float32")
    there = graph.inout("there", shape=(n, n), dtype="float32")
    grid, block = (n // 32, n // 8), (32, 8)
    for source, target in ((here, there), (there, here)):
        graph.launch(MODULE.kernel("sweep"), grid=grid, block=block, args=[source, target, np.int32(n)])
    graph.iterations = sweeps // 2
    spec = graph.freeze()
    start = np.random.default_rng(1).random((n, n), np.float32)
    asked = request(spec, here=start.tobytes(), there=start.tobytes())
    kernel = cupy.RawKernel(SOURCE, "sweep")
    a, b = cupy.asarray(start), cupy.asarray(start)

    def steps() -> None:
        for _ in range(500):
            kernel(grid, block, (a, b, np.int32(n)))
            kernel(grid, block, (b, a, np.int32(n)))

    stream, captured = by_hand(steps)
    pinned = cupy.cuda.alloc_pinned_memory(2 * start.nbytes)
    host_a = np.frombuffer(pinned, np.float32, n * n).reshape(n, n)
    host_b = np.frombuffer(pinned, np.float32, n * n, offset=start.nbytes).reshape(n, n)

    def hand() -> None:
        host_a[:], host_b[:] = start, start
        a.set(host_a, stream)
        b.set(host_b, stream)
        for _ in range(sweeps // 1000):
            captured.launch(stream)
        a.get(stream, out=host_a, blocking=False)
        b.get(stream, out=host_b, blocking=False)
        stream.synchronize()
        host_a.tobytes(), host_b.tobytes()

    ours, other = timed(lambda: run(engine, spec, asked), 20), timed(hand, 20)
    result = run(engine, spec, asked).outputs[0].data
    hand()
    assert np.array_equal(np.frombuffer(result, np.float32).reshape(n, n), host_a)
    return {"kaasq_us": ours, "hand_us": other, "ratio": ours / other}


def products(engine: Engine, store: BufferStore) -> Figures:
    """Eight products of 2048 x 2048, weights cached, a whole request beside CuPy with everything resident."""
    n, depth = 2048, 8
    random = np.random.default_rng(2)
    weights = [random.random((n, n), np.float32) / n for _ in range(depth)]
    graph = kaasq.Graph("products")
    value: Any = graph.input("x", shape=(n, n), dtype="float32", const=True)
    bind: dict[str, Any] = {"x": put(store, random.random((n, n), np.float32))}
    for index, weight in enumerate(weights):
        w = graph.input(f"w{index}", shape=(n, n), dtype="float32", const=True)
        bind[f"w{index}"] = put(store, weight)
        made = graph.temp(f"y{index}", shape=(n, n), dtype="float32")
        graph.call("gemm", value, w, made)
        value = made
    graph.call("reduce", value, graph.output("total", shape=(), dtype="float32"), op="sum", axes=(0, 1))
    spec = graph.freeze()
    asked = request(spec, **bind)
    held, x = [cupy.asarray(each) for each in weights], cupy.asarray(random.random((n, n), np.float32))

    def hand() -> None:
        y = x
        for each in held:
            y = y @ each
        float(y.sum())

    ours = timed(lambda: run(engine, spec, asked), 20)
    kernel = run(engine, spec, asked).timings.kernel
    other = timed(hand, 20)
    return {"kaasq_us": ours, "kaasq_kernel_us": kernel, "hand_us": other, "ratio": ours / other}


def sharing(engine: Engine, store: BufferStore) -> Figures:  # noqa: ARG001
    """Kernels of one block and about half a millisecond: requests per second, one and eight in flight."""
    graph = kaasq.Graph("spin")
    out = graph.output("out", shape=1, dtype="float32")
    graph.launch(MODULE.kernel("spin"), grid=1, block=1, args=[out, np.int64(900_000)])
    spec = graph.freeze()
    asked = request(spec)
    figures: Figures = {}
    for in_flight in (1, 8):
        count = 400
        flying: deque[Any] = deque()
        warm_up = [engine.begin(TENANT, spec, asked) for _ in range(in_flight)]
        for each in warm_up:
            engine.end(each)
        start = time.perf_counter()
        for _ in range(count):
            if len(flying) == in_flight:
                engine.end(flying.popleft())
            flying.append(engine.begin(TENANT, spec, asked))
        while flying:
            engine.end(flying.popleft())
        figures[f"per_s_{in_flight}"] = count / (time.perf_counter() - start)
    return figures | {"ratio": figures["per_s_8"] / figures["per_s_1"]}


def copies(engine: Engine, store: BufferStore) -> Figures:
    """256 MiB from and into the store, beside pinned copies and the host's memcpy. GB/s."""
    n = LARGE_BYTES // 4
    data = np.random.default_rng(3).integers(0, 255, LARGE_BYTES, np.uint8)
    other = np.ones_like(data)
    memcpy = LARGE_BYTES / timed(lambda: np.copyto(other, data), 5) / 1e3
    pinned = cupy.cuda.alloc_pinned_memory(LARGE_BYTES)
    resident, stream = cupy.empty(n, cupy.float32), cupy.cuda.Stream(non_blocking=True)
    view = np.frombuffer(pinned, np.float32, n)

    def up() -> None:
        resident.set(view, stream)
        stream.synchronize()

    bus = LARGE_BYTES / timed(up, 5) / 1e3
    graph = kaasq.Graph("large.in")
    x = graph.input("x", shape=n, dtype="float32", const=True)
    out = graph.output("out", shape=4, dtype="float32")
    graph.launch(MODULE.kernel("saxpy"), grid=1, block=4, args=[np.float32(0), x, x, out, np.int32(4)])
    spec = graph.freeze()
    cold: list[float] = []
    again: list[float] = []
    h2d, warm_us = [], []
    wanted = []
    for index in range(5):  # more than the device's cache holds
        data[:8] = index
        wanted.append(request(spec, x=put(store, data)))
    for round_ in range(3):
        for asked in wanted:
            start = time.perf_counter()
            executed = run(engine, spec, asked)
            spent = time.perf_counter() - start
            if executed.cache.hits - min(1, round_ + len(cold)):
                warm_us.append(spent * 1e6)
            else:
                (again if round_ else cold).append(LARGE_BYTES / spent / 1e9)
            if round_ and executed.timings.h2d > 100:
                h2d.append(LARGE_BYTES / executed.timings.h2d / 1e3)
    graph = kaasq.Graph("large.out")
    seed = graph.input("seed", shape=4, dtype="float32")
    big = graph.output("big", shape=n, dtype="float32")
    graph.launch(MODULE.kernel("saxpy"), grid=1, block=4, args=[np.float32(1), seed, seed, big, np.int32(4)])
    spec = graph.freeze()
    written, d2h = [], []
    for index in range(5):
        asked = request(spec, seed=np.full(4, index, np.float32).tobytes())
        start = time.perf_counter()
        executed = run(engine, spec, asked)
        written.append(LARGE_BYTES / (time.perf_counter() - start) / 1e9)
        d2h.append(LARGE_BYTES / max(1, executed.timings.d2h) / 1e3)
    median = statistics.median
    return {
        "memcpy": memcpy, "pinned": bus, "cold_first_time": median(cold), "cold_again": median(again),
        "again_h2d": median(h2d), "cached_us": median(warm_us), "out_request": median(written), "out_d2h": median(d2h),
    }  # fmt: skip


def cyclic(engine: Engine, store: BufferStore) -> Figures:
    """Objects of 8 MiB in turn, 1.25 times what the cache holds: how many are found there, microseconds each."""
    nbytes = 8 << 20
    count = int(1.25 * engine.cache_bytes / nbytes)
    graph = kaasq.Graph("cyclic")
    x = graph.input("x", shape=nbytes // 4, dtype="float32", const=True)
    out = graph.output("out", shape=4, dtype="float32")
    graph.launch(MODULE.kernel("saxpy"), grid=1, block=4, args=[np.float32(0), x, x, out, np.int32(4)])
    spec = graph.freeze()
    refs = [put(store, np.full(nbytes // 4, index, np.float32)) for index in range(count)]
    hits, spent = 0, []
    for round_ in range(8):
        for ref in refs:
            start = time.perf_counter()
            executed = run(engine, spec, request(spec, x=ref))
            if round_ >= 3:
                spent.append((time.perf_counter() - start) * 1e6)
                hits += executed.cache.hits - 1
    return {"objects": count, "hit_rate": hits / (5 * count), "mean_us": statistics.mean(spent)}


PARTS = [host, launches, jacobi, products, sharing, copies, cyclic]
MEMORY_BYTES = {copies: 1200 << 20, cyclic: 512 << 20}


def main() -> None:
    """Measure what is asked for, each part on a device of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("parts", nargs="*", default=[each.__name__ for each in PARTS])
    arguments = parser.parse_args()
    folder = tempfile.mkdtemp(dir="/dev/shm")
    figures: dict[str, Any] = {}
    try:
        store = open_store(folder, sync=False)
        for part in PARTS:
            if part.__name__ not in arguments.parts:
                continue
            device = CudaDevice(0, memory_limit=MEMORY_BYTES.get(part, 8 << 30))
            engine = Engine(device, store, inline_limit=64 << 20)
            try:
                figures[part.__name__] = {key: round(value, 3) for key, value in part(engine, store).items()}
            except Exception as error:  # noqa: BLE001 - the other parts go on
                traceback.print_exc()
                figures[part.__name__] = repr(error)
            print(part.__name__, figures[part.__name__], flush=True)
            engine.close()
            device.close()
            cupy.get_default_memory_pool().free_all_blocks()
    finally:
        shutil.rmtree(folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
