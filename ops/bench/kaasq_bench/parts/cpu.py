"""Barrier-free kernels on the cpu device beside NumPy, each on data that is there, into memory that is there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from kaasq import Graph, Module, local
from kaasq_bench import bars
from kaasq_bench.answers import check
from kaasq_bench.figures import Row, compare
from kaasq_bench.graphs import Floats
from kaasq_bench.rounds import interleaved, seconds
from kaasq_bench.setting import Setting
from kaasq_bench.sources import SAXPY, TOUCH
from kaasq_bench.suite import Case

BLOCK = (32, 8)
LONG_ITERATIONS = 50
BUSY_S = 0.2
THREADS = "NumPy on a thread for each core"
REPEATS = 3  # behind one figure of a round, which is the least: what others do to a shared core only adds

STRIDED = r"""
extern "C" __global__ void strided(float a, const float* x, const float* y, float* out, int n)
{ for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = a * x[i] + y[i]; }
"""
EXPONENTIAL = r"""
extern "C" __global__ void exponential(const float* x, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = expf(x[i]); }
"""
SCALE = r"""
extern "C" __global__ void scale(const float* u, float* out, int w, int h)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x < w && y < h) out[y * w + x] = 2.0f * u[y * w + x] + 1.0f;
}
"""
HEAT = r"""
extern "C" __global__ void heat(const float* u, float* out, int w, int h)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x > 0 && x < w - 1 && y > 0 && y < h - 1)
    out[y * w + x] = 0.25f * (u[y * w + x - 1] + u[y * w + x + 1] + u[(y - 1) * w + x] + u[(y + 1) * w + x]);
}
"""
TRANSPOSE = r"""
extern "C" __global__ void transpose(const float* u, float* out, int n)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x < n && y < n) out[x * n + y] = u[y * n + x];
}
"""


class Kernel(NamedTuple):
    """One kernel and NumPy's way to say it, over the same inputs. ``numpy`` writes into its last argument."""

    name: str
    source: str
    inputs: Mapping[str, Floats]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    numbers: tuple[np.generic, ...]
    numpy: Callable[..., None]
    leading: tuple[np.generic, ...] = ()


def kernel_case(make: Callable[[int], Kernel], setting: Setting) -> Iterator[Row]:
    """Time in the kernel as the reply tells it, which is that of the launches alone."""
    kernel = make(setting.pick(1024, 4096))
    out = np.zeros_like(next(iter(kernel.inputs.values())))
    kernel.numpy(*kernel.inputs.values(), out)
    with local(device="cpu") as client:
        bound = {name: client.put(array) for name, array in kernel.inputs.items()}
        check("NumPy", {"out": out.reshape(-1)}, client.run(_graph(kernel, out.size, whole=True), bind=bound))
        timed = _graph(kernel, out.size, whole=False)

        def ours() -> float:
            return max(1, client.run(timed, bind=bound).timings.kernel) * 1e-6

        sides = {"kaasq": ours, "NumPy": lambda: seconds(partial(kernel.numpy, *kernel.inputs.values(), out))}
        given = interleaved(setting.rounds, {name: _least(side) for name, side in sides.items()})
    rates = {name: [out.size / each / 1e6 for each in times] for name, times in given.items()}
    what = f"{kernel.name}, {out.size >> 20} Mi floats"
    yield compare(what, "M/s", rates["kaasq"], "NumPy", rates["NumPy"], bars.CPU_BESIDE_NUMPY)


def cores_case(setting: Setting) -> Iterator[Row]:
    """How many cores a kernel keeps busy: this process's time on processors by the time in the kernel.

    Beside it as many threads as there are cores, each with a NumPy loop: what others use, neither can have.
    """
    kernel = _exponential(1024)
    x = kernel.inputs["x"]
    graph = _graph(kernel, x.size, whole=False)
    graph.iterations = LONG_ITERATIONS
    with local(device="cpu") as client:
        bound = {name: client.put(array) for name, array in kernel.inputs.items()}

        def ours() -> float:
            before = time.process_time()
            kernel_s = client.run(graph, bind=bound).timings.kernel * 1e-6
            return (time.process_time() - before) / kernel_s

        sides: dict[str, Callable[[], float]] = {"kaasq": ours, THREADS: partial(_busy_threads, x)}
        given = interleaved(setting.rounds, sides)
    yield compare("cores at work", "", given["kaasq"], THREADS, given[THREADS], bars.CPU_CORES_AT_WORK)


def _busy_threads(x: Floats) -> float:
    count = len(os.sched_getaffinity(0))
    outs = [np.empty_like(x) for _ in range(count)]
    before, start = time.process_time(), time.perf_counter()

    def loop(out: Floats) -> None:
        while time.perf_counter() - start < BUSY_S:
            np.exp(x, out=out)

    with ThreadPoolExecutor(count) as threads:
        list(threads.map(loop, outs))
    return (time.process_time() - before) / (time.perf_counter() - start)


def _graph(kernel: Kernel, size: int, *, whole: bool) -> Graph:
    """``whole``: its result is the output; else only the first number is, so that what is timed copies nothing out."""
    graph = Graph(f"bench.{kernel.name}")
    inputs = [graph.input(name, shape=a.shape, dtype="float32", const=True) for name, a in kernel.inputs.items()]
    out = (graph.output if whole else graph.temp)("out", shape=size, dtype="float32")
    entry = Module.from_source(kernel.source).kernel(kernel.name)
    arguments: list[Any] = [*kernel.leading, *inputs, out, *kernel.numbers]
    graph.launch(entry, grid=kernel.grid, block=kernel.block, args=arguments)
    if not whole:
        first = graph.output("first", shape=1, dtype="float32")
        graph.launch(Module.from_source(TOUCH).kernel("touch"), grid=1, block=1, args=[out, first])
    return graph


def _least(side: Callable[[], float]) -> Callable[[], float]:
    return lambda: min(side() for _ in range(REPEATS))


def _saxpy(side: int) -> Kernel:
    return _line("saxpy", SAXPY, side, blocks=-(-side * side // 256))


def _strided(side: int) -> Kernel:
    return _line("strided", STRIDED, side, blocks=64)


def _line(name: str, source: str, side: int, *, blocks: int) -> Kernel:
    n = side * side
    x, y = np.random.default_rng(1).random((2, n), dtype=np.float32)

    def by_numpy(x: Floats, y: Floats, out: Floats) -> None:
        np.multiply(x, np.float32(2), out=out)
        np.add(out, y, out=out)

    return Kernel(name, source, {"x": x, "y": y}, (blocks,), (256,), (np.int32(n),), by_numpy, (np.float32(2),))


def _exponential(side: int) -> Kernel:
    n = side * side
    x = np.random.default_rng(1).random(n, dtype=np.float32)
    return Kernel(
        "exponential", EXPONENTIAL, {"x": x}, (-(-n // 256),), (256,), (np.int32(n),), lambda x, out: np.exp(x, out=out)
    )


def _scale(side: int) -> Kernel:
    u = np.random.default_rng(1).random((side, side), dtype=np.float32)

    def by_numpy(u: Floats, out: Floats) -> None:
        np.multiply(u, np.float32(2), out=out)
        np.add(out, np.float32(1), out=out)

    return Kernel("scale", SCALE, {"u": u}, _grid(side), BLOCK, (np.int32(side), np.int32(side)), by_numpy)


def _heat(side: int) -> Kernel:
    u = np.random.default_rng(1).random((side, side), dtype=np.float32)

    def by_numpy(u: Floats, out: Floats) -> None:
        inner = out[1:-1, 1:-1]
        np.add(u[1:-1, :-2], u[1:-1, 2:], out=inner)
        inner += u[:-2, 1:-1]
        inner += u[2:, 1:-1]
        inner *= np.float32(0.25)

    numbers = (np.int32(side), np.int32(side))
    return Kernel("heat", HEAT, {"u": u}, _grid(side), BLOCK, numbers, by_numpy)


def _transpose(side: int) -> Kernel:
    u = np.random.default_rng(1).random((side, side), dtype=np.float32)
    return Kernel(
        "transpose", TRANSPOSE, {"u": u}, _grid(side), BLOCK, (np.int32(side),), lambda u, out: np.copyto(out, u.T)
    )


def _grid(side: int) -> tuple[int, int]:
    return -(-side // BLOCK[0]), -(-side // BLOCK[1])


CASES = (
    *(
        Case(name, partial(kernel_case, make))
        for name, make in (
            ("saxpy", _saxpy),
            ("grid-stride saxpy", _strided),
            ("exponential", _exponential),
            ("2-D scale", _scale),
            ("2-D stencil", _heat),
            ("transpose", _transpose),
        )
    ),
    Case("cores", cores_case),
)
