"""The steps of built-ins that move elements about. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from kaasq.builtins import Call
from kaasq.builtins.rules import axis_of, per_axis
from kaasq.dtypes import itemsize
from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.builtins.elements import NAMES, raw, raw_of
from kaasq_workers.devices.cuda.builtins.steps import Bounds, Figure, KernelStep, Pointer, Steps, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import (
    MOST_AXES,
    VECTOR_BYTES,
    Shape,
    aligned,
    contiguous,
    divisor,
    index_type,
    merged,
    pack_index,
    stretched,
    walk,
)

_FAMILY = "layout"


def copy(call: Call, bounds: Bounds) -> Steps:
    """Out = x, stretched."""
    shape = call.shape("out")
    return _move(shape, contiguous(shape), stretched(call.shape("x"), shape), call.dtype("x"), bounds)


def slice_(call: Call, bounds: Bounds) -> Steps:
    """A part of x."""
    start, steps = _part(call, "x")
    shape = call.shape("out")
    return _move(shape, contiguous(shape), steps, call.dtype("x"), bounds, x_start=start)


def paste(call: Call, bounds: Bounds) -> Steps:
    """X as a part of out."""
    start, steps = _part(call, "out")
    shape = call.shape("x")
    return _move(shape, steps, contiguous(shape), call.dtype("x"), bounds, out_start=start)


def _part(call: Call, whole: str) -> tuple[int, Shape]:
    shape = call.shape(whole)
    strides = contiguous(shape)
    starts = per_axis(call, "starts", len(shape), 0, 0)
    steps = call.attrs["steps"] or (1,) * len(shape)
    start = sum(a * b for a, b in zip(starts, strides, strict=True))
    return start, tuple(a * b for a, b in zip(steps, strides, strict=True))


def _move(
    shape: Shape, out: Shape, x: Shape, dtype: str, bounds: Bounds, *, out_start: int = 0, x_start: int = 0
) -> Steps:
    path = walk(shape, (out, x), [itemsize(dtype)] * 2, bounds, starts=(out_start, x_start))
    element = raw_of(dtype)
    unused = bytes(max(itemsize(dtype), 4))
    args = (path.packed(), Pointer("out"), Pointer("x"), unused, unused)
    kernel = f"map1<Same, {element}, {element}, {path.template}>"
    return (KernelStep("elementwise", kernel, (blocks_for(path.threads), 1), args),)


def fill(call: Call, bounds: Bounds) -> Steps:
    """One value everywhere."""
    dtype = call.dtype("out")
    size = itemsize(dtype)
    packs, tail = divmod(math.prod(call.shape("out")), VECTOR_BYTES // size)
    wide = bounds.wide(packs + tail)
    kernel = f"fill<{raw(size)}, {index_type(wide)}, {VECTOR_BYTES // size}>"
    args = (Pointer("out"), Figure("value", dtype, wide=False), pack_index(packs, wide), pack_index(tail, wide))
    return (KernelStep(_FAMILY, kernel, (blocks_for(packs + tail), 1), args),)


def transpose(call: Call, bounds: Bounds) -> Steps:
    """Axes in another order."""
    shape, dtype = call.shape("x"), call.dtype("x")
    order = call.attrs["axes"] or tuple(reversed(range(len(shape))))
    strides = contiguous(shape)
    sizes, (out, x) = merged(call.shape("out"), (contiguous(call.shape("out")), [strides[each] for each in order]))
    if x[-1] <= 1:  # innermost here and there: rows move whole
        return _move(sizes, out, x, dtype, bounds)
    across = x.index(1)
    rest = [axis for axis in range(len(sizes) - 1) if axis != across]

    def of_rest(values: Sequence[int]) -> list[int]:
        return [values[axis] for axis in rest] or [1]

    outer = walk(of_rest(sizes), (of_rest(out), of_rest(x)), [itemsize(dtype)] * 2, bounds, vector=False)
    tile = 64 if itemsize(dtype) <= 2 else 32  # a row of a tile is to have a cache line's 128 bytes, or nearly
    down_tiles, across_tiles = -(-sizes[-1] // tile), -(-sizes[across] // tile)
    wide = bounds.wide(math.prod(sizes))
    outer = outer._replace(wide=wide)
    kernel = f"transpose<{raw_of(dtype)}, {index_type(wide)}, {len(outer.sizes)}, {tile}>"
    args = (
        outer.packed(),
        Pointer("out"),
        Pointer("x"),
        pack_index(sizes[-1], wide),
        pack_index(sizes[across], wide),
        struct.pack("<q", x[-1]),
        struct.pack("<q", out[across]),
        pack_index(down_tiles, wide),
        pack_index(across_tiles, wide),
    )
    return (KernelStep(_FAMILY, kernel, (blocks_for(outer.packs * down_tiles * across_tiles, 1), 1), args),)


def pad(call: Call, bounds: Bounds) -> Steps:
    """X within a frame."""
    shape, dtype = call.shape("x"), call.dtype("x")
    before, after = (per_axis(call, each, len(shape), 0, 0) for each in ("before", "after"))
    # Axes that are not padded count as part of the one before them.
    axes: list[tuple[int, int, int]] = []
    for size, b, a in zip(shape, before, after, strict=True):
        if axes and not a and not b:
            axes[-1] = (axes[-1][0] * size, axes[-1][1] * size, axes[-1][2] * size)
        else:
            axes.append((size, b, a))
    axes = axes or [(1, 0, 0)]
    if len(axes) > MOST_AXES:
        raise ModuleRejected(f"pad: {len(axes)} axes are padded; at most {MOST_AXES} are supported: pad in two calls")
    inside = [size for size, _, _ in axes]
    sizes = [size + b + a for size, b, a in axes]
    wide = bounds.wide(math.prod(sizes))
    data = struct.pack(f"<{3 * len(axes)}q", *(b for _, b, _ in axes), *inside, *contiguous(inside))
    data += b"".join(divisor(each, wide) for each in sizes) + pack_index(math.prod(sizes), wide)
    kernel = f"pad<{raw_of(dtype)}, {index_type(wide)}, {len(axes)}>"
    args = (aligned(data), Pointer("out"), Pointer("x"), Figure("value", dtype, wide=False))
    return (KernelStep(_FAMILY, kernel, (blocks_for(math.prod(sizes)), 1), args),)


def gather(call: Call, bounds: Bounds) -> Steps:
    """Entries along an axis."""
    shape = call.shape("x")
    axis = axis_of(call, call.attrs["axis"], "x")
    # Neighbours that go together move together, up to 16 bytes at once.
    nbytes = math.prod(shape[axis + 1 :]) * itemsize(call.dtype("x"))
    unit = math.gcd(nbytes, VECTOR_BYTES)
    indices = math.prod(call.shape("indices"))
    count = math.prod(shape[:axis]) * indices * (nbytes // unit)
    wide = bounds.wide(count)
    kernel = f"gather<{raw(unit)}, {NAMES[call.dtype('indices')]}, {index_type(wide)}>"
    args = (
        Pointer("out"),
        Pointer("x"),
        Pointer("indices"),
        struct.pack("<q", shape[axis]),
        divisor(indices, wide),
        divisor(nbytes // unit, wide),
        pack_index(count, wide),
    )
    return (KernelStep(_FAMILY, kernel, (blocks_for(count), 1), args),)
