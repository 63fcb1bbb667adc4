"""Windows over images, one kernel position ("tap") at a time: what im2col and pooling share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from kaasq.builtins import Call
from kaasq.builtins.convolution import Windows, im2col_windows, pool2d_windows
from kaasq_workers.devices.cpu.builtins.blocks import Array, Block, blocks, per_block, spread


class Tap(NamedTuple):
    """Along one axis: a position in the kernel, the windows in which it lies inside of x, and where in x."""

    position: int
    windows: slice
    source: slice


def taps(found: Windows, axis: int, size: int, window: slice) -> Iterator[Tap]:
    """The taps that touch x, for those windows; ``Tap.windows`` counts from the first of them."""
    stride, pad, dilation = found.strides[axis], found.pads[axis], found.dilations[axis]
    first, last = window.start, window.stop - 1
    if stride <= size:
        positions: Iterable[int] = _between(found, axis, size, first, last)
    else:  # most positions between the first and the last window may touch nothing, and there may be 2^31 of them
        each = (_between(found, axis, size, index, index) for index in range(first, last + 1))
        positions = sorted(set(itertools.chain.from_iterable(each)))
    for position in positions:
        offset = position * dilation - pad
        start = max(first, -(offset // stride))
        stop = min(last, (size - 1 - offset) // stride) + 1
        if start < stop:
            begin = start * stride + offset
            source = slice(begin, begin + (stop - 1 - start) * stride + 1, stride)
            yield Tap(position, slice(start - first, stop - first), source)


def _between(found: Windows, axis: int, size: int, first: int, last: int) -> range:
    """The positions from the first that touches x in the last window to the last one in the first window."""
    stride, pad, dilation = found.strides[axis], found.pads[axis], found.dilations[axis]
    lowest = max(0, -((last * stride - pad) // dilation))
    return range(lowest, min(found.kernel[axis] - 1, (size - 1 + pad - first * stride) // dilation) + 1)


def unfold(found: Windows, x: Array, rows: slice, columns: slice, into: Array) -> None:
    """Of ``x`` (N, C, H, W) what those windows cover, ``into`` (N, C, y, x, rows, columns); zeros outside."""
    into.fill(0)
    across = list(taps(found, 1, x.shape[3], columns))
    for down in taps(found, 0, x.shape[2], rows):
        for tap in across:
            target = into[:, :, down.position, tap.position, down.windows, tap.windows]
            np.copyto(target, x[:, :, down.source, tap.source])


def im2col(call: Call, given: dict[str, Any]) -> None:
    """What each window covers, as columns."""
    found, x = im2col_windows(call), given["x"]
    out = given["out"].reshape(*x.shape[:2], *found.kernel, *found.fitting)
    rows, columns = (slice(0, count) for count in found.fitting)

    def work(planes: Block) -> None:
        unfold(found, x[planes], rows, columns, out[planes])

    each = out.size // (x.shape[0] * x.shape[1])
    spread(blocks(x.shape[:2], per_block(out.itemsize, each)), work, out.nbytes)


def pool2d(call: Call, given: dict[str, Any]) -> None:
    """The largest or the mean of each window."""
    found, x, out = pool2d_windows(call), given["x"], given["out"]
    mean = call.attrs["op"] == "mean"
    counts = _counts(found, x.shape[2:], count_pads=call.attrs["count_pads"]) if mean else []

    def work(block: Block) -> None:
        images, channels, rows, columns = block
        into = out[block]
        sums = into if into.dtype != np.float16 or not mean else np.empty(into.shape, np.float32)
        sums.fill(0 if mean else -np.inf)
        combine = np.add if mean else np.maximum
        across = list(taps(found, 1, x.shape[3], columns))
        for down in taps(found, 0, x.shape[2], rows):
            for tap in across:
                part = sums[:, :, down.windows, tap.windows]
                combine(part, x[images, channels, down.source, tap.source], out=part)
        if mean:
            np.divide(sums, (counts[0][rows, None] * counts[1][columns]).astype(sums.dtype), out=sums)
        if sums is not into:
            np.copyto(into, sums, casting="same_kind")

    spread(blocks(out.shape, per_block(out.itemsize)), work, x.nbytes + out.nbytes)


def _counts(found: Windows, image: tuple[int, ...], *, count_pads: bool) -> list[Array]:
    """By axis, how many positions of each window count. A mean's divisor is the product of two."""
    counts = []
    for axis, size in enumerate(image):
        start = np.arange(found.fitting[axis], dtype=np.int64) * found.strides[axis] - found.pads[axis]
        low, high = (-found.pads[axis], size + found.pads[axis + 2]) if count_pads else (0, size)
        dilation = found.dilations[axis]
        first = np.maximum(0, -((start - low) // dilation))
        last = np.minimum(found.kernel[axis] - 1, (high - 1 - start) // dilation)
        counts.append(np.maximum(0, last - first + 1).astype(np.float64))
    return counts
