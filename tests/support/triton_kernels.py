"""Triton kernels that tests compile, of the kinds that people write."""

# ruff: noqa: N803 - Triton's kernels have their constants in capitals

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=inside) + tl.load(y_ptr + at, mask=inside), mask=inside)


@triton.jit
def scale_add(x_ptr, bias_ptr, out_ptr, a, n, stride, BLOCK: tl.constexpr = 256):
    """out = a x (+ bias), reading every stride-th x; bias may be None."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    value = a * tl.load(x_ptr + at * stride, mask=inside)
    if bias_ptr is not None:
        value += tl.load(bias_ptr + at, mask=inside)
    tl.store(out_ptr + at, value, mask=inside)


@triton.jit
def softmax(out_ptr, x_ptr, x_stride, out_stride, columns, BLOCK: tl.constexpr):
    """One program a row."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < columns
    x = tl.load(x_ptr + row * x_stride + at, mask=inside, other=-float("inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + row * out_stride + at, e / tl.sum(e, axis=0), mask=inside)


@triton.jit
def total(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    """The sum of all x, by adding one partial sum a program to out."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out_ptr, tl.sum(tl.load(x_ptr + at, mask=at < n, other=0.0), axis=0))


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C = A B, row-major, half in and single out; M, N and K are multiples of the blocks."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        a = tl.load(a_ptr + rows[:, None] * K + (k + inner)[None, :])
        b = tl.load(b_ptr + (k + inner)[:, None] * N + columns[None, :])
        acc = tl.dot(a, b, acc)
    tl.store(c_ptr + rows[:, None] * N + columns[None, :], acc)


@triton.jit
def twice(x_ptr, out_ptr, rows, columns, BM: tl.constexpr, BN: tl.constexpr):
    """out = 2 x by TMA descriptors made on the device, in scratch memory. From sm_90 on."""
    x = tl.make_tensor_descriptor(x_ptr, [rows, columns], [columns, 1], [BM, BN])
    out = tl.make_tensor_descriptor(out_ptr, [rows, columns], [columns, 1], [BM, BN])
    row = tl.program_id(0) * BM
    out.store([row, 0], x.load([row, 0]) * 2)


@triton.jit
def numbers(out_ptr, a, b, c, d, e, f, g, h, i, j):
    """Adds numbers of many types, so that each must arrive with its size and in its place."""
    whole = b.to(tl.float64) + c.to(tl.float64) + d.to(tl.float64) + f.to(tl.float64) + g.to(tl.float64)
    tl.store(out_ptr, a.to(tl.float64) + whole + e.to(tl.float64) + h + i + j)


@triton.jit
def not_compiling(x_ptr, BLOCK: tl.constexpr):
    tl.static_assert(BLOCK == 1, "BLOCK is not 1")


@triton.heuristics({"BLOCK": lambda given: given["n"]})
@triton.jit
def tuned(x_ptr, n, BLOCK: tl.constexpr):
    tl.store(x_ptr + tl.arange(0, BLOCK), n)
