"""The CPU device with a real compiler: CUDA features one by one, failures, compiling once."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaasq.errors import KernelFailed, ModuleRejected, OutOfMemory
from kaasq.model import Dim3, Module, dim3
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from kaasq_workers.devices.cpu.toolchain import Toolchain
from kaasq_workers.executor.arguments import PackedArguments, pointer


@pytest.fixture(scope="session")
def code_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cpu") / "code"


@pytest.fixture(scope="session")
def device(code_folder: Path) -> CpuDevice:
    device = CpuDevice(cache_dir=code_folder)
    device.threads = max(2, device.threads)  # blocks side by side, even on one core
    return device


def run(
    device: CpuDevice, module: CpuModule, name: str, grid: int | Dim3, block: int | Dim3, *args: Any, shared: int = 0
) -> None:
    """Launch on NumPy arrays in place: a CPU device's memory is the host's."""
    values = [pointer(a.ctypes.data) if isinstance(a, np.ndarray) else a.tobytes() for a in args]
    device.stream().launch(module.kernel(name), dim3(grid), dim3(block), PackedArguments(values), shared)


def load(device: CpuDevice, source: str, *names: str, options: tuple[str, ...] = ()) -> CpuModule:
    return device.load(Module.from_source(source, options=options), names)


FEATURES = r"""
#include <cuda_runtime.h>
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cstdint>
#include <math.h>
#include <assert.h>
namespace cg = cooperative_groups;

#define ME (blockIdx.x * blockDim.x + threadIdx.x)

// A kernel may have the name of a C library function.
extern "C" __global__ void div(const int* a, const int* b, int* out) { out[ME] = a[ME] / b[ME]; }

__constant__ float weights[4] = {0.5f, 1.0f, 2.0f, 4.0f};
extern "C" __global__ void constants(float* out) { out[threadIdx.x] = weights[threadIdx.x % 4]; }

__device__ int calls = 0;
extern "C" __global__ void count_calls(int* out) { if (threadIdx.x == 0) *out = ++calls; }

extern "C" __global__ void atomics(int* i, unsigned* u, unsigned long long* w, float* f, double* d) {
    int t = threadIdx.x;
    atomicAdd(&i[0], t); atomicSub(&i[1], t); atomicMax(&i[2], t); atomicMin(&i[3], -t); atomicExch(&i[4], 77);
    atomicAnd(&i[5], ~(1 << t % 8)); atomicOr(&i[6], 1 << t % 8); atomicXor(&i[7], 1 << t % 8);
    int seen, old = i[8];
    do { seen = old; old = atomicCAS(&i[8], seen, seen + 2); } while (seen != old);
    atomicInc(&u[0], 9); atomicDec(&u[1], 9); atomicMax(&u[2], (unsigned)t); atomicAdd(&u[3], 1);
    atomicAdd(w, 1ull << 32); atomicAdd(f, 0.5f); atomicAdd(d, 0.25);
}

extern "C" __global__ void block_votes(int* out) {
    int t = threadIdx.x;
    int count = __syncthreads_count(t % 3 == 0);
    int all = __syncthreads_and(t >= 0), not_all = __syncthreads_and(t > 0);
    int some = __syncthreads_or(t == 5), none = __syncthreads_or(t < 0);
    out[t] = count | all << 8 | not_all << 9 | some << 10 | none << 11;
}

extern "C" __global__ void shuffles(int* up, int* down, int* across, int* fixed, double* wide) {
    int t = threadIdx.x;
    up[t] = __shfl_up_sync(~0u, t, 3, 16);
    down[t] = __shfl_down_sync(~0u, t, 3, 16);
    across[t] = __shfl_xor_sync(~0u, t, 5, 8);
    fixed[t] = __shfl_sync(~0u, t, 2, 8);
    wide[t] = __shfl_sync(~0u, t * 1.5, 31);
}

extern "C" __global__ void votes(unsigned* ballot, int* any, int* all, unsigned* match, unsigned* sum) {
    int t = threadIdx.x;
    ballot[t] = __ballot_sync(~0u, t & 1);
    any[t] = __any_sync(~0u, t == 40);
    all[t] = __all_sync(~0u, t < 40);
    match[t] = __match_any_sync(~0u, t / 8);
    sum[t] = __reduce_add_sync(~0u, (unsigned)t);
}

// The two halves of a warp go different ways, each with its own mask, and a different number of times.
extern "C" __global__ void divergent_masks(int* out) {
    int t = threadIdx.x, value = t;
    if (t < 16) {
        for (int k = 1; k < 16; k *= 2) value += __shfl_xor_sync(0x0000ffffu, value, k);
    } else {
        for (int k = 1; k < 4; k *= 2) value += __shfl_xor_sync(0xffff0000u, value, k);
        __syncwarp(0xffff0000u);
    }
    __syncwarp();
    out[t] = value + __shfl_sync(~0u, t, 31);
}

// Warp-aggregated increments, each branch on its own.
extern "C" __global__ void active_lanes(int* counters, unsigned* masks) {
    int t = threadIdx.x;
    if (t % 3 == 0) {
        unsigned active = __activemask();
        masks[t] = active;
        if (__ffs(active) - 1 == t % 32) atomicAdd(&counters[0], __popc(active));
    } else {
        auto group = cg::coalesced_threads();
        masks[t] = group.size();
        if (group.thread_rank() == 0) atomicAdd(&counters[1], group.size());
    }
}

extern "C" __global__ void tiles(int* sums, int* ranks, int* block_sum) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    int t = block.thread_rank();
    sums[t] = cg::reduce(tile, t, cg::plus<int>());
    ranks[t] = tile.thread_rank() + 100 * tile.meta_group_rank() + 10000 * tile.shfl(t, 1);
    if (tile.thread_rank() == 0) atomicAdd(block_sum, sums[t]);
    block.sync();
}

// Several declarations of dynamic shared memory are one; this one stands outside of the kernel.
extern __shared__ __align__(16) unsigned char raw[];
__device__ void fill(int t) {
    extern __shared__ int as_int[];
    as_int[t] = t * t;
}
extern "C" __global__ void aliased(int* out) {
    fill(threadIdx.x);
    __syncthreads();
    extern __shared__ float as_float[];
    out[threadIdx.x] = __float_as_int(as_float[blockDim.x - 1 - threadIdx.x]) + reinterpret_cast<int*>(raw)[0];
}

template <class T> __device__ T block_sum(T value) {
    __shared__ T all[64];
    all[threadIdx.x] = value;
    __syncthreads();
    T sum = 0;
    for (int i = 0; i < blockDim.x; i++) sum += all[i];
    return sum;
}
template <class T> __global__ void sums(const T* x, T* out) {
    T sum = block_sum(x[ME]);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

namespace inner {
template <int n>
__global__ void __launch_bounds__(64) power(double* x) {
    for (int i = 1; i < n; i++) x[ME + 8] *= x[ME];
}
}

extern "C" __global__ void vectors(const float4* a, float2* b, uchar4* c, double2* d) {
    int t = threadIdx.x;
    float4 v = a[t];
    b[t] = make_float2(v.x + v.z, v.y * v.w);
    c[t] = make_uchar4(t, t + 1, 255, 0);
    d[t] = make_double2(v.x, -1.0);
}

extern "C" __global__ void halves(const half* x, half* out, half2* pairs, __nv_bfloat16* b) {
    int t = threadIdx.x;
    out[t] = __hfma(x[t], x[t], __float2half(0.25f)) - x[t] / half(3.0f) + (__hgt(x[t], x[0]) ? half(1) : half(0));
    half2 pair = __halves2half2(x[t], __hneg(x[t]));
    pairs[t] = __hadd2(__hmul2(pair, pair), __float2half2_rn(1.0f));
    b[t] = __float2bfloat16(__half2float(x[t])) * __nv_bfloat16(2.0f);
}

extern "C" __global__ void bits(const unsigned* x, unsigned* out) {
    unsigned t = threadIdx.x, v = x[t];
    out[8 * t] = __popc(v); out[8 * t + 1] = __clz(v); out[8 * t + 2] = __ffs(v); out[8 * t + 3] = __brev(v);
    out[8 * t + 4] = __umulhi(v, v); out[8 * t + 5] = __byte_perm(v, ~v, 0x7531);
    out[8 * t + 6] = __funnelshift_l(v, ~v, 5); out[8 * t + 7] = __float_as_uint(__uint_as_float(v));
}

extern "C" __global__ void mathematics(const float* __restrict__ x, float* __restrict__ out) {
    int t = threadIdx.x;
    float v = __ldg(x + t), s, c;
    sincosf(v, &s, &c);
    out[8 * t] = rsqrtf(v); out[8 * t + 1] = __expf(v) + __logf(v); out[8 * t + 2] = s * s + c * c;
    out[8 * t + 3] = fmaxf(v, 1.0f) + fminf(v, 1.0f) + max(v, 2.0f); out[8 * t + 4] = __fdividef(v, 3.0f);
    out[8 * t + 5] = __saturatef(v); out[8 * t + 6] = __fmaf_rn(v, v, 1.0f); out[8 * t + 7] = powf(v, 0.5f) + fabsf(-v);
}

extern "C" __global__ void conversions(const float* x, int* out, unsigned* outu) {
    int t = threadIdx.x;
    out[t] = __float2int_rn(x[t]); outu[t] = __float2uint_rz(x[t]);
}

// Unsigned, as in CUDA: below zero is a very large number.
extern "C" __global__ void unsigned_index(int* out) { out[ME] = threadIdx.x - 1 < 3 ? 1 : threadIdx.x > -1 ? 2 : 3; }

extern "C" __global__ void last_block(int* done, int* out) {
    __shared__ bool last;
    __threadfence();
    if (threadIdx.x == 0) last = atomicAdd(done, 1) == gridDim.x - 1;
    __syncthreads();
    if (last && threadIdx.x == 0) *out = *done;
}

extern "C" __global__ void big_frame(int* out) {
    volatile char local[48 * 1024];
    local[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = local[threadIdx.x];
}

#if __CUDA_ARCH__ >= 800
__device__ void copy_asynchronously() { asm volatile("cp.async.wait_all;"); }
#endif
extern "C" __global__ void checked(int* x) { assert(x[threadIdx.x] != 13); x[threadIdx.x] = 1; }
extern "C" __global__ void checked_together(int* x) {
    __syncthreads();
    if (x[threadIdx.x] == 13) __trap();
    __syncthreads();
    x[threadIdx.x] = 1;
}
extern "C" __global__ void diverges(int* out) {
    if (threadIdx.x < 16) __syncthreads();
    else __syncwarp();
    out[threadIdx.x] = 1;
}
"""
NAMES = (
    "div", "constants", "count_calls", "atomics", "block_votes", "shuffles", "votes", "divergent_masks",
    "active_lanes", "tiles", "aliased", "sums<int>", "sums<double>", "inner::power<3>", "vectors", "halves", "bits",
    "mathematics", "conversions", "unsigned_index", "last_block", "big_frame", "checked", "checked_together",
    "diverges",
)  # fmt: skip


@pytest.fixture(scope="session")
def features(device: CpuDevice) -> CpuModule:
    return load(device, FEATURES, *NAMES)


def ints(n: int, value: int = 0) -> np.ndarray:
    return np.full(n, value, np.int32)


LANES = np.arange(64)


def test_a_kernel_named_like_a_c_function(device: CpuDevice, features: CpuModule) -> None:
    a, out = np.arange(64, dtype=np.int32) * 10, ints(64)
    run(device, features, "div", 2, 32, a, ints(64, 3), out)
    np.testing.assert_array_equal(out, a // 3)


def test_constant_memory(device: CpuDevice, features: CpuModule) -> None:
    out = np.zeros(8, np.float32)
    run(device, features, "constants", 1, 8, out)
    assert out.tolist() == [0.5, 1, 2, 4] * 2


def test_device_variables_outlive_a_launch_and_belong_to_one_loaded_module(device: CpuDevice) -> None:
    source = '__device__ int calls; extern "C" __global__ void count(int* out) { *out = ++calls; }'
    one, other = load(device, source, "count"), load(device, source, "count")
    out = ints(1)
    run(device, one, "count", 1, 1, out)
    run(device, one, "count", 1, 1, out)
    assert out[0] == 2
    run(device, other, "count", 1, 1, out)
    assert out[0] == 1


def test_a_fresh_modules_first_launch_is_right_on_every_thread(device: CpuDevice) -> None:
    """Thread-local variables are new to each thread then; with -mtls-dialect=gnu2 one load in thirty went wrong."""
    source = r"""
    extern "C" __global__ void grey(const unsigned char* rgb, float* out, int w, int h) {
      __shared__ int unused[4];
      unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
      if (x >= w || y >= h) return;
      const unsigned char* p = rgb + 3 * (y * w + x);
      out[y * w + x] = (0.299f * p[0] + 0.587f * p[1] + 0.114f * p[2]) / 255.0f;
      if (w < 0) unused[0] = 1;
    }"""
    width, height = 512, 600
    rgb = np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)
    wrong = 0
    for _ in range(200):
        out = np.zeros((height, width), np.float32)
        grid = (width // 32, height // 8, 1)
        run(device, load(device, source, "grey"), "grey", grid, (32, 8, 1), rgb, out, np.int32(width), np.int32(height))
        wrong += not out.all()
    assert wrong == 0


def test_atomics(device: CpuDevice, features: CpuModule) -> None:
    i, u, w = ints(9), np.array([0, 5, 0, 0], np.uint32), np.zeros(1, np.uint64)
    i[5] = -1
    f, d = np.zeros(1, np.float32), np.zeros(1, np.float64)
    run(device, features, "atomics", 100, 64, i, u, w, f, d)
    total = 100 * 64 * 63 // 2
    assert i.tolist() == [total, -total, 63, -63, 77, ~0xFF, 0xFF, 0, 2 * 6400]
    assert u.tolist() == [6400 % 10, (5 - 6400) % 10, 63, 6400]
    assert (w[0], f[0], d[0]) == (6400 << 32, 3200, 1600)


def test_barriers_that_vote(device: CpuDevice, features: CpuModule) -> None:
    out = ints(50)
    run(device, features, "block_votes", 1, 50, out)
    assert set(out.tolist()) == {17 | 1 << 8 | 1 << 10}


def test_shuffles(device: CpuDevice, features: CpuModule) -> None:
    up, down, across, fixed, wide = ints(64), ints(64), ints(64), ints(64), np.zeros(64)
    run(device, features, "shuffles", 1, 64, up, down, across, fixed, wide)
    np.testing.assert_array_equal(up, np.where(LANES % 16 < 3, LANES, LANES - 3))
    np.testing.assert_array_equal(down, np.where(LANES % 16 >= 13, LANES, LANES + 3))
    np.testing.assert_array_equal(across, LANES ^ 5)
    np.testing.assert_array_equal(fixed, LANES // 8 * 8 + 2)
    np.testing.assert_array_equal(wide, (LANES // 32 * 32 + 31) * 1.5)


def test_votes_matches_and_reductions(device: CpuDevice, features: CpuModule) -> None:
    ballot, match, total = (np.zeros(64, np.uint32) for _ in range(3))
    some, every = ints(64), ints(64)
    run(device, features, "votes", 1, 64, ballot, some, every, match, total)
    assert set(ballot.tolist()) == {0xAAAAAAAA}
    np.testing.assert_array_equal(some, LANES >= 32)
    np.testing.assert_array_equal(every, LANES < 32)
    np.testing.assert_array_equal(match, 0xFF << LANES // 8 % 4 * 8)
    np.testing.assert_array_equal(total, np.where(LANES < 32, 31 * 16, 31 * 16 + 32 * 32))


def test_halves_of_a_warp_with_masks_of_their_own(device: CpuDevice, features: CpuModule) -> None:
    out = ints(32)
    run(device, features, "divergent_masks", 1, 32, out)
    lanes = np.arange(32)
    fours = lanes // 4 * 16 + 6
    np.testing.assert_array_equal(out, np.where(lanes < 16, 120, fours) + 31)


def test_active_lanes_are_those_in_the_same_branch(device: CpuDevice, features: CpuModule) -> None:
    counters, masks = ints(2), np.zeros(64, np.uint32)
    run(device, features, "active_lanes", 3, 64, counters, masks)
    assert counters.tolist() == [3 * 22, 3 * 42]
    first = sum(1 << lane for lane in range(0, 32, 3))
    second = sum(1 << lane for lane in range(32) if (lane + 32) % 3 == 0)
    expected = np.where(LANES % 3 == 0, np.where(LANES < 32, first, second), 0)
    np.testing.assert_array_equal(np.where(LANES % 3 == 0, masks, 0), expected)
    assert masks[1] == 32 - 11


def test_cooperative_groups(device: CpuDevice, features: CpuModule) -> None:
    sums, ranks, total = ints(64), ints(64), ints(1)
    run(device, features, "tiles", 1, (8, 8, 1), sums, ranks, total)
    np.testing.assert_array_equal(sums, LANES // 8 * 64 + 28)
    np.testing.assert_array_equal(ranks, LANES % 8 + LANES // 8 * 100 + 10000 * (LANES // 8 * 8 + 1))
    assert total[0] == 64 * 63 // 2


def test_declarations_of_dynamic_shared_memory_are_aliases(device: CpuDevice, features: CpuModule) -> None:
    out = ints(32)
    run(device, features, "aliased", 4, 32, out, shared=32 * 4)
    np.testing.assert_array_equal(out, np.arange(31, -1, -1) ** 2)


@pytest.mark.parametrize(("name", "dtype"), [("sums<int>", np.int32), ("sums<double>", np.float64)])
def test_shared_memory_in_a_device_function_template(
    device: CpuDevice, features: CpuModule, name: str, dtype: Any
) -> None:
    x, out = np.arange(256, dtype=dtype), np.zeros(4, dtype=dtype)
    run(device, features, name, 4, 64, x, out)
    np.testing.assert_array_equal(out, x.reshape(4, 64).sum(axis=1))


def test_a_template_in_a_namespace_with_launch_bounds(device: CpuDevice, features: CpuModule) -> None:
    x = np.concatenate([np.full(8, 3.0), np.ones(8)])
    run(device, features, "inner::power<3>", 1, 8, x)
    assert x[8:].tolist() == [9.0] * 8
    assert features.kernel("inner::power<3>").threads_per_block == 64
    with pytest.raises(KernelFailed, match="at most 64 threads"):
        run(device, features, "inner::power<3>", 1, 65, x)


@pytest.mark.parametrize(
    ("grid", "block", "shared"),
    [
        ((1, 1, 1), (2, 33, 1), 0),
        ((1, 1, 1), (0, 1, 1), 0),
        ((0, 1, 1), (1, 1, 1), 0),
        ((1 << 32, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (-1, -1, 1), 0),
        ((1, 1, 1), (1, 1, 1), -1),
        ((1, 1, 1), (1, 1, 1), 227 * 1024 + 1),
    ],
)
def test_a_launch_that_would_end_the_process_is_refused(
    device: CpuDevice, features: CpuModule, grid: Dim3, block: Dim3, shared: int
) -> None:
    with pytest.raises(KernelFailed, match="cannot run with grid"):
        run(device, features, "inner::power<3>", grid, block, np.ones(16), shared=shared)


def test_vector_types(device: CpuDevice, features: CpuModule) -> None:
    a = np.random.default_rng(1).random((16, 4), dtype=np.float32)
    b, c, d = np.zeros((16, 2), np.float32), np.zeros((16, 4), np.uint8), np.zeros((16, 2))
    run(device, features, "vectors", 1, 16, a, b, c, d)
    np.testing.assert_allclose(b, np.stack([a[:, 0] + a[:, 2], a[:, 1] * a[:, 3]], axis=1), rtol=1e-6)
    assert c[5].tolist() == [5, 6, 255, 0]
    np.testing.assert_array_equal(d[:, 0], a[:, 0])


def test_half_and_bfloat16(device: CpuDevice, features: CpuModule) -> None:
    x: np.ndarray = np.concatenate([np.linspace(-3, 3, 60), [0, 6e-8, 1e-6, 60000]]).astype(np.float16)
    out, pairs, b = np.zeros(64, np.float16), np.zeros((64, 2), np.float16), np.zeros(64, np.uint16)
    run(device, features, "halves", 1, 64, x, out, pairs, b)
    wide = x.astype(np.float32)
    with np.errstate(over="ignore"):
        fma = (wide * wide + np.float32(0.25)).astype(np.float16)
        third = (wide / np.float32(3)).astype(np.float16)
        expected = fma - third + np.where(x > x[0], np.float16(1), np.float16(0))
        np.testing.assert_array_equal(out, expected)
        np.testing.assert_array_equal(pairs[:, 0], x * x + np.float16(1))
        np.testing.assert_array_equal(pairs[:, 1], pairs[:, 0])
    bfloat = (b.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_allclose(bfloat, 2 * wide, rtol=2**-8, atol=1e-30)


def test_integer_intrinsics(device: CpuDevice, features: CpuModule) -> None:
    x = np.random.default_rng(2).integers(1, 1 << 31, 32).astype(np.uint32)
    out = np.zeros((32, 8), np.uint32)
    run(device, features, "bits", 1, 32, x, out)
    for v, row in zip(x.tolist(), out.tolist(), strict=True):
        inverse = ~v & 0xFFFFFFFF
        both = (inverse << 32 | v).to_bytes(8, "little")
        assert row == [
            v.bit_count(), 32 - v.bit_length(), (v & -v).bit_length(), int(f"{v:032b}"[::-1], 2), v * v >> 32,
            int.from_bytes(bytes(both[i] for i in (1, 3, 5, 7)), "little"),
            (inverse << 32 | v) << 5 >> 32 & 0xFFFFFFFF, v,
        ]  # fmt: skip


def test_mathematics(device: CpuDevice, features: CpuModule) -> None:
    x = np.linspace(0.1, 9, 64, dtype=np.float32)
    out = np.zeros((64, 8), np.float32)
    run(device, features, "mathematics", 1, 64, x, out)
    v = x.astype(np.float64)
    extremes = np.maximum(v, 1) + np.minimum(v, 1) + np.maximum(v, 2)
    saturated = np.clip(v, 0, 1)
    columns = (v**-0.5, np.exp(v) + np.log(v), np.ones(64), extremes, v / 3, saturated, v * v + 1, v**0.5 + v)
    np.testing.assert_allclose(out, np.stack(columns, axis=1), rtol=2e-6)


def test_conversions_saturate(device: CpuDevice, features: CpuModule) -> None:
    x = np.array([2.5, -2.5, 3e9, -3e9, np.nan, np.inf, -np.inf, 5e9], np.float32)
    out, unsigned = ints(8), np.zeros(8, np.uint32)
    run(device, features, "conversions", 1, 8, x, out, unsigned)
    low, high = -(2**31), 2**31 - 1
    assert out.tolist() == [2, -2, high, low, 0, high, low, high]
    assert unsigned.tolist() == [2, 0, 3_000_000_000, 0, 0, 2**32 - 1, 0, 2**32 - 1]


def test_thread_indices_are_unsigned(device: CpuDevice, features: CpuModule) -> None:
    out = ints(8)
    run(device, features, "unsigned_index", 1, 8, out)
    assert out.tolist() == [3, 1, 1, 1, 3, 3, 3, 3]


def test_the_last_block_sees_all_others(device: CpuDevice, features: CpuModule) -> None:
    done, out = ints(1), ints(1)
    run(device, features, "last_block", 500, 32, done, out)
    assert out[0] == 500


def test_a_thread_has_room_for_a_large_frame(device: CpuDevice, features: CpuModule) -> None:
    out = ints(1024)
    run(device, features, "big_frame", 4, 1024, out)
    assert out.all()


def test_more_blocks_than_fit_an_int_times_a_block(device: CpuDevice) -> None:
    source = """extern "C" __global__ void k(unsigned* out) {
        if (blockIdx.x * blockDim.x + threadIdx.x == 1u << 31) *out = blockIdx.x;
    }"""
    module = load(device, source, "k")
    out = np.zeros(1, np.uint32)
    run(device, module, "k", (1 << 21) + 1, 1024, out)
    assert out[0] == 1 << 21


def test_static_shared_memory_in_device_functions_counts_for_those_who_call_them(device: CpuDevice) -> None:
    source = """
    template <class T> __device__ T first(T x) { __shared__ T kept[10]; kept[0] = x; __syncthreads(); return kept[0]; }
    namespace deep {
    __device__ int second() {
        __shared__ int a;
        __shared__ double b[3];
        a = 1, b[2] = 2;
        __syncthreads();
        return a + b[2];
    }
    }
    extern "C" __global__ void one(double* x) { *x = first(*x); }
    extern "C" __global__ void both(double* x) { __shared__ char c[7]; c[3] = deep::second(); *x = first(*x) + c[3]; }
    extern "C" __global__ void none(double* x) { *x = 1; }
    """
    module = load(device, source, "one", "both", "none")
    assert [module.kernel(name).static_shared_bytes for name in ("one", "both", "none")] == [80, 80 + 28 + 7, 0]


def test_barriers_in_other_kernels_of_a_module_cost_nothing(features: CpuModule) -> None:
    waits = {name for name in NAMES if features.kernel(name).waits}
    assert waits == {
        "block_votes", "shuffles", "votes", "divergent_masks", "active_lanes", "tiles", "aliased", "sums<int>",
        "sums<double>", "last_block", "big_frame", "checked_together", "diverges",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- failures


def test_a_divergent_barrier_fails_and_the_device_goes_on(device: CpuDevice, features: CpuModule) -> None:
    for _ in range(3):
        with pytest.raises(KernelFailed, match=r"'diverges'.*divergent barrier: 16 threads wait") as caught:
            run(device, features, "diverges", 200, 32, ints(32))
        assert caught.value.kernel == "diverges"
    test_barriers_that_vote(device, features)


@pytest.mark.parametrize(
    ("name", "reason"), [("checked", r"assertion failed at kernel.cu:\d+: x\["), ("checked_together", "__trap")]
)
def test_a_failed_assertion_fails_the_launch(device: CpuDevice, features: CpuModule, name: str, reason: str) -> None:
    x = ints(32)
    x[7] = 13
    with pytest.raises(KernelFailed, match=reason):
        run(device, features, name, 1, 32, x)
    run(device, features, name, 1, 32, y := ints(32))
    assert y.all()


def test_printf(code_folder: Path) -> None:
    script = """
        import numpy as np, sys
        from pathlib import Path
        sys.path.insert(0, "")
        from kaasq.model import Module
        from kaasq_workers.executor.arguments import PackedArguments
        from kaasq_workers.devices.cpu import CpuDevice
        device = CpuDevice(cache_dir=Path(sys.argv[1]))
        source = 'extern "C" __global__ void k() { printf("thread %d of %u\\\\n", threadIdx.x, blockDim.x); }'
        module = device.load(Module.from_source(source), ("k",))
        device.stream().launch(module.kernel("k"), (1, 1, 1), (3, 1, 1), PackedArguments([]), 0)
        import os; os._exit(0)  # what was printed must be out by now
    """
    said = _python(script, code_folder)
    assert said.splitlines() == [f"thread {i} of 3" for i in range(3)]


@pytest.mark.parametrize(
    ("line", "construct"),
    [
        ('asm volatile("bar.sync 0;");', "inline assembly"),
        ("nvcuda::wmma::fill_fragment(f, 0.0f);", "wmma"),
        ("float v = tex2D<float>(t, 0, 0);", "textures"),
        ("child<<<1, 32>>>(x);", "launches from a kernel"),
        ("auto c = cg::this_cluster();", "clusters"),
        ("auto g = cooperative_groups::this_grid();", "whole grid"),
    ],
)
def test_what_only_a_gpu_can_do_is_named(device: CpuDevice, line: str, construct: str) -> None:
    with pytest.raises(ModuleRejected, match=construct) as caught:
        load(device, f'extern "C" __global__ void k(float* x) {{\n  // asm\n  {line}\n}}', "k")
    assert caught.value.line == 3


def test_what_only_a_gpu_can_do_is_named_within_an_active_condition(device: CpuDevice) -> None:
    source = '#ifdef __CUDACC__\nextern "C" __global__ void k() { asm volatile("bar.sync 0;"); }\n#endif'
    with pytest.raises(ModuleRejected, match=r"kernel.cu:2: inline assembly"):
        load(device, source, "k")


@pytest.mark.parametrize("kind", ["ptx", "cubin", "fatbin"])
def test_code_for_a_gpu_is_refused(device: CpuDevice, kind: Any) -> None:
    with pytest.raises(ModuleRejected, match=f"a CPU cannot run {kind}"):
        device.load(Module(kind=kind, code=b"..."), ("k",))


def test_diagnostics_speak_of_the_users_lines_only(device: CpuDevice) -> None:
    source = '#include <math.h>\nextern "C" __global__ void k(float* x) {\n  atomicAdd(x, "one");\n  *x = nowhere;\n}'
    with pytest.raises(ModuleRejected) as caught:
        load(device, source, "k")
    assert caught.value.line == 3
    assert "kernel.cu:4:" in caught.value.log
    assert "nowhere" in caught.value.log
    assert "kaasq_atomics.h" not in caught.value.log


def test_an_undefined_function_is_named(device: CpuDevice) -> None:
    source = '__device__ float elsewhere(float);\nextern "C" __global__ void k(float* x) { *x = elsewhere(*x); }'
    with pytest.raises(ModuleRejected, match=r"undefined reference to .?elsewhere"):
        load(device, source, "k")


def test_a_template_without_arguments_and_one_that_does_not_fit(device: CpuDevice) -> None:
    source = "template <class T> __global__ void scale(T* x) { *x *= 2; }"
    with pytest.raises(ModuleRejected, match="is a template"):
        load(device, source, "scale")
    with pytest.raises(ModuleRejected, match="kernel 'scale<nonsense>' cannot be used"):
        load(device, source, "scale<nonsense>")


def test_an_unknown_option_is_refused(device: CpuDevice) -> None:
    with pytest.raises(ModuleRejected, match="-G"):
        load(device, 'extern "C" __global__ void k() {}', "k", options=("-G",))


def test_options_do_not_disturb_the_prelude(device: CpuDevice) -> None:
    source = 'extern "C" __global__ void k(T* x) { *x = N * kernel; }'
    options = ("-DT=float", "-DN=3", "-Dkernel=2", "-std=c++14", "--use_fast_math", "-fmad=false")
    module = load(device, source, "k", options=options)
    x = np.zeros(1, np.float32)
    run(device, module, "k", 1, 1, x)
    assert x[0] == 6


def test_nan_survives_fast_math(device: CpuDevice) -> None:
    source = 'extern "C" __global__ void k(float* x) { x[0] = isnan(x[0]) ? 1 : 2; x[1] = isinf(x[1]) ? 1 : 2; }'
    module = load(device, source, "k", options=("--use_fast_math",))
    x = np.array([np.nan, np.inf], np.float32)
    run(device, module, "k", 1, 1, x)
    assert x.tolist() == [1, 1]


def test_memory_is_counted(tmp_path: Path) -> None:
    device = CpuDevice(cache_dir=tmp_path / "code", memory_limit=1 << 20)
    first = device.allocate(700_000)
    with pytest.raises(OutOfMemory) as caught:
        device.allocate(700_000)
    assert (caught.value.needed, caught.value.capacity) == (700_000, 1 << 20)
    first.free()
    device.allocate(700_000).free()
    device.allocate(0).free()


def test_a_copy_outside_of_the_memory_is_refused(device: CpuDevice) -> None:
    memory = device.allocate(10)
    with pytest.raises(ValueError, match="outside"):
        device.stream().copy_in(memory, memoryview(b"12345"), offset=6)
    memory.free()


# ------------------------------------------------------------------------------------------------ compiling, only once

SMALL = 'extern "C" __global__ void k(int* x) {{ *x = {}; }}'


class CountingToolchain(Toolchain):
    """Counts how often it is called."""

    def __init__(self, real: Toolchain) -> None:
        super().__init__(real.command, real.kind)
        self.runs = 0

    def compile(self, arguments: list[str], folder: Path) -> tuple[bool, str]:
        self.runs += 1
        return super().compile(arguments, folder)


def test_every_key_may_have_the_same_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaasq_workers.devices.code_cache._STRIPES", 1)
    load(CpuDevice(cache_dir=tmp_path / "code"), SMALL.format(1), "k")


def counting(device: CpuDevice) -> CountingToolchain:
    assert device._builder is not None
    toolchain = CountingToolchain(device._builder.toolchain)
    device._builder.toolchain = toolchain
    return toolchain


def test_a_module_is_compiled_once(code_folder: Path) -> None:
    for expected_runs in (1, 0):
        device = CpuDevice(cache_dir=code_folder)
        toolchain = counting(device)
        load(device, SMALL.format(1001), "k")
        load(device, SMALL.format(1001), "k")
        assert toolchain.runs <= expected_runs + (expected_runs and 1)  # the runtime, if this test runs first


def test_processes_that_compile_the_same_module_at_once(tmp_path: Path) -> None:
    script = """
        import sys, numpy as np
        from pathlib import Path
        from kaasq.model import Module
        from kaasq_workers.executor.arguments import PackedArguments, pointer
        from kaasq_workers.devices.cpu import CpuDevice
        device = CpuDevice(cache_dir=Path(sys.argv[1]))
        module = device.load(Module.from_source('extern "C" __global__ void k(int* x) { *x = 5; }'), ("k",))
        x = np.zeros(1, np.int32)
        arguments = PackedArguments([pointer(x.ctypes.data)])
        device.stream().launch(module.kernel("k"), (1, 1, 1), (1, 1, 1), arguments, 0)
        print(x[0])
    """
    argv = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "code")]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=_environment()) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in running] == ["5"] * 4
    assert len(list((tmp_path / "code").glob("*.code"))) == 2  # the module and the runtime
    assert not list((tmp_path / "code" / "work").iterdir())


def test_without_a_compiler_everything_but_loading_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaasq_workers.devices.cpu.device.find_toolchain", lambda wanted: None)
    device = CpuDevice(cache_dir=tmp_path / "code")
    device.allocate(10).free()
    assert "no C++ compiler" in device.description
    with pytest.raises(ModuleRejected, match="apt-get install g\\+\\+, or pip install ziglang"):
        load(device, SMALL.format(1), "k")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def _python(script: str, folder: Path) -> str:
    argv = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=_environment()).stdout
