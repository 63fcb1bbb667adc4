"""What every device's built-ins give along axes: matrix products, reductions, softmax, normalisations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq import Client
from kaasq.builtins.signature import FLOATS, NUMBERS
from tests.support.builtins import DEVICES, Out, Sheet, normal

NAN, INF = math.nan, math.inf
AXES = ((), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (-1,), (-3, 1), (0, 1, 2))


@pytest.fixture(scope="module", params=DEVICES)
def client(request) -> Iterator[Client]:
    with kaasq.local(device=request.param) as client:
        yield client


def product(a: np.ndarray, b: np.ndarray, *, ta: bool = False, tb: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """a b in float64, and what it is added up from."""
    how = f"...{'ki' if ta else 'ik'},...{'jk' if tb else 'kj'}->...ij"
    wide = [each.astype(np.float64) for each in (a, b)]
    return np.einsum(how, *wide), np.einsum(how, *map(np.abs, wide))


@pytest.mark.parametrize("dtype", FLOATS)
def test_gemm_of_odd_sizes_transposed_with_alpha_and_beta(client, dtype):
    sheet = Sheet()
    for m, n, k in ((1, 1, 1), (5, 7, 3), (1, 65, 33), (129, 1, 31), (67, 131, 257)):
        for ta, tb in itertools.product((False, True), repeat=2):
            a = normal(1, *((k, m) if ta else (m, k)), dtype=dtype)
            b = normal(2, *((n, k) if tb else (k, n)), dtype=dtype)
            exact, size = product(a, b, ta=ta, tb=tb)
            before, attrs = normal(3, m, n, dtype=dtype), {"transpose_a": ta, "transpose_b": tb}
            sheet.call("gemm", a, b, Out(exact, dtype, scale=size), **attrs)
            scaled = Out(1.5 * exact, dtype, np.full((m, n), NAN, dtype), 1.5 * size)  # with beta 0, c is not read
            sheet.call("gemm", a, b, scaled, np.float32(1.5), np.float32(0), **attrs)
            both = Out(-0.25 * exact + 2 * before.astype(np.float64), dtype, before, size + 2 * np.abs(before))
            sheet.call("gemm", a, b, both, np.float64(-0.25), np.int32(2), **attrs)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gemm_of_batches_and_of_one_matrix_for_all(client, dtype):
    sheet = Sheet()
    shapes = [((4, 9, 5), (4, 5, 8)), ((2, 3, 9, 5), (2, 3, 5, 8)), ((4, 9, 5), (5, 8)), ((9, 5), (4, 5, 8))]
    for (left, right), ta, tb in itertools.product(shapes, (False, True), (False, True)):
        a = normal(1, *left, dtype=dtype)
        b = normal(2, *right, dtype=dtype)
        exact, size = product(a, b)
        a = np.ascontiguousarray(a.swapaxes(-1, -2)) if ta else a
        b = np.ascontiguousarray(b.swapaxes(-1, -2)) if tb else b
        attrs = {"transpose_a": ta, "transpose_b": tb}
        sheet.call("gemm", a, b, Out(exact, dtype, scale=size), **attrs)
        before = normal(3, *exact.shape, dtype=dtype)
        sheet.call("gemm", a, b, Out(exact + before, dtype, before, size + 3), np.float32(1), np.float32(1), **attrs)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gemm_with_beta_zero_does_not_read_what_is_there(client, dtype):
    factor, before = normal(2, 3, 3, dtype=dtype), normal(1, 3, 3, dtype=dtype)
    nothing = np.full((3, 3), NAN, dtype)
    sheet = Sheet()
    sheet.call("gemm", factor, factor, Out(2 * before.astype(np.float64), dtype, before), np.int8(0), np.int8(2))
    sheet.call("gemm", factor, factor, Out(np.zeros((3, 3)), dtype, nothing), np.int8(0), np.int8(0))
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gemm_larger_than_any_tile(client, dtype):
    a, b = normal(1, 1100, 1300, dtype=dtype), normal(2, 1300, 1050, dtype=dtype)
    wide = a.astype(np.float64) @ b.astype(np.float64)
    sheet = Sheet()
    sheet.call("gemm", a, b, Out(wide, dtype, scale=1000.0))
    before = normal(3, 1100, 1050, dtype=dtype)
    sheet.call("gemm", a, b, Out(wide - before, dtype, before, 1000.0), np.float32(1), np.float32(-1))
    sheet.check(client)


def test_float16_sums_in_float32(client):
    """In float16, 2048 and 1 are 2048; 70000 is infinite."""
    ones = np.ones((1, 5000), np.float16)
    large = np.full((4, 40), 60000, np.float16)
    sheet = Sheet()
    sheet.call("reduce", ones, Out(np.array([5000.0]), "float16"), op="sum", axes=(1,))
    sheet.call("reduce", large, Out(np.full(4, 60000.0), "float16"), op="mean", axes=(1,))
    sheet.call("gemm", ones, ones, Out(np.array([[5000.0]]), "float16"), transpose_b=True)
    before = np.full((1, 1), -60000, np.float16)
    sum_of_squares = Out(np.array([[60000.0 * 2 - 60000]]), "float16", before)
    sheet.call("gemm", large[:1, :2], np.ones((2, 1), np.float16), sum_of_squares, np.int8(1), np.int8(1))
    sheet.call("softmax", large, Out(np.full((4, 40), 1 / 40), "float16"))
    spread = np.array([[60000.0, -60000.0]], np.float16)
    sheet.call("layernorm", spread, Out(np.array([[1.0, -1.0]]), "float16"))
    sheet.check(client)


def test_long_sums_keep_their_digits(client):
    """A million times 0.1 added one by one in float32 is off by one percent."""
    x = np.full((1 << 20, 4), 0.1, np.float32)
    exact = float(x[0, 0]) * (1 << 20)
    sheet = Sheet()
    sheet.call("reduce", x, Out(np.full(4, exact), "float32"), op="sum", axes=(0,))
    sheet.call("reduce", x.T.copy(), Out(np.full(4, exact), "float32"), op="sum", axes=(1,))
    sheet.call("reduce", x, Out(np.array(4 * exact), "float32"), op="sum")
    sheet.call("reduce", x, Out(np.array(exact / (1 << 20)), "float32"), op="mean")
    sheet.check(client)


REDUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": lambda values: math.fsum(values) if isinstance(values[0], float) else sum(values),
    "mean": lambda values: math.fsum(values) / len(values),
    "max": max,
    "min": min,
    "prod": math.prod,
}


def reduced(op: str, x: np.ndarray, axes: tuple[int, ...], dtype: str) -> np.ndarray:
    """By one Python loop over all that ends up in one place."""
    gone = {axis % x.ndim for axis in axes or range(x.ndim)}
    kept = [range(1) if axis in gone else range(size) for axis, size in enumerate(x.shape)]
    result = np.empty([len(each) for each in kept], object)
    for place in itertools.product(*kept):
        part = x[tuple(slice(None) if axis in gone else slice(i, i + 1) for axis, i in enumerate(place))]
        values = part.reshape(-1).tolist()
        if "float" in dtype:
            result[place] = NAN if any(map(math.isnan, values)) else REDUCTIONS[op](values)
        else:
            span = 1 << 8 * np.dtype(dtype).itemsize
            low = int(np.iinfo(dtype).min)
            result[place] = (int(REDUCTIONS[op](values)) - low) % span + low
    return result.astype(np.float64 if "float" in dtype else dtype)


@pytest.mark.parametrize(
    ("op", "dtype"),
    [(op, dtype) for op in REDUCTIONS for dtype in (FLOATS if op == "mean" else NUMBERS)],  # no mean of integers
)
def test_reductions_over_any_axes(client, op, dtype):
    x = normal(1, 5, 4, 7, dtype=dtype)
    if "float" in dtype:
        x[2, 1, 3] = NAN
        x[4, 3, 6] = 0
    sheet = Sheet()
    for axes, keepdims in itertools.product(AXES, (False, True)):
        expected = reduced(op, x, axes, dtype)
        size = reduced("sum", np.abs(x), axes, dtype) if op in {"sum", "mean"} and "float" in dtype else np.array(1.0)
        if not keepdims:
            gone = tuple(axis % 3 for axis in axes or range(3))
            expected, size = (np.squeeze(each, gone) if each.ndim else each for each in (expected, size))
        size = np.nan_to_num(size, nan=1.0)
        sheet.call("reduce", x, Out(expected, dtype, scale=size), op=op, axes=axes, keepdims=keepdims)
    sheet.check(client)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint8"])
def test_reductions_of_many_elements(client, dtype):
    sheet = Sheet()
    for shape, axes in [
        ((3000, 1200), (0,)),
        ((3000, 1200), (1,)),
        ((3, 1200, 1000), (0, 2)),
        ((300, 12000), ()),
        ((70, 60, 800), (1,)),
        ((1, 3_000_000), (1,)),
        ((3_000_000, 1), (0,)),
        ((2_000_000, 2), (1,)),
    ]:
        x = np.abs(normal(1, *shape, dtype=dtype))
        where = axes or tuple(range(len(shape)))
        exact = np.sum(x, axis=where, dtype=np.float64 if "float" in dtype else dtype)
        with np.errstate(over="ignore"):
            sheet.call("reduce", x, Out(exact, dtype), op="sum", axes=axes)
        sheet.call("reduce", x, Out(np.max(x, axis=where), dtype), op="max", axes=axes)
    sheet.check(client)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("whole", ["int32", "int64"])
def test_argmax_and_argmin_give_the_first_and_take_nan_for_it(client, dtype, whole):
    x = normal(1, 5, 6, 130, dtype=dtype)
    x[0] = x[0, 0, 0]  # all alike
    if "float" in dtype:
        x[1, 2, 7:9] = NAN
        x[2, 2, 7], x[2, 3, 8] = INF, -INF
    sheet = Sheet()
    for axis, (name, best) in itertools.product((0, 1, 2, -1, -2), {"argmax": max, "argmin": min}.items()):
        rows = np.moveaxis(x, axis, -1)
        expected = np.empty(rows.shape[:-1], whole)
        for place in np.ndindex(expected.shape):
            row = rows[place].tolist()
            nan = [i for i, each in enumerate(row) if math.isnan(each)]
            expected[place] = nan[0] if nan else row.index(best(row))
        sheet.call(name, x, Out(expected, whole), axis=axis)
        sheet.call(name, x, Out(np.expand_dims(expected, axis), whole), axis=axis, keepdims=True)
    sheet.check(client)


def test_argmax_of_many(client):
    x = normal(1, 40, 3000, 20)
    sheet = Sheet()
    for axis in range(3):
        sheet.call("argmax", x, Out(np.argsort(-x, axis=axis, kind="stable").take(0, axis), "int64"), axis=axis)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_of_any_axis(client, dtype):
    x = 5 * normal(1, 6, 5, 67, dtype=dtype)
    x[0, 0, :60] = -INF
    x[1, 1, 1] = NAN
    x[2, :, 2] = 60000 if dtype == "float16" else 1e4
    sheet = Sheet()
    for axis in (0, 1, 2, -1, -3):
        wide = x.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            shifted = wide - wide.max(axis=axis, keepdims=True)
            powers = np.exp(shifted)
            total = np.einsum(powers, [0, 1, 2], [each for each in range(3) if each != axis % 3])
            total = np.expand_dims(total, axis)
            sheet.call("softmax", x, Out(powers / total, dtype), axis=axis)
            sheet.call("log_softmax", x, Out(shifted - np.log(total), dtype), axis=axis)
    long = normal(2, 3, 200_000, dtype=dtype)
    powers = np.exp(long.astype(np.float64))
    sheet.call("softmax", long, Out(powers / powers.sum(axis=1)[:, None], dtype, scale=1e-5))
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_layernorm_over_the_last_axes(client, dtype):
    sheet = Sheet()
    for shape, axis, epsilon in (
        ((5, 3, 66), -1, 1e-5),
        ((5, 3, 66), 1, 1e-2),
        ((33, 2000), 0, 1e-5),
        ((700, 300), 1, 0),
    ):
        x = (3 * normal(1, *shape, dtype=dtype) + 1).astype(dtype)
        scale, bias = normal(2, *shape[axis:], dtype=dtype), normal(3, *shape[axis:], dtype=dtype)
        rows = x.astype(np.float64).reshape(math.prod(shape[: axis % len(shape)]), -1)
        expected = np.array([(row - math.fsum(row) / len(row)) / math.sqrt(np.var(row) + epsilon) for row in rows])
        expected = expected.reshape(shape)
        attrs = {"axis": axis, "epsilon": epsilon}
        sheet.call("layernorm", x, Out(expected, dtype), **attrs)
        sheet.call("layernorm", x, Out(expected * scale, dtype), scale, **attrs)
        sheet.call("layernorm", x, Out(expected * scale + bias, dtype, scale=4.0), scale, bias, **attrs)
    sheet.check(client)


@pytest.mark.parametrize("dtype", FLOATS)
def test_batchnorm_by_channel(client, dtype):
    sheet = Sheet()
    for shape in ((3, 5), (2, 7, 33), (2, 3, 11, 13), (4, 16, 90, 70)):
        x = normal(1, *shape, dtype=dtype)
        scale, bias, mean = (normal(seed, shape[1], dtype=dtype) for seed in (2, 3, 4))
        variance = np.abs(normal(5, shape[1], dtype=dtype))
        expected = np.empty(shape)
        for c in range(shape[1]):
            deviation = math.sqrt(float(variance[c]) + 1e-3)
            expected[:, c] = (x[:, c] - float(mean[c])) / deviation * float(scale[c]) + float(bias[c])
        out = Out(expected, dtype, scale=20.0)
        sheet.call("batchnorm", x, scale, bias, mean, variance, out, epsilon=1e-3)
    sheet.check(client)
