"""Convolution: windows as columns, in blocks of bounded size, times the filters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq.builtins.convolution import Windows, conv2d_windows
from kaasq_workers.devices.cpu.builtins.blocks import Array, blocks
from kaasq_workers.devices.cpu.builtins.windows import unfold

COLUMN_BYTES = 4 << 20  # of windows unfolded at once, and of their results; at least one window is


def conv2d(call: Call, given: dict[str, Any]) -> None:
    """Cross-correlation of images with filters, by group, plus bias."""
    found, x, w, out = conv2d_windows(call), given["x"], given["w"], given["out"]
    groups, wide = call.attrs["groups"], np.float32 if x.dtype == np.float16 else x.dtype
    batch, channels = x.shape[:2]
    filters = w.reshape(groups, w.shape[0] // groups, -1).astype(wide, copy=False)
    bias = given["bias"].astype(wide, copy=False).reshape(groups, -1, 1) if "bias" in given else None
    out = out.reshape(batch, groups, filters.shape[1], -1)
    width = channels * found.kernel[0] * found.kernel[1]
    limit = max(1, COLUMN_BYTES // (np.dtype(wide).itemsize * max(width, len(w))))
    scratch = np.empty(width * min(limit, batch * found.fitting[0] * found.fitting[1]), wide)
    for images, rows, columns in blocks((batch, *found.fitting), limit):
        # Blocks are whole rows, or part of one row: either way their windows follow each other.
        first = rows.start * found.fitting[1] + columns.start
        count = (rows.stop - rows.start) * (columns.stop - columns.start)
        into = out[images, :, :, first : first + count]
        seen = _columns(found, x[images], rows, columns, scratch)
        seen = seen.reshape(len(into), groups, filters.shape[2], count)
        result = np.matmul(filters, seen, out=into if into.dtype == wide else None)
        if bias is not None:
            np.add(result, bias, out=result)
        if into.dtype != wide:
            np.copyto(into, result, casting="same_kind")


def _columns(found: Windows, x: Array, rows: slice, columns: slice, scratch: Array) -> Array:
    if found.kernel == (1, 1) and found.strides == (1, 1) and not any(found.pads):
        return x[:, :, rows, columns].astype(scratch.dtype, copy=False)
    shape = (*x.shape[:2], *found.kernel, rows.stop - rows.start, columns.stop - columns.start)
    into = scratch[: math.prod(shape)].reshape(shape)
    unfold(found, x, rows, columns, into)
    return into
