"""CUDA's functions on the CPU device: special ones, lanes within a word, pairs of halves, atomics of every type."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from kaasq.model import Module
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from tests.support.cpu import run as run_on

SOURCE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void special(const double* x, double* out, float* outf) {
    const int t = threadIdx.x;
    const double v = x[t];
    double* o = out + 8 * t;
    float* f = outf + 8 * t;
    o[0] = erfinv(v); o[1] = erfcinv(v + 1); o[2] = normcdfinv((v + 1) / 2); o[3] = cyl_bessel_i0(40 * v);
    o[4] = cyl_bessel_i1(40 * v); o[5] = norm4d(v, 2, 3, 4); o[6] = norm(3, x); o[7] = rnorm3d(v, 1, 2);
    f[0] = erfinvf(v); f[1] = erfcinvf(v + 1); f[2] = normcdfinvf((v + 1) / 2); f[3] = cyl_bessel_i0f(40 * v);
    f[4] = cyl_bessel_i1f(40 * v); f[5] = norm4df(v, 2, 3, 4); f[6] = rhypotf(v, 2); f[7] = rnorm4df(v, 1, 2, 3);
}
extern "C" __global__ void ends(double* out) {
    const double all[] = {erfinv(1.0), erfinv(-1.0), erfinv(1.5), erfcinv(0.0), erfcinv(2.0), normcdfinv(0.0),
                          normcdfinv(1.0), normcdfinv(-0.1), erfinv(0.0), erfinv(1e-300), erfcinv(1e-300)};
    for (int i = 0; i < 11; i++) out[i] = all[i];
}
extern "C" __global__ void lanes(const unsigned* a, const unsigned* b, unsigned* out) {
    const unsigned x = a[threadIdx.x], y = b[threadIdx.x];
    const unsigned all[] = {
        __vadd2(x, y), __vadd4(x, y), __vsub2(x, y), __vsub4(x, y), __vaddss2(x, y), __vaddss4(x, y), __vaddus4(x, y),
        __vsubss4(x, y), __vsubus2(x, y), __vabsdiffs4(x, y), __vabsdiffu2(x, y), __vavgs4(x, y), __vavgu2(x, y),
        __vhaddu4(x, y), __vmaxs2(x, y), __vmaxu4(x, y), __vmins4(x, y), __vminu2(x, y), __vcmpeq4(x, y),
        __vcmpgts4(x, y), __vcmpltu2(x, y), __vsetges2(x, y), __vsetne4(x, y), __vabs4(x), __vabsss4(x), __vneg2(x),
        __vnegss4(x), __vsads4(x, y), __vsadu2(x, y)};
    for (int i = 0; i < 29; i++) out[29 * threadIdx.x + i] = all[i];
}
extern "C" __global__ void words(const unsigned* a, const unsigned* b, unsigned* out) {
    const unsigned x = a[threadIdx.x], y = b[threadIdx.x];
    unsigned* o = out + 8 * threadIdx.x;
    o[0] = __funnelshift_lc(x, y, 40); o[1] = __funnelshift_rc(x, y, 12); o[2] = __rhadd((int)x, (int)y);
    o[3] = __urhadd(x, y); o[4] = __dp2a_lo((int)x, (int)y, 7); o[5] = __dp2a_hi(x, y, 7u);
    o[6] = __fns(x, 3, 2); o[7] = __fns(x, 30, -2);
}
template <class T, class T2> __device__ void pairs_of(const float* x, float* out, T2* pairs) {
    const int t = threadIdx.x;
    T a(x[t]), b(x[t + 1]);
    T2 v{a, b}, w{b, a};
    float* o = out + 12 * t;
    o[0] = __hadd_sat(a, b); o[1] = __hfma_relu(a, b, a); o[2] = __hmax_nan(a, T(NAN)); o[3] = __hmax(a, T(NAN));
    o[4] = __hisinf(T(-INFINITY)); o[5] = __hbgt2(v, w); o[6] = __hblt2(v, T2{T(9.0f), T(9.0f)});
    o[7] = float(__hgt2(v, w).x); o[8] = float(htanh(a)); v += w; o[9] = float(v.x); a++; o[10] = float(a);
    o[11] = float(__hcmadd(T2{a, b}, T2{b, a}, w).y);
    pairs[t] = h2exp2(w);
}
extern "C" __global__ void half_pairs(const float* x, float* out, __half2* p) { pairs_of<__half>(x, out, p); }
extern "C" __global__ void bfloat_pairs(const float* x, float* out, __nv_bfloat162* p) {
    pairs_of<__nv_bfloat16>(x, out, p);
}
template <class T> __global__ void adds(T* global, T* before) {
    __shared__ T shared;
    if (threadIdx.x == 0) shared = T(0);
    __syncthreads();
    atomicAdd(&shared, T(1));
    __syncthreads();
    if (threadIdx.x == 0) before[blockIdx.x] = atomicAdd(global, shared);
}
// The usual loops by compare-and-swap: a maximum of floats and a product of doubles.
extern "C" __global__ void by_swapping(const float* x, int* largest, unsigned long long* product) {
    int seen = *largest;
    while (__int_as_float(seen) < x[threadIdx.x]) {
        const int old = atomicCAS(largest, seen, __float_as_int(x[threadIdx.x]));
        if (old == seen) break;
        seen = old;
    }
    unsigned long long now = *product, assumed;
    do {
        assumed = now;
        now = atomicCAS(product, assumed, __double_as_longlong(__longlong_as_double(assumed) * 1.25));
    } while (now != assumed);
}
extern "C" __global__ void wide_and_scoped(unsigned long long* w, long long* l, unsigned* u, unsigned short* s) {
    const int t = threadIdx.x + blockIdx.x * blockDim.x;
    atomicMax(&w[0], 1ull << t % 60); atomicMin(&l[0], -(1ll << t % 60)); atomicOr(&w[1], 1ull << t % 64);
    atomicAnd(&w[2], ~(1ull << t % 8)); atomicXor(&w[3], 1ull << t % 64); atomicExch(&w[4], 5ull);
    atomicInc_block(&u[0], 6u); atomicDec_system(&u[1], 6u); atomicAdd_block(&u[2], 2u);
    unsigned short now = *s, assumed;
    do { assumed = now; now = atomicCAS(s, assumed, (unsigned short)(assumed + 3)); } while (now != assumed);
}
template <class T> __global__ void moves(const T* x, T* up, T* down, T* across, T* fixed, int width) {
    const int t = threadIdx.x;
    up[t] = __shfl_up_sync(~0u, x[t], 2, width); down[t] = __shfl_down_sync(~0u, x[t], 3, width);
    across[t] = __shfl_xor_sync(~0u, x[t], 1, width); fixed[t] = __shfl_sync(~0u, x[t], 5, width);
}
namespace outer { namespace inner {
template <class T, int n, bool negate> __global__ void scaled(T* x) { x[threadIdx.x] *= negate ? -n : n; }
} }
"""
ADDS = {"int": "i4", "unsigned": "u4", "unsigned long long": "u8", "float": "f4", "double": "f8", "__half": "f2"}
MOVES = {"int": "i4", "float": "f4", "double": "f8", "long long": "i8", "unsigned long long": "u8", "__half": "f2"}
NAMES = (
    "special", "ends", "lanes", "words", "half_pairs", "bfloat_pairs", "by_swapping", "wide_and_scoped",
    "outer::inner::scaled<float, 3, true>", "outer::inner::scaled<int, 4, false>", "adds<__nv_bfloat16>",
    *(f"adds<{each}>" for each in ADDS), *(f"moves<{each}>" for each in MOVES),
)  # fmt: skip


@pytest.fixture(scope="module")
def module(cpu: CpuDevice) -> CpuModule:
    return cpu.load(Module.from_source(SOURCE), NAMES)


@pytest.fixture
def run(cpu: CpuDevice, module: CpuModule) -> Any:
    def launch(name: str, grid: int, block: int, *args: Any) -> None:
        run_on(cpu, module, name, grid, block, *args)

    return launch


def test_special_functions(run: Any) -> None:
    # Exact as floats, as is what the kernel computes from them before it calls.
    x = np.array([2**-11 - 1, -0.6875, -0.3125, -(2**-10), 2**-20, 0.1875, 0.4375, 0.5625, 0.90625, 1 - 2**-14])
    out, single = np.zeros((10, 8)), np.zeros((10, 8), np.float32)
    run("special", 1, 10, x, out, single)
    np.testing.assert_allclose([math.erf(each) for each in out[:, 0]], x, rtol=4e-15)
    np.testing.assert_allclose([math.erfc(each) for each in out[:, 1]], x + 1, rtol=4e-15)
    quantiles = [NormalDist().inv_cdf((each + 1) / 2) for each in x]
    np.testing.assert_allclose(out[:, 2], quantiles, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(out[:, 3], np.i0(40 * x), rtol=1e-13)
    # I1 is I0's derivative.
    step = 1e-4
    slope = (np.i0(40 * x + step) - np.i0(40 * x - step)) / (2 * step)
    np.testing.assert_allclose(out[:, 4], slope, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(out[:, 5], np.sqrt(x**2 + 29), rtol=1e-15)
    np.testing.assert_allclose(out[:, 6], np.linalg.norm(x[:3]), rtol=1e-15)
    np.testing.assert_allclose(out[:, 7], (x**2 + 5) ** -0.5, rtol=1e-15)
    np.testing.assert_allclose(single[:, :6], out[:, :6], rtol=2e-7)
    np.testing.assert_allclose(single[:, 6], (x**2 + 4) ** -0.5, rtol=2e-7)
    np.testing.assert_allclose(single[:, 7], (x**2 + 14) ** -0.5, rtol=2e-7)


def test_special_functions_at_the_ends_of_their_ranges(run: Any) -> None:
    out = np.zeros(11)
    run("ends", 1, 1, out)
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(out[:9], [inf, -inf, nan, inf, -inf, -inf, inf, nan, 0])
    np.testing.assert_allclose(out[9], 1e-300 * math.sqrt(math.pi) / 2)
    np.testing.assert_allclose(math.erfc(out[10]), 1e-300, rtol=1e-11)


EXPONENTIALS = r"""
extern "C" __global__ void exponentials(const float* x, float* out, float* fast, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { out[i] = expf(x[i]); fast[i] = std::expf(x[i]) - __expf(x[i]); }
}
"""


@pytest.mark.parametrize("options", [(), ("--use_fast_math",)])
def test_exponentials_of_the_whole_range(cpu: CpuDevice, options: tuple[str, ...]) -> None:
    bits = np.arange(0, 2**32, 65_521, dtype=np.uint32)  # a prime, so that all parts of a float vary
    ends = np.array([0, -0.0, np.inf, -np.inf, np.nan, 88.72283, 88.72284, -103.97207, -103.97208, 3e38, -3e38], "f4")
    x = np.concatenate([bits.view(np.float32), ends])
    out, same = np.zeros_like(x), np.ones_like(x)
    module = cpu.load(Module.from_source(EXPONENTIALS, options=options), ("exponentials",))
    run_on(cpu, module, "exponentials", -(-x.size // 256), 256, x, out, same, np.int32(x.size))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exact = np.exp(x.astype(np.float64))
        wanted = exact.astype(np.float32)
        spacing = np.spacing(np.maximum(wanted, np.finfo(np.float32).smallest_subnormal))
        off = np.abs(out.astype(np.float64) - exact) / spacing
    finite = np.isfinite(wanted)
    np.testing.assert_array_equal(out[~finite], wanted[~finite])
    assert off[finite].max() < (6 if options else 1)
    np.testing.assert_array_equal(same[finite], 0)


def test_lanes_within_a_word(run: Any) -> None:
    random = np.random.default_rng(3)
    a, b = random.integers(0, 1 << 32, (2, 64), np.uint64).astype(np.uint32)
    a[0], b[0], a[1], b[1] = 0x80808080, 0x7F7F7F7F, b[1], b[1]
    out = np.zeros((64, 29), np.uint32)
    run("lanes", 1, 64, a, b, out)

    def by(kind: str, f: Any, *, reduce: bool = False) -> np.ndarray:
        x, y = a.view(kind).astype(int).reshape(64, -1), b.view(kind).astype(int).reshape(64, -1)
        result = f(x, y)
        if reduce:
            return result.sum(axis=1).astype(np.uint32)
        return (
            (result & ((1 << 8 * np.dtype(kind).itemsize) - 1)).astype(kind.replace("i", "u")).view(np.uint32).ravel()
        )

    def clip(kind: str) -> Any:
        info = np.iinfo(kind)
        return lambda value: np.clip(value, info.min, info.max)

    def rounded_half(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # away from zero
        return np.where(x + y >= 0, (x + y + 1) // 2, -((-x - y + 1) // 2))

    expected = [
        by("u2", np.add), by("u1", np.add), by("u2", np.subtract), by("u1", np.subtract),
        by("i2", lambda x, y: clip("i2")(x + y)), by("i1", lambda x, y: clip("i1")(x + y)),
        by("u1", lambda x, y: clip("u1")(x + y)), by("i1", lambda x, y: clip("i1")(x - y)),
        by("u2", lambda x, y: clip("u2")(x - y)), by("i1", lambda x, y: abs(x - y)), by("u2", lambda x, y: abs(x - y)),
        by("i1", rounded_half), by("u2", lambda x, y: (x + y + 1) // 2), by("u1", lambda x, y: (x + y) // 2),
        by("i2", np.maximum), by("u1", np.maximum), by("i1", np.minimum), by("u2", np.minimum),
        by("u1", lambda x, y: -(x == y).astype(int)), by("i1", lambda x, y: -(x > y).astype(int)),
        by("u2", lambda x, y: -(x < y).astype(int)), by("i2", lambda x, y: (x >= y).astype(int)),
        by("u1", lambda x, y: (x != y).astype(int)), by("i1", lambda x, y: abs(x)),
        by("i1", lambda x, y: clip("i1")(abs(x))), by("u2", lambda x, y: -x), by("i1", lambda x, y: clip("i1")(-x)),
        by("i1", lambda x, y: abs(x - y), reduce=True), by("u2", lambda x, y: abs(x - y), reduce=True),
    ]  # fmt: skip
    np.testing.assert_array_equal(out, np.stack(expected, axis=1))


def test_integer_intrinsics_of_whole_words(run: Any) -> None:
    a, b = np.random.default_rng(4).integers(0, 1 << 32, (2, 32), np.uint64).astype(np.uint32)
    out = np.zeros((32, 8), np.uint32)
    run("words", 1, 32, a, b, out)
    mask = 2**32 - 1
    for x, y, row in zip(a.tolist(), b.tolist(), out.tolist(), strict=True):
        signed = [int(np.uint32(each).view(np.int32)) for each in (x, y)]
        halves, octets = np.uint32(x).view(np.int32).item(), np.array([y], np.uint32).view(np.int8).astype(int)
        dot = (np.array([x], np.uint32).view(np.int16).astype(int) * octets[:2]).sum() + 7
        unsigned = np.array([y], np.uint32).view(np.uint8).astype(int)
        dot_high = (np.array([x], np.uint32).view(np.uint16).astype(int) * unsigned[2:]).sum() + 7
        up = [at for at in range(3, 32) if x >> at & 1][1:2] or [mask]
        down = [at for at in range(30, -1, -1) if x >> at & 1][1:2] or [mask]
        assert halves == signed[0]
        assert row == [
            x, (y << 32 | x) >> 12 & mask, (sum(signed) + 1 >> 1) & mask, x + y + 1 >> 1, int(dot) & mask,
            int(dot_high) & mask, up[0], down[0],
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["half_pairs", "bfloat_pairs"])
def test_pairs_and_rest_of_the_small_floats(run: Any, name: str) -> None:
    x = np.array([0.25, -1.5, 2, 0.5, 3], np.float32)
    out = np.zeros((4, 12), np.float32)
    pairs = np.zeros((4, 2), np.uint16)
    run(name, 1, 4, x, out, pairs)
    a, b = x[:4], x[1:]
    np.testing.assert_array_equal(out[:, 0], np.clip(a + b, 0, 1))
    np.testing.assert_array_equal(out[:, 1], np.maximum(a * b + a, 0))
    assert np.isnan(out[:, 2]).all()
    np.testing.assert_array_equal(out[:, 3:7], np.stack([a, -np.ones(4), np.zeros(4), np.ones(4)], axis=1))
    np.testing.assert_array_equal(out[:, 7], a > b)
    np.testing.assert_allclose(out[:, 8], np.tanh(a), rtol=4e-3)
    np.testing.assert_array_equal(out[:, 9], a + b)
    np.testing.assert_array_equal(out[:, 10], a + 1)
    np.testing.assert_allclose(out[:, 11], (a + 1) ** 2 + b * b + a, rtol=1e-2)
    values = pairs.view(np.float16).astype(np.float32) if name == "half_pairs" else bfloat(pairs)
    np.testing.assert_allclose(values, np.exp2(np.stack([b, a], axis=1)), rtol=4e-3)


def bfloat(stored: np.ndarray) -> np.ndarray:
    return (stored.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("kind", [*ADDS, "__nv_bfloat16"])
def test_atomic_add_of_every_type_shared_and_global(run: Any, kind: str) -> None:
    blocks, threads = 8, 16
    dtype = ADDS.get(kind, "u2")
    total, before = np.zeros(1, dtype), np.zeros(blocks, dtype)
    run(f"adds<{kind}>", blocks, threads, total, before)
    if kind == "__nv_bfloat16":
        total, before = bfloat(total), bfloat(before)
    assert total[0] == blocks * threads
    assert sorted(before.tolist()) == [threads * each for each in range(blocks)]


def test_loops_by_compare_and_swap(run: Any) -> None:
    x = np.random.default_rng(6).random(64, dtype=np.float32)
    largest, product = np.zeros(1, np.float32), np.ones(1)
    run("by_swapping", 20, 64, x, largest, product)
    assert largest[0] == x.max()
    np.testing.assert_allclose(product[0], 1.25**1280, rtol=1e-12)


def test_wide_atomics_and_scopes(run: Any) -> None:
    w, low, u, s = (
        np.array([0, 0, 2**64 - 1, 0, 0], np.uint64),
        np.zeros(1, np.int64),
        np.zeros(3, np.uint32),
        np.zeros(1, np.uint16),
    )
    run("wide_and_scoped", 10, 64, w, low, u, s)
    assert w.tolist() == [1 << 59, 2**64 - 1, 2**64 - 256, 0, 5]
    assert low[0] == -(1 << 59)
    assert u.tolist() == [640 % 7, -640 % 7, 1280]
    assert s[0] == 1920


@pytest.mark.parametrize("kind", MOVES)
@pytest.mark.parametrize("width", [32, 16, 8, 2])
def test_shuffles_of_every_type_and_width(run: Any, kind: str, width: int) -> None:
    lanes = np.arange(64)
    x = (lanes * 3 - 50).astype(MOVES[kind]) if kind[0] != "u" else (lanes.astype(np.uint64) << np.uint64(40))
    up, down, across, fixed = (np.zeros_like(x) for _ in range(4))
    run(f"moves<{kind}>", 1, 64, x, up, down, across, fixed, np.int32(width))
    place = lanes % width
    np.testing.assert_array_equal(up, x[np.where(place < 2, lanes, lanes - 2)])
    np.testing.assert_array_equal(down, x[np.where(place + 3 >= width, lanes, np.minimum(lanes + 3, 63))])
    np.testing.assert_array_equal(across, x[lanes ^ 1])
    np.testing.assert_array_equal(fixed, x[lanes - place + 5 % width])


def test_templates_of_several_parameters_in_nested_namespaces(run: Any) -> None:
    x, y = np.arange(8, dtype=np.float32), np.arange(8, dtype=np.int32)
    run("outer::inner::scaled<float, 3, true>", 1, 8, x)
    run("outer::inner::scaled<int, 4, false>", 1, 8, y)
    np.testing.assert_array_equal(x, -3 * np.arange(8))
    np.testing.assert_array_equal(y, 4 * np.arange(8))
