"""Kernels on the cpu device beside NumPy doing the same, on this machine: the least of the repeats, in milliseconds.

.venv/bin/python ops/bench/cpu_kernels.py [--compiler clang++]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kaasq.model import Dim3, Module
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.executor.arguments import PackedArguments, pointer

SIDE = 4096
N = SIDE * SIDE
REPEATS = 9
SOURCE = r"""
#define ME (blockIdx.x * blockDim.x + threadIdx.x)
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n) {
    int i = ME;
    if (i < n) out[i] = a * x[i] + y[i];
}
extern "C" __global__ void saxpy_strided(float a, const float* x, const float* y, float* out, int n) {
    for (int i = ME; i < n; i += gridDim.x * blockDim.x) out[i] = a * x[i] + y[i];
}
extern "C" __global__ void scale(const float* u, float* out, int w, int h) {
    int x = ME, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < w && y < h) out[y * w + x] = 2.0f * u[y * w + x] + 1.0f;
}
extern "C" __global__ void heat(const float* u, float* out, int w, int h) {
    int x = ME, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x > 0 && x < w - 1 && y > 0 && y < h - 1)
        out[y * w + x] = 0.25f * (u[y * w + x - 1] + u[y * w + x + 1] + u[(y - 1) * w + x] + u[(y + 1) * w + x]);
}
"""


def least_ms(run: Callable[[], object]) -> float:
    """The least of the repeats."""
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler")
    compiler = parser.parse_args().compiler
    x, y = np.random.default_rng(0).random((2, N), dtype=np.float32)
    out, u = np.zeros(N, np.float32), x.reshape(SIDE, SIDE)
    a, n, side = np.float32(3), np.int32(N), np.int32(SIDE)
    inner, square = out.reshape(SIDE, SIDE)[1:-1, 1:-1], (SIDE // 32, SIDE // 8, 1)

    def neighbours() -> None:
        inner[...] = np.float32(0.25) * (u[1:-1, :-2] + u[1:-1, 2:] + u[:-2, 1:-1] + u[2:, 1:-1])

    def line() -> None:
        np.add(np.multiply(x, a, out=out), y, out=out)

    def scaled() -> None:
        np.add(np.multiply(x, np.float32(2), out=out), np.float32(1), out=out)

    with tempfile.TemporaryDirectory() as folder:
        device = CpuDevice(cache_dir=Path(folder) / "code", compiler=compiler)
        print(device.description)
        module = device.load(Module.from_source(SOURCE), ("saxpy", "saxpy_strided", "scale", "heat"))

        def kernel_ms(name: str, grid: Dim3, block: Dim3, *args: Any) -> float:
            values = [pointer(each.ctypes.data) if isinstance(each, np.ndarray) else each.tobytes() for each in args]
            packed, kernel, stream = PackedArguments(values), module.kernel(name), device.stream()
            return least_ms(lambda: stream.launch(kernel, grid, block, packed, 0))

        numpy_line, numpy_scaled, numpy_heat = (least_ms(each) for each in (line, scaled, neighbours))
        rows: list[tuple[str, float, tuple[Any, ...]]] = [
            ("saxpy, a thread for each element", numpy_line, ("saxpy", (N // 256, 1, 1), (256, 1, 1), a, x, y, out, n)),
            ("saxpy, grid-stride, 64 blocks", numpy_line, ("saxpy_strided", (64, 1, 1), (256, 1, 1), a, x, y, out, n)),
            (
                "saxpy, grid-stride, 1024 blocks",
                numpy_line,
                ("saxpy_strided", (1024, 1, 1), (256, 1, 1), a, x, y, out, n),
            ),
            ("scale in two dimensions", numpy_scaled, ("scale", square, (32, 8, 1), x, out, side, side)),
            ("heat equation", numpy_heat, ("heat", square, (32, 8, 1), x, out, side, side)),
        ]
        for what, beside, launch in rows:
            print(f"{what:34} {kernel_ms(*launch):6.1f} ms   NumPy {beside:6.1f} ms")


if __name__ == "__main__":
    main()
