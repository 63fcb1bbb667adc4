"""The CPU device with a real compiler: what of CUDA C++ runs on it, feature by feature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kaasq.errors import KernelFailed
from kaasq.model import Dim3
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from tests.support.cpu import FEATURE_NAMES, ints, load, run

LANES = np.arange(64)


def test_a_kernel_named_like_a_c_function(cpu: CpuDevice, features: CpuModule) -> None:
    a, out = np.arange(64, dtype=np.int32) * 10, ints(64)
    run(cpu, features, "div", 2, 32, a, ints(64, 3), out)
    np.testing.assert_array_equal(out, a // 3)


def test_constant_memory(cpu: CpuDevice, features: CpuModule) -> None:
    out = np.zeros(8, np.float32)
    run(cpu, features, "constants", 1, 8, out)
    assert out.tolist() == [0.5, 1, 2, 4] * 2


def test_device_variables_outlive_a_launch_and_belong_to_one_loaded_module(cpu: CpuDevice) -> None:
    source = '__device__ int calls; extern "C" __global__ void count(int* out) { *out = ++calls; }'
    one, other = load(cpu, source, "count"), load(cpu, source, "count")
    out = ints(1)
    run(cpu, one, "count", 1, 1, out)
    run(cpu, one, "count", 1, 1, out)
    assert out[0] == 2
    run(cpu, other, "count", 1, 1, out)
    assert out[0] == 1


def test_a_fresh_modules_first_launch_is_right_on_every_thread(cpu: CpuDevice) -> None:
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
        run(cpu, load(cpu, source, "grey"), "grey", grid, (32, 8, 1), rgb, out, np.int32(width), np.int32(height))
        wrong += not out.all()
    assert wrong == 0


def test_atomics(cpu: CpuDevice, features: CpuModule) -> None:
    i, u, w = ints(9), np.array([0, 5, 0, 0], np.uint32), np.zeros(1, np.uint64)
    i[5] = -1
    f, d = np.zeros(1, np.float32), np.zeros(1, np.float64)
    run(cpu, features, "atomics", 100, 64, i, u, w, f, d)
    total = 100 * 64 * 63 // 2
    assert i.tolist() == [total, -total, 63, -63, 77, ~0xFF, 0xFF, 0, 2 * 6400]
    assert u.tolist() == [6400 % 10, (5 - 6400) % 10, 63, 6400]
    assert (w[0], f[0], d[0]) == (6400 << 32, 3200, 1600)


def test_barriers_that_vote(cpu: CpuDevice, features: CpuModule) -> None:
    out = ints(50)
    run(cpu, features, "block_votes", 1, 50, out)
    assert set(out.tolist()) == {17 | 1 << 8 | 1 << 10}


def test_shuffles(cpu: CpuDevice, features: CpuModule) -> None:
    up, down, across, fixed, wide = ints(64), ints(64), ints(64), ints(64), np.zeros(64)
    run(cpu, features, "shuffles", 1, 64, up, down, across, fixed, wide)
    np.testing.assert_array_equal(up, np.where(LANES % 16 < 3, LANES, LANES - 3))
    np.testing.assert_array_equal(down, np.where(LANES % 16 >= 13, LANES, LANES + 3))
    np.testing.assert_array_equal(across, LANES ^ 5)
    np.testing.assert_array_equal(fixed, LANES // 8 * 8 + 2)
    np.testing.assert_array_equal(wide, (LANES // 32 * 32 + 31) * 1.5)


def test_votes_matches_and_reductions(cpu: CpuDevice, features: CpuModule) -> None:
    ballot, match, total = (np.zeros(64, np.uint32) for _ in range(3))
    some, every = ints(64), ints(64)
    run(cpu, features, "votes", 1, 64, ballot, some, every, match, total)
    assert set(ballot.tolist()) == {0xAAAAAAAA}
    np.testing.assert_array_equal(some, LANES >= 32)
    np.testing.assert_array_equal(every, LANES < 32)
    np.testing.assert_array_equal(match, 0xFF << LANES // 8 % 4 * 8)
    np.testing.assert_array_equal(total, np.where(LANES < 32, 31 * 16, 31 * 16 + 32 * 32))


def test_halves_of_a_warp_with_masks_of_their_own(cpu: CpuDevice, features: CpuModule) -> None:
    out = ints(32)
    run(cpu, features, "divergent_masks", 1, 32, out)
    lanes = np.arange(32)
    fours = lanes // 4 * 16 + 6
    np.testing.assert_array_equal(out, np.where(lanes < 16, 120, fours) + 31)


def test_active_lanes_are_those_in_the_same_branch(cpu: CpuDevice, features: CpuModule) -> None:
    counters, masks = ints(2), np.zeros(64, np.uint32)
    run(cpu, features, "active_lanes", 3, 64, counters, masks)
    assert counters.tolist() == [3 * 22, 3 * 42]
    first = sum(1 << lane for lane in range(0, 32, 3))
    second = sum(1 << lane for lane in range(32) if (lane + 32) % 3 == 0)
    expected = np.where(LANES % 3 == 0, np.where(LANES < 32, first, second), 0)
    np.testing.assert_array_equal(np.where(LANES % 3 == 0, masks, 0), expected)
    assert masks[1] == 32 - 11


def test_cooperative_groups(cpu: CpuDevice, features: CpuModule) -> None:
    sums, ranks, total = ints(64), ints(64), ints(1)
    run(cpu, features, "tiles", 1, (8, 8, 1), sums, ranks, total)
    np.testing.assert_array_equal(sums, LANES // 8 * 64 + 28)
    np.testing.assert_array_equal(ranks, LANES % 8 + LANES // 8 * 100 + 10000 * (LANES // 8 * 8 + 1))
    assert total[0] == 64 * 63 // 2


def test_declarations_of_dynamic_shared_memory_are_aliases(cpu: CpuDevice, features: CpuModule) -> None:
    out = ints(32)
    run(cpu, features, "aliased", 4, 32, out, shared=32 * 4)
    np.testing.assert_array_equal(out, np.arange(31, -1, -1) ** 2)


@pytest.mark.parametrize(("name", "dtype"), [("sums<int>", np.int32), ("sums<double>", np.float64)])
def test_shared_memory_in_a_device_function_template(
    cpu: CpuDevice, features: CpuModule, name: str, dtype: Any
) -> None:
    x, out = np.arange(256, dtype=dtype), np.zeros(4, dtype=dtype)
    run(cpu, features, name, 4, 64, x, out)
    np.testing.assert_array_equal(out, x.reshape(4, 64).sum(axis=1))


def test_a_template_in_a_namespace_with_launch_bounds(cpu: CpuDevice, features: CpuModule) -> None:
    x = np.concatenate([np.full(8, 3.0), np.ones(8)])
    run(cpu, features, "inner::power<3>", 1, 8, x)
    assert x[8:].tolist() == [9.0] * 8
    assert features.kernel("inner::power<3>").threads_per_block == 64
    with pytest.raises(KernelFailed, match="at most 64 threads"):
        run(cpu, features, "inner::power<3>", 1, 65, x)


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
    cpu: CpuDevice, features: CpuModule, grid: Dim3, block: Dim3, shared: int
) -> None:
    with pytest.raises(KernelFailed, match="cannot run with grid"):
        run(cpu, features, "inner::power<3>", grid, block, np.ones(16), shared=shared)


def test_vector_types(cpu: CpuDevice, features: CpuModule) -> None:
    a = np.random.default_rng(1).random((16, 4), dtype=np.float32)
    b, c, d = np.zeros((16, 2), np.float32), np.zeros((16, 4), np.uint8), np.zeros((16, 2))
    run(cpu, features, "vectors", 1, 16, a, b, c, d)
    np.testing.assert_allclose(b, np.stack([a[:, 0] + a[:, 2], a[:, 1] * a[:, 3]], axis=1), rtol=1e-6)
    assert c[5].tolist() == [5, 6, 255, 0]
    np.testing.assert_array_equal(d[:, 0], a[:, 0])


def test_half_and_bfloat16(cpu: CpuDevice, features: CpuModule) -> None:
    x: np.ndarray = np.concatenate([np.linspace(-3, 3, 60), [0, 6e-8, 1e-6, 60000]]).astype(np.float16)
    out, pairs, b = np.zeros(64, np.float16), np.zeros((64, 2), np.float16), np.zeros(64, np.uint16)
    run(cpu, features, "halves", 1, 64, x, out, pairs, b)
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


def test_integer_intrinsics(cpu: CpuDevice, features: CpuModule) -> None:
    x = np.random.default_rng(2).integers(1, 1 << 31, 32).astype(np.uint32)
    out = np.zeros((32, 8), np.uint32)
    run(cpu, features, "bits", 1, 32, x, out)
    for v, row in zip(x.tolist(), out.tolist(), strict=True):
        inverse = ~v & 0xFFFFFFFF
        both = (inverse << 32 | v).to_bytes(8, "little")
        assert row == [
            v.bit_count(), 32 - v.bit_length(), (v & -v).bit_length(), int(f"{v:032b}"[::-1], 2), v * v >> 32,
            int.from_bytes(bytes(both[i] for i in (1, 3, 5, 7)), "little"),
            (inverse << 32 | v) << 5 >> 32 & 0xFFFFFFFF, v,
        ]  # fmt: skip


def test_mathematics(cpu: CpuDevice, features: CpuModule) -> None:
    x = np.linspace(0.1, 9, 64, dtype=np.float32)
    out = np.zeros((64, 8), np.float32)
    run(cpu, features, "mathematics", 1, 64, x, out)
    v = x.astype(np.float64)
    extremes = np.maximum(v, 1) + np.minimum(v, 1) + np.maximum(v, 2)
    saturated = np.clip(v, 0, 1)
    columns = (v**-0.5, np.exp(v) + np.log(v), np.ones(64), extremes, v / 3, saturated, v * v + 1, v**0.5 + v)
    np.testing.assert_allclose(out, np.stack(columns, axis=1), rtol=2e-6)


def test_conversions_saturate(cpu: CpuDevice, features: CpuModule) -> None:
    x = np.array([2.5, -2.5, 3e9, -3e9, np.nan, np.inf, -np.inf, 5e9], np.float32)
    out, unsigned = ints(8), np.zeros(8, np.uint32)
    run(cpu, features, "conversions", 1, 8, x, out, unsigned)
    low, high = -(2**31), 2**31 - 1
    assert out.tolist() == [2, -2, high, low, 0, high, low, high]
    assert unsigned.tolist() == [2, 0, 3_000_000_000, 0, 0, 2**32 - 1, 0, 2**32 - 1]


def test_thread_indices_are_unsigned(cpu: CpuDevice, features: CpuModule) -> None:
    out = ints(8)
    run(cpu, features, "unsigned_index", 1, 8, out)
    assert out.tolist() == [3, 1, 1, 1, 3, 3, 3, 3]


def test_the_last_block_sees_all_others(cpu: CpuDevice, features: CpuModule) -> None:
    done, out = ints(1), ints(1)
    run(cpu, features, "last_block", 500, 32, done, out)
    assert out[0] == 500


def test_a_thread_has_room_for_a_large_frame(cpu: CpuDevice, features: CpuModule) -> None:
    out = ints(1024)
    run(cpu, features, "big_frame", 4, 1024, out)
    assert out.all()


def test_more_blocks_than_fit_an_int_times_a_block(cpu: CpuDevice) -> None:
    source = """extern "C" __global__ void k(unsigned* out) {
        if (blockIdx.x * blockDim.x + threadIdx.x == 1u << 31) *out = blockIdx.x;
    }"""
    module = load(cpu, source, "k")
    out = np.zeros(1, np.uint32)
    run(cpu, module, "k", (1 << 21) + 1, 1024, out)
    assert out[0] == 1 << 21


def test_static_shared_memory_in_device_functions_counts_for_those_who_call_them(cpu: CpuDevice) -> None:
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
    module = load(cpu, source, "one", "both", "none")
    assert [module.kernel(name).static_shared_bytes for name in ("one", "both", "none")] == [80, 80 + 28 + 7, 0]


def test_barriers_in_other_kernels_of_a_module_cost_nothing(features: CpuModule) -> None:
    waits = {name for name in FEATURE_NAMES if features.kernel(name).waits}
    assert waits == {
        "block_votes", "shuffles", "votes", "divergent_masks", "active_lanes", "tiles", "aliased", "sums<int>",
        "sums<double>", "last_block", "big_frame", "checked_together", "diverges",
    }  # fmt: skip
