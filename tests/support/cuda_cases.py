"""Calls of every built-in, small and awkward: for comparing a device's answers with another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kaasq_workers.devices.cuda.builtins.steps import Bounds
from tests.support.cuda_steps import Case

WIDE = Bounds(narrow_below=0)
SMALL_SCRATCH = Bounds(scratch_bytes=4096)
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

random = np.random.default_rng(7)


def values(dtype: str, *shape: int, positive: bool = False) -> np.ndarray:
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        limits = np.iinfo(dtype)
        found = random.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
        found.reshape(-1)[: 2 * found.size // 3 : 2] %= 7  # small ones, zeros too
        return found
    found = 2 * random.standard_normal(shape)
    return np.asarray(np.abs(found) + 0.1 if positive else found, dtype)


def blank(dtype: str, *shape: int) -> np.ndarray:
    """What an output holds before: nothing that may show up in a result."""
    return np.full(shape, 77, dtype)


def cases() -> Iterator[Case]:
    yield from functions()
    yield from operators()
    yield from stretching()
    yield from casts()
    yield from layout()
    yield from along_axes()
    yield from windows()
    yield from products()


FUNCTIONS = (
    "exp log sqrt rsqrt reciprocal sin cos tanh erf floor ceil round relu leaky_relu elu sigmoid silu softplus gelu"
)


def functions() -> Iterator[Case]:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 80, -80], "float32")
    for name in [*FUNCTIONS.split(), "neg", "abs", "sign"]:
        x = values("float32", 259, positive=name in {"log", "sqrt", "rsqrt"})
        yield Case(name, {"x": x, "out": blank("float32", 259)}, {})
        yield Case(name, {"x": special, "out": blank("float32", special.size)}, {})
    for dtype in ("float16", "float64"):
        for name in ("exp", "gelu", "sign", "round"):
            yield Case(name, {"x": values(dtype, 21, 8), "out": blank(dtype, 21, 8)}, {})
    yield Case("gelu", {"x": values("float32", 64), "out": blank("float32", 64)}, {"tanh": True})
    yield Case("elu", {"x": values("float32", 64), "out": blank("float32", 64)}, {"alpha": 0.3})
    yield Case("leaky_relu", {"x": values("float16", 64), "out": blank("float16", 64)}, {"alpha": 0.3})
    yield Case("clip", {"x": special, "out": blank("float32", 11), "low": -0.25, "high": 1.7}, {})
    yield Case("logical_not", {"x": values("bool", 100), "out": blank("bool", 100)}, {})


def operators() -> Iterator[Case]:
    for dtype in INTEGERS:
        for name in ("neg", "abs", "sign", "relu"):
            yield Case(name, {"x": values(dtype, 83), "out": blank(dtype, 83)}, {})
        operands = {"a": values(dtype, 83), "b": values(dtype, 83), "out": blank(dtype, 83)}
        for name in ("add", "mul", "div", "maximum"):
            yield Case(name, operands, {})
        yield Case("clip", {"x": values(dtype, 83), "out": blank(dtype, 83), "low": -3.7, "high": 1e30}, {})
    lowest = np.array([-(2**31), -(2**31), 7, -7, 7, 5], "int32")
    yield Case("div", {"a": lowest, "b": np.array([-1, 2, -2, 2, 2, 0], "int32"), "out": blank("int32", 6)}, {})
    for name in ("logical_and", "logical_or", "logical_xor", "equal", "less"):
        yield Case(name, {"a": values("bool", 100), "b": values("bool", 100), "out": blank("bool", 100)}, {})
    nan = np.where(values("bool", 12, 9), np.float32(np.nan), values("float32", 12, 9)).astype("float32")
    comparisons = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    for name in comparisons:
        operands = {"a": nan, "b": nan[:, ::-1].copy().round(), "out": blank("bool", 12, 9)}
        yield Case(name, operands, {})
    for name in ("maximum", "minimum", "add", "sub", "mul", "div", "pow"):
        b = values("float32", 12, 9, positive=True)
        a = values("float32", 12, 9, positive=True) if name == "pow" else nan
        yield Case(name, {"a": a, "b": b, "out": blank("float32", 12, 9)}, {})


def stretching() -> Iterator[Case]:
    """Scalars, rows, columns, channels, alternating axes, both sides."""
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((4, 6, 8), (1,)),
        ((1,), (4, 6, 8)),
        ((4, 6, 8), (8,)),
        ((4, 6, 8), (6, 1)),
        ((4, 6, 7), (4, 1, 1)),
        ((5, 1, 8), (1, 6, 1)),
        ((2, 3, 1, 5, 1, 4), (1, 3, 2, 1, 3, 4)),
        ((1,), (1,)),
        ((), (3,)),
    ]
    for left, right in pairs:
        out = np.broadcast_shapes(left, right)
        yield Case(
            "sub", {"a": values("float32", *left), "b": values("float32", *right), "out": blank("float32", *out)}, {}
        )
    for dtype in ("float16", "float64", "int8"):
        operands = {"a": values(dtype, 4, 6, 16), "b": values(dtype, 6, 1), "out": blank(dtype, 4, 6, 16)}
        yield Case("mul", operands, {})
        yield Case("mul", operands, {}, WIDE)
    for dtype in ("bool", "int16", "float32", "float64"):
        operands = {
            "condition": values("bool", 5, 1, 8),
            "a": values(dtype, 3, 8),
            "b": values(dtype, 1),
            "out": blank(dtype, 5, 3, 8),
        }
        yield Case("where", operands, {})
    for dtype in FLOATS:
        yield Case("axpy", {"x": values(dtype, 7, 5), "y": values(dtype, 7, 5), "alpha": 0.3}, {})
        yield Case("axpy", {"x": values(dtype, 7, 5), "y": values(dtype, 7, 5)}, {})
        for shape in ((4, 3, 8, 2), (6, 5), (3, 4, 7)):
            channels = {name: values(dtype, shape[1], positive=True) for name in ("scale", "bias", "mean", "variance")}
            yield Case("batchnorm", {"x": values(dtype, *shape), **channels, "out": blank(dtype, *shape)}, {})


def casts() -> Iterator[Case]:
    for x in ("float32", "float64", "int8", "uint8", "int64", "uint64", "bool", "float16"):
        for out in ("float16", "float32", "int8", "uint8", "int32", "int64", "uint64", "bool"):
            yield Case("cast", {"x": extremes(x), "out": blank(out, extremes(x).size)}, {})


def extremes(dtype: str) -> np.ndarray:
    if dtype == "bool":
        return values("bool", 33)
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.min + 1, limits.max - 1, limits.max, 0, 1, 2, 127], dtype)
    finite = [0, -0.0, 0.5, -0.5, 1.5, -1.5, 126.9, 127, 128, 255, 256, -128, -129, 65504, 1e4]
    edges = [*finite, np.nan, np.inf, -np.inf, 5.96e-8, 1.0009765625 + 2.0**-40]
    large = (
        [] if dtype == "float16" else [2**31, 2**31 - 1, -(2**31), 2**63, -(2.0**63), 2**64, 1e19, 65519, 65520, 1e30]
    )
    return np.array([*edges, *large], dtype)


def layout() -> Iterator[Case]:
    for dtype in ("bool", "float16", "float32", "float64"):
        x = values(dtype, 3, 4, 5)
        yield Case("copy", {"x": x, "out": blank(dtype, 3, 4, 5)}, {})
        yield Case("copy", {"x": values(dtype, 4, 1), "out": blank(dtype, 3, 4, 8)}, {})
        yield Case("fill", {"out": blank(dtype, 37), "value": 3.0}, {})
        yield Case("slice", {"x": x, "out": blank(dtype, 2, 2, 3)}, {"starts": (1, 0, 4), "steps": (1, 3, -2)})
        yield Case(
            "paste",
            {"x": values(dtype, 2, 2, 3), "out": blank(dtype, 3, 4, 5)},
            {"starts": (1, 1, 0), "steps": (1, 2, 2)},
        )
        yield Case(
            "pad", {"x": x, "out": blank(dtype, 4, 4, 8), "value": 2.0}, {"before": (1, 0, 1), "after": (0, 0, 2)}
        )
        yield Case("pad", {"x": x, "out": blank(dtype, 6, 4, 5)}, {"before": (1, 0, 0), "after": (2, 0, 0)})
        for indices in (np.array([3, -1, 0, 7, -5], "int32"), np.array([[1, 2], [-4, 4]], "int64")):
            yield Case("gather", {"x": x, "indices": indices, "out": blank(dtype, 3, *indices.shape, 5)}, {"axis": 1})
    yield Case("slice", {"x": values("float32", 6, 16), "out": blank("float32", 4, 8)}, {"starts": (1, 4)})
    yield Case("paste", {"x": values("float32", 4, 8), "out": blank("float32", 6, 16)}, {"starts": (1, 4)})
    yield Case(
        "gather", {"x": values("float32", 9, 8), "indices": np.array([8, 0, 3]), "out": blank("float32", 3, 8)}, {}
    )
    yield Case(
        "gather", {"x": values("int8", 9, 24), "indices": np.array([8, 0, 3]), "out": blank("int8", 3, 24)}, {}, WIDE
    )
    yield Case("fill", {"out": blank("uint8", 40), "value": 1e9}, {})
    yield Case("fill", {"out": blank("float16", 40), "value": 1e9}, {}, WIDE)
    yield Case("pad", {"x": values("int32", 5), "out": blank("int32", 5)}, {})
    for dtype in ("int8", "float16", "float32", "float64"):
        for shape, axes in [
            ((70, 40), ()),
            ((3, 35, 66), (0, 2, 1)),
            ((5, 6, 7), (2, 0, 1)),
            ((5, 6, 8), (1, 0, 2)),
            ((2, 3, 4, 5), (3, 1, 0, 2)),
            ((1, 9, 1), (2, 1, 0)),
            ((7,), ()),
        ]:
            order = axes or tuple(reversed(range(len(shape))))
            out = blank(dtype, *(shape[axis] for axis in order))
            yield Case("transpose", {"x": values(dtype, *shape), "out": out}, {"axes": axes})
    yield Case("transpose", {"x": values("float32", 3, 35, 40), "out": blank("float32", 40, 35, 3)}, {}, WIDE)


def along_axes() -> Iterator[Case]:
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((5000,), ()),
        ((5001,), ()),
        ((9, 13), (1,)),
        ((9, 16), (1,)),
        ((40, 640), (1,)),
        ((3, 3000), (1,)),
        ((700, 64), (0,)),
        ((700, 5), (0,)),
        ((4, 6, 5, 7), (0, 2, 3)),
        ((4, 6, 5, 8), (1, 3)),
        ((4, 6, 5, 8), (0, 2)),
        ((1, 4, 1), (0, 2)),
        ((5, 1), (0,)),
        ((5, 1), (1,)),
    ]
    for shape, axes in shapes:
        for keepdims in (False, True):
            yield reduction("sum", "float32", shape, axes, keepdims)
    for dtype in (*FLOATS, *INTEGERS):
        for op in ("sum", "max", "min", "prod", *(["mean"] if "float" in dtype else [])):
            yield reduction(op, dtype, (6, 48), (1,))
        yield reduction("sum", dtype, (6, 48), (0,))
    yield reduction("sum", "float16", (3000,), ())  # more than float16 counts to one by one
    yield reduction("max", "float32", (3, 3000), (1,), bounds=WIDE)
    yield reduction("sum", "float64", (3000, 8), (0,), bounds=WIDE)
    yield reduction("sum", "float32", (3, 9000), (1,), bounds=SMALL_SCRATCH)
    for dtype in ("float32", "float16", "int8", "uint64"):
        for shape, axis in [((9, 13), -1), ((9, 16), 0), ((4000,), 0), ((3, 5, 7), 1), ((2, 2048), 1)]:
            for name in ("argmax", "argmin"):
                x = values(dtype, *shape).round() if "float" in dtype else values(dtype, *shape)  # ties
                out = blank("int64" if name == "argmax" else "int32", *np.argmax(x, axis).shape)
                yield Case(name, {"x": x, "out": out}, {"axis": axis})
    nan = values("float32", 6, 50)
    nan[1, 30], nan[2, 7], nan[2, 40], nan[5] = np.nan, np.nan, np.inf, -np.inf
    for name in ("argmax", "argmin"):
        yield Case(name, {"x": nan, "out": blank("int64", 6)}, {})
    for op in ("max", "min"):
        yield Case("reduce", {"x": nan, "out": blank("float32", 6)}, {"op": op, "axes": (1,)})
    for name in ("softmax", "log_softmax"):
        for dtype in FLOATS:
            for shape, axis in [((5, 33), -1), ((5, 64), -1), ((2, 1100), 1), ((4, 9, 6), 1), ((40, 3), 0)]:
                yield Case(name, {"x": values(dtype, *shape) * 9, "out": blank(dtype, *shape)}, {"axis": axis})
        masked = values("float32", 4, 40)
        masked[0, ::2], masked[1, 3:], masked[2, 5] = -np.inf, -np.inf, np.nan
        yield Case(name, {"x": masked, "out": blank("float32", 4, 40)}, {})
        yield Case(name, {"x": masked.T.copy(), "out": blank("float32", 40, 4)}, {"axis": 0}, WIDE)
    yield Case("softmax", {"x": values("float32", 1, 20000), "out": blank("float32", 1, 20000)}, {}, WIDE)
    for dtype in FLOATS:
        for shape, axis in [((5, 33), -1), ((5, 64), -1), ((2, 1100), 1), ((4, 9, 6), 1), ((3, 4), 0)]:
            normalised = shape[axis % len(shape) :]
            x = values(dtype, *shape) + np.asarray(30, dtype)
            plain = {"x": x, "out": blank(dtype, *shape)}
            yield Case("layernorm", plain, {"axis": axis})
            both = {**plain, "scale": values(dtype, *normalised), "bias": values(dtype, *normalised)}
            yield Case("layernorm", both, {"axis": axis})
    yield Case(
        "layernorm", {"x": values("float32", 2, 17000), "out": blank("float32", 2, 17000)}, {"epsilon": 0.1}, WIDE
    )


def reduction(
    op: str,
    dtype: str,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    keepdims: bool = False,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
) -> Case:
    x = values(dtype, *shape)
    if op == "prod" and "float" in dtype:
        x = np.exp(x / 9)
    out = np.sum(x, axis=axes or None, keepdims=keepdims).shape
    return Case("reduce", {"x": x, "out": blank(dtype, *out)}, {"op": op, "axes": axes, "keepdims": keepdims}, bounds)


def windows() -> Iterator[Case]:
    geometries: list[dict[str, Any]] = [
        {},
        {"strides": (2, 1), "pads": (1, 2, 0, 1)},
        {"dilations": (2, 1), "pads": (2, 1, 2, 1), "strides": (1, 3)},
    ]
    for geometry in geometries:
        for dtype in ("int8", "float16", "float32", "float64"):
            if dtype != "int8":
                yield convolution(dtype, (2, 4, 7, 9), (6, 4, 3, 2), geometry, bias=True)
                yield (
                    convolution(dtype, (2, 4, 7, 9), (6, 1, 3, 2), geometry | {"groups": 4}, bias=dtype == "float32")
                    if 6 % 4 == 0
                    else convolution(dtype, (2, 3, 7, 9), (6, 1, 3, 2), geometry | {"groups": 3}, bias=True)
                )
        yield convolution("float32", (3, 4, 7, 9), (6, 2, 3, 2), geometry | {"groups": 2})
        yield convolution("float32", (1, 6, 7, 9), (6, 2, 3, 2), geometry | {"groups": 3}, bias=True)
        yield convolution("float32", (3, 4, 7, 9), (6, 4, 3, 2), geometry, bounds=SMALL_SCRATCH)
        yield convolution("float32", (3, 4, 7, 9), (6, 2, 3, 2), geometry | {"groups": 2}, bounds=Bounds(1500))
        for dtype in FLOATS:
            x = values(dtype, 2, 3, 7, 9)
            attrs = {"kernel": (3, 2), **geometry}
            out = fitting(x.shape, (3, 2), geometry)
            rows = blank(dtype, 2, 3 * 6, out[0] * out[1])
            yield Case("im2col", {"x": x, "out": rows}, attrs)
            for op, pads in (("max", False), ("mean", False), ("mean", True)):
                if geometry:
                    more = geometry | {"pads": tuple(min(each, 1) for each in geometry["pads"])}
                else:
                    more = geometry
                size = fitting(x.shape, (3, 2), more)
                pooled = blank(dtype, 2, 3, *size)
                given = {"op": op, "kernel": (3, 2), "count_pads": pads, **more}
                yield Case("pool2d", {"x": x, "out": pooled}, given)
    # The last window sticks out.
    x = values("float32", 1, 2, 6, 6)
    for op, pads in (("max", False), ("mean", False), ("mean", True)):
        attrs = {"op": op, "kernel": (3, 3), "strides": (2, 2), "count_pads": pads, "pads": (0, 0, 0, 1)}
        yield Case("pool2d", {"x": x, "out": blank("float32", 1, 2, 3, 3)}, attrs)
    for dtype in FLOATS:
        yield convolution(dtype, (2, 8, 5, 4), (3, 8, 1, 1), {}, bias=True)
    yield convolution("float32", (2, 8, 5, 4), (4, 4, 1, 1), {"groups": 2})
    yield convolution("float32", (2, 3, 5, 4), (6, 1, 3, 3), {"groups": 3}, bounds=WIDE)


def fitting(shape: Sequence[int], kernel: tuple[int, int], geometry: dict[str, Any]) -> tuple[int, int]:
    strides, pads = geometry.get("strides", (1, 1)), geometry.get("pads", (0, 0, 0, 0))
    dilations = geometry.get("dilations", (1, 1))
    y, x = (
        (shape[2 + axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis in (0, 1)
    )
    return y, x


def convolution(
    dtype: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    attrs: dict[str, Any],
    *,
    bias: bool = False,
    bounds: Bounds = Bounds(),  # noqa: B008 - immutable
) -> Case:
    out = blank(dtype, x[0], w[0], *fitting(x, (w[2], w[3]), attrs))
    operands = {"x": values(dtype, *x), "w": values(dtype, *w), "out": out}
    return Case("conv2d", operands | ({"bias": values(dtype, w[0])} if bias else {}), attrs, bounds)


def products() -> Iterator[Case]:
    for dtype in FLOATS:
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                batches: list[tuple[tuple[int, ...], ...]] = [
                    ((), (), ()),
                    ((3,), (3,), (3,)),
                    ((3,), (), (3,)),
                    ((), (2, 3), (2, 3)),
                    ((1,), (1,), (1,)),
                ]
                for a, b, c in batches:
                    operands = {
                        "a": values(dtype, *a, *((5, 4) if transpose_a else (4, 5))),
                        "b": values(dtype, *b, *((6, 5) if transpose_b else (5, 6))),
                        "c": values(dtype, *c, 4, 6),
                    }
                    attrs = {"transpose_a": transpose_a, "transpose_b": transpose_b}
                    yield Case("gemm", {**operands, "alpha": 0.5, "beta": 2.0}, attrs)
    unread = np.full((4, 6), np.nan, "float32")
    yield Case("gemm", {"a": values("float32", 4, 5), "b": values("float32", 5, 6), "c": unread}, {})


CASES = list(cases())
