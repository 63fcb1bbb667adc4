"""What the engine adds to the device: whole requests, without broker and processes, beside the same kernels by hand."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from kaasq import Graph, Module
from kaasq.messages import Request, Stored
from kaasq_bench import bars
from kaasq_bench.answers import WrongAnswer, check
from kaasq_bench.engine_side import TENANT, add_saxpy, dropped, engine_of, first_output
from kaasq_bench.figures import Row, alone, compare
from kaasq_bench.graphs import Floats, Program, Step
from kaasq_bench.parts.engine_objects import copies_case, cyclic_case
from kaasq_bench.peers.resident import cpu_loop
from kaasq_bench.rounds import interleaved, median_us
from kaasq_bench.setting import Setting
from kaasq_bench.sources import SAXPY
from kaasq_bench.suite import Case

SWEEP = r"""
extern "C" __global__ void sweep(const float* from, float* to, int n)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x > 0 && y > 0 && x < n - 1 && y < n - 1)
    to[y * n + x] = 0.25f * (from[y * n + x - 1] + from[y * n + x + 1] + from[(y - 1) * n + x] + from[(y + 1) * n + x]);
}
"""
SPIN = r"""
extern "C" __global__ void spin(float* out, long long cycles)
{ long long start = clock64(); while (clock64() - start < cycles); out[0] += 1; }
"""
LAUNCHES, SMALL = 100, 1024
SWEEPS, SQUARE = 3000, 512
CYCLES = 900_000  # half a millisecond of an H100
IN_FLIGHT = 8
CAPTURED, BARE = "captured graph", "bare device loop"


def host_case(setting: Setting) -> Iterator[Row]:
    """The smallest request: two cached weights, one input, one output of 4 KiB."""
    graph = Graph("host")
    x = graph.input("x", shape=SMALL, dtype="float32", const=True)
    y = graph.input("y", shape=SMALL, dtype="float32", const=True)
    z = graph.input("z", shape=SMALL, dtype="float32")
    out = graph.output("out", shape=SMALL, dtype="float32")
    for left, right in ((x, y), (z, out)):
        add_saxpy(graph, 2, left, right, out, grid=4, block=256, n=SMALL)
    spec = graph.freeze()
    random = np.random.default_rng(0)
    with engine_of(setting) as under:
        bind: dict[str, Any] = {each: under.put(random.random(SMALL, np.float32)) for each in "xy"}
        asked = Request(graph=spec, bind={**bind, "z": random.random(SMALL, np.float32).tobytes()})
        work = partial(under.run, spec, asked)
        given = interleaved(setting.rounds, {"kaasq": lambda: median_us(work, setting.pick(200, 400))})
    yield alone("two launches on 4 KiB, weights cached", "us", given["kaasq"], bars.CACHED_EXECUTOR_US)


def launches_case(setting: Setting) -> Iterator[Row]:
    """100 launches, the device's time, beside a CUDA graph captured by hand; on the cpu, beside the bare device."""
    graph = Graph("launches")
    x = graph.input("x", shape=SMALL, dtype="float32")
    out = graph.output("out", shape=SMALL, dtype="float32")
    for _ in range(LAUNCHES):
        add_saxpy(graph, 0.5, x, out, out, grid=4, block=256, n=SMALL)
    spec = graph.freeze()
    ones = np.ones(SMALL, np.float32)
    asked = Request(graph=spec, bind={"x": ones.tobytes()})
    with engine_of(setting) as under, _launches_by_hand(setting, ones) as (peer, by_hand):

        def ours() -> float:
            return max(1.0, under.run(spec, asked).timings.kernel)

        count = setting.pick(20, 40)
        sides = {"kaasq": _median(ours, count), peer: _median(by_hand, count)}
        given = interleaved(setting.rounds, sides)
    bar = bars.LAUNCHES_BESIDE_CAPTURED if setting.gpu else None
    yield compare(f"{LAUNCHES} small launches: device", "us", given["kaasq"], peer, given[peer], bar)


def jacobi_case(setting: Setting) -> Iterator[Row]:
    """3,000 sweeps over 512 x 512, a whole request beside copies and a captured graph by hand."""
    index = setting.gpu_index
    from kaasq_bench.peers.captured import CapturedSweeps

    graph = Graph("jacobi")
    here = graph.inout("here", shape=(SQUARE, SQUARE), dtype="float32")
    there = graph.inout("there", shape=(SQUARE, SQUARE), dtype="float32")
    kernel = Module.from_source(SWEEP).kernel("sweep")
    for source, target in ((here, there), (there, here)):
        graph.launch(kernel, grid=(SQUARE // 32, SQUARE // 8), block=(32, 8), args=[source, target, np.int32(SQUARE)])
    graph.iterations = SWEEPS // 2
    spec = graph.freeze()
    start = np.random.default_rng(1).random((SQUARE, SQUARE), np.float32)
    asked = Request(graph=spec, bind={"here": start.tobytes(), "there": start.tobytes()})
    with engine_of(setting) as under:
        by_hand = CapturedSweeps(index, SWEEP, SWEEPS, start)
        if first_output(under.run(spec, asked)).tobytes() != by_hand.run():
            raise WrongAnswer("kaasq's sweeps do not give what the captured graph gives")
        sides: dict[str, Callable[[], object]] = {"kaasq": partial(under.run, spec, asked), CAPTURED: by_hand.run}
        given = interleaved(setting.rounds, {name: _times(side, 5) for name, side in sides.items()})
    what = f"Jacobi, {SWEEPS:,} sweeps of {SQUARE} x {SQUARE}: whole request"
    yield compare(what, "us", given["kaasq"], CAPTURED, given[CAPTURED], bars.JACOBI_BESIDE_CAPTURED)


def products_case(setting: Setting) -> Iterator[Row]:
    """Eight products, weights cached, a whole request beside CuPy (or NumPy) with everything resident."""
    n, depth = (2048, 8) if setting.gpu else (setting.pick(256, 512), 8)
    random = np.random.default_rng(2)
    weights = [random.random((n, n), np.float32) / n for _ in range(depth)]
    x = random.random((n, n), np.float32)
    graph = Graph("products")
    value: Any = graph.input("x", shape=(n, n), dtype="float32", const=True)
    for index in range(depth):
        w = graph.input(f"w{index}", shape=(n, n), dtype="float32", const=True)
        made = graph.temp(f"y{index}", shape=(n, n), dtype="float32")
        graph.call("gemm", value, w, made)
        value = made
    graph.call("reduce", value, graph.output("total", shape=(), dtype="float32"), op="sum", axes=(0, 1))
    spec = graph.freeze()
    with engine_of(setting) as under:
        bind: dict[str, bytes | Stored] = {
            "x": under.put(x),
            **{f"w{index}": under.put(each) for index, each in enumerate(weights)},
        }
        asked = Request(graph=spec, bind={**bind, "x": under.put(x)})
        peer, by_hand = _products_by_hand(setting, weights, x)
        check(peer, {"total": np.float32(by_hand())}, {"total": first_output(under.run(spec, asked))})
        kernels: list[float] = []

        def ours() -> None:
            kernels.append(under.run(spec, asked).timings.kernel)

        sides: dict[str, Callable[[], object]] = {"kaasq": ours, peer: by_hand}
        given = interleaved(setting.rounds, {name: _times(side, 5) for name, side in sides.items()})
    what = f"{depth} products of {n} x {n}"
    bar = bars.GEMM_CHAIN_BESIDE_RESIDENT if setting.gpu else None
    yield compare(f"{what}: whole request", "us", given["kaasq"], peer, given[peer], bar)
    yield alone(f"{what}: device", "us", kernels)


def small_grids_case(setting: Setting) -> Iterator[Row]:
    """Kernels of one block and about half a millisecond: requests per second, one and eight in flight."""
    _ = setting.gpu_index
    graph = Graph("spin")
    out = graph.output("out", shape=1, dtype="float32")
    graph.launch(Module.from_source(SPIN).kernel("spin"), grid=1, block=1, args=[out, np.int64(CYCLES)])
    spec = graph.freeze()
    asked = Request(graph=spec)
    with engine_of(setting) as under:

        def per_s(in_flight: int, count: int) -> float:
            flying: deque[Any] = deque()
            start = time.perf_counter()
            for _ in range(count):
                if len(flying) == in_flight:
                    dropped(under.engine.end(flying.popleft()))
                flying.append(under.engine.begin(TENANT, spec, asked))
            while flying:
                dropped(under.engine.end(flying.popleft()))
            return count / (time.perf_counter() - start)

        count = setting.pick(200, 400)
        given = interleaved(
            setting.rounds, {str(n): partial(per_s, n, count if n == 1 else 4 * count) for n in (1, IN_FLIGHT)}
        )
    what = f"kernels of one block and half a millisecond, {IN_FLIGHT} in flight"
    yield compare(what, "/s", given[str(IN_FLIGHT)], "kaasq, 1 in flight", given["1"], bars.SMALL_GRIDS_TOGETHER)


@contextmanager
def _launches_by_hand(setting: Setting, x: Floats) -> Iterator[tuple[str, Callable[[], float]]]:
    if setting.gpu:
        from kaasq_bench.peers.captured import CapturedLaunches

        yield CAPTURED, CapturedLaunches(setting.gpu_index, SAXPY, LAUNCHES, SMALL).device_us
        return
    step = Step("saxpy", 4, 256, (np.float32(0.5), "x", "out", "out", np.int32(SMALL)))
    program = Program("launches", SAXPY, (step,) * LAUNCHES, 1, {}, {"x": x}, {}, {"out": SMALL})
    with cpu_loop(program, setting.disk / "cache" / "cpu") as loop:
        yield BARE, lambda: loop.run().device_us


def _products_by_hand(setting: Setting, weights: list[Any], x: Any) -> tuple[str, Callable[[], float]]:
    if setting.gpu:
        from kaasq_bench.peers.captured import ResidentProducts

        return "resident CuPy", ResidentProducts(setting.gpu_index, weights, x).run

    def by_numpy() -> float:
        y = x
        for each in weights:
            y = y @ each
        return float(y.sum())

    return "resident NumPy", by_numpy


def _median(figure: Callable[[], float], count: int) -> Callable[[], float]:
    return lambda: statistics.median(figure() for _ in range(count))


def _times(work: Callable[[], object], count: int) -> Callable[[], float]:
    return lambda: median_us(work, count)


CASES = (
    Case("smallest request", host_case),
    Case("launches", launches_case),
    Case("Jacobi", jacobi_case),
    Case("matrix products", products_case),
    Case("small kernels in flight", small_grids_case),
    Case("large objects", copies_case),
    Case("objects in turn", cyclic_case),
)
