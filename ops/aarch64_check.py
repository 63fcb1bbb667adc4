"""Builds the CPU device's runtime and some kernels for aarch64 and runs them under qemu.

    apt-get install g++-aarch64-linux-gnu qemu-user
    .venv/bin/python ops/aarch64_check.py

Not part of ./ops/test: it needs a cross compiler, which would be a large download for every contributor.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from kaasq_workers.devices.cpu.builder import PRELUDE, RUNTIME
from kaasq_workers.devices.cpu.source import Source
from kaasq_workers.devices.cpu.translation import translation_unit

COMPILER = "aarch64-linux-gnu-g++"
SYSROOT = "/usr/aarch64-linux-gnu"
# The base of the architecture, with atomics as instructions, with scalable vectors.
ARCHITECTURES = ("armv8-a", "armv8.2-a", "armv8.2-a+sve")
FLAGS = ("-std=c++17", "-O3", "-w", "-fPIC", "-shared", "-pthread", "-fno-math-errno", "-fno-trapping-math")
SOURCE = r"""
#include <assert.h>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
namespace cg = cooperative_groups;
#define ME (blockIdx.x * blockDim.x + threadIdx.x)
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + y[i];
}
extern "C" __global__ void strided(float a, const float* x, const float* y, float* out, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) out[i] = a * x[i] + y[i];
}
__device__ float own_sum(const float* x, int n) {
    float sum = 0;
    for (int i = ME; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    return sum;
}
extern "C" __global__ void tree_sum(const float* x, float* out, int n) {
    extern __shared__ float partial[];
    partial[threadIdx.x] = own_sum(x, n);
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(out, partial[0]);
}
extern "C" __global__ void shuffle_sum(const float* x, float* out, int n) {
    float sum = own_sum(x, n);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
    if (threadIdx.x % 32 == 0) atomicAdd(out, sum);
}
extern "C" __global__ void group_sum(const float* x, float* out, int n) {
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    const float sum = cg::reduce(tile, own_sum(x, n), cg::plus<float>());
    if (tile.thread_rank() == 0) atomicAdd(out, sum);
}
extern "C" __global__ void halves(const float* x, half* out) {
    out[threadIdx.x] = __hfma(__float2half(x[threadIdx.x]), half(1.5f), half(0.0f));
}
extern "C" __global__ void diverges(float* out) {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp();
    out[threadIdx.x] = 1;
}
extern "C" __global__ void asserts(float* out) { assert(out[threadIdx.x] < 0); }
extern "C" __global__ void stray(float* out) { if (ME == 7) out[7] = 1; }
extern "C" __global__ void stray_together(float* out) { __syncthreads(); if (ME == 7) out[7] = 1; __syncthreads(); }
"""


def check(architecture: str, folder: Path) -> int:
    """Build for one architecture and run. The driver's exit code."""
    source = Source(SOURCE)
    known = source.kernels()
    names = tuple(each.name for each in known)
    (folder / "module.cpp").write_text(translation_unit(source, known, names, [], second_forms=True))
    compiler = [COMPILER, *FLAGS, f"-march={architecture}", f"-I{PRELUDE}", f"-I{PRELUDE / 'include'}"]
    runtime, module, driver = (str(folder / name) for name in ("libruntime.so", "libmodule.so", "driver"))
    subprocess.run([*compiler, str(RUNTIME / "runtime.cpp"), "-o", runtime], check=True)
    hidden = ["-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=fast"]
    subprocess.run([*compiler, *hidden, str(folder / "module.cpp"), runtime, "-o", module], check=True)
    main = str(Path(__file__).with_suffix(".cpp"))
    link = [COMPILER, "-std=c++17", "-O1", f"-I{PRELUDE}", main, module, runtime, f"-Wl,-rpath,{folder}", "-o", driver]
    subprocess.run(link, check=True)
    return subprocess.run(["qemu-aarch64", "-cpu", "max", "-L", SYSROOT, driver], check=False).returncode


if __name__ == "__main__":
    failed = False
    for each in ARCHITECTURES:
        print(f"{each}:", flush=True)
        with tempfile.TemporaryDirectory() as place:
            failed |= check(each, Path(place)) != 0
    sys.exit(failed)
