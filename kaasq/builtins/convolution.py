"""Windows over images in NCHW: im2col, convolution, pooling.

Along an axis, window i starts at i * stride - pad. float16 adds up in float32.
"""

from __future__ import annotations

from typing import NamedTuple

from kaasq.builtins.rules import has_shape, per_axis, same_dtype, windows
from kaasq.builtins.signature import Builtin, Call, Mistake, reads, writes
from kaasq.model import Attribute

GEOMETRY_LIMIT = 2**31 - 1  # products of two fit the 64-bit integers that devices count in


class Windows(NamedTuple):
    """A 2-D window's geometry: (y, x) pairs, pads as (top, left, bottom, right), and how many windows there are."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    fitting: tuple[int, ...]


def windows_of(call: Call, kernel: tuple[int, ...]) -> Windows:
    """The windows over ``x`` (N, C, H, W). Raises Mistake where none fits."""
    if len(call.shape("x")) != 4:
        raise Mistake(f"x is to have axes (N, C, H, W), has shape {call.shape('x')}", "x")
    strides = per_axis(call, "strides", 2, 1, 1)
    dilations = per_axis(call, "dilations", 2, 1, 1)
    pads = per_axis(call, "pads", 4, 0, 0)
    for about, given in (("kernel", kernel), ("strides", strides), ("dilations", dilations), ("pads", pads)):
        if max(given) > GEOMETRY_LIMIT:
            raise Mistake(f"{about} is {given}; each is to be at most {GEOMETRY_LIMIT}", about)
    count = tuple(
        windows(size, kernel[axis], strides[axis], pads[axis], pads[axis + 2], dilations[axis])
        for axis, size in enumerate(call.shape("x")[2:])
    )
    if min(count) < 1:
        raise Mistake(f"a window of {kernel} does not fit into {call.shape('x')[2:]} with pads {pads}", "x")
    return Windows(kernel, strides, pads, dilations, count)


def _kernel(call: Call) -> tuple[int, ...]:
    return per_axis(call, "kernel", 2, 1, 1)


def im2col_windows(call: Call) -> Windows:
    """The windows of an ``im2col``."""
    return windows_of(call, _kernel(call))


def _im2col(call: Call) -> None:
    same_dtype(call, "x", "out")
    found = im2col_windows(call)
    batch, channels = call.shape("x")[:2]
    rows = channels * found.kernel[0] * found.kernel[1]
    has_shape(call, "out", (batch, rows, found.fitting[0] * found.fitting[1]))


def conv2d_windows(call: Call) -> Windows:
    """The windows of a ``conv2d``."""
    return windows_of(call, call.shape("w")[2:])


def _conv2d(call: Call) -> None:
    same_dtype(call, "x", "w", "out", "bias")
    if len(call.shape("w")) != 4:
        raise Mistake(f"w is to have axes (M, C / groups, y, x), has shape {call.shape('w')}", "w")
    found = conv2d_windows(call)
    batch, channels = call.shape("x")[:2]
    filters, depth = call.shape("w")[:2]
    groups = call.attrs["groups"]
    if groups < 1 or channels % groups or filters % groups or depth != channels // groups:
        raise Mistake(
            f"{channels} channels and {filters} filters of depth {depth} do not fit {groups} groups", "groups"
        )
    has_shape(call, "out", (batch, filters, *found.fitting))
    if call.has("bias"):
        has_shape(call, "bias", (filters,))


def pool2d_windows(call: Call) -> Windows:
    """The windows of a ``pool2d``. The last window may stick out over the end, where ``out`` says that it does."""
    found = windows_of(call, _kernel(call))
    if len(call.shape("out")) != 4:
        raise Mistake(f"out is to have axes (N, C, H, W), has shape {call.shape('out')}", "out")
    return found._replace(fitting=call.shape("out")[2:])


def _pool2d(call: Call) -> None:
    same_dtype(call, "x", "out")
    if call.attrs["op"] not in {"max", "mean"}:
        raise Mistake(f"op is max or mean, given {call.attrs['op']!r:.40}", "op")
    found = pool2d_windows(call)
    batch, channels, *image = call.shape("x")
    least = windows_of(call, _kernel(call)).fitting
    # One more, which sticks out, if it starts within the image or the pad before it.
    most = tuple(
        count + (count * stride < size + pad)
        for count, stride, size, pad in zip(least, found.strides, image, found.pads, strict=False)
    )
    if any(each not in {few, many} for each, few, many in zip(found.fitting, least, most, strict=True)):
        raise Mistake(f"out is to have {least} windows, or {most} if the last may stick out", "out")
    has_shape(call, "out", (batch, channels, *found.fitting))


_GEOMETRY: dict[str, Attribute | type] = {"strides": (), "pads": (), "dilations": ()}

CONVOLUTION = (
    Builtin(
        "im2col",
        (reads("x"), writes("out")),
        _im2col,
        {"kernel": tuple, **_GEOMETRY},
        summary="out[n, (c, y, x), window]: what each window of x (N, C, H, W) covers, zeros outside",
    ),
    Builtin(
        "conv2d",
        (reads("x"), reads("w"), writes("out"), reads("bias", optional=True)),
        _conv2d,
        {**_GEOMETRY, "groups": 1},
        summary="cross-correlation of x (N, C, H, W) with w (M, C / groups, y, x), plus bias (M)",
    ),
    Builtin(
        "pool2d",
        (reads("x"), writes("out")),
        _pool2d,
        {"op": str, "kernel": tuple, **_GEOMETRY, "count_pads": False},
        summary=(
            "max or mean over each window, of what it covers of x. count_pads: the mean counts the zeros of the "
            "pads, too, but not what sticks out beyond them. A window that covers nothing of x has max -inf, mean "
            "NaN (with count_pads 0). max gives NaN where there is one"
        ),
    ),
)
