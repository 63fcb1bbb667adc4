"""The steps of im2col and pool2d, and what convolutions share with them. Pure."""

from __future__ import annotations

import math
import struct

from kaasq.builtins import Call
from kaasq.builtins.convolution import Windows, im2col_windows, pool2d_windows
from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.builtins.elements import NAMES, raw_of
from kaasq_workers.devices.cuda.builtins.steps import Bounds, KernelStep, Pointer, Steps, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import index_type, pack_index

FAMILY = "windows"
_MOST_ROWS = 65535  # of blocks in a grid; a kernel walks over more


def im2col(call: Call, _: Bounds) -> Steps:
    """The columns themselves."""
    found = im2col_windows(call)
    images, channels = call.shape("x")[:2]
    rows = channels * math.prod(found.kernel)
    step = columns_step(call, found, Pointer("out"), Pointer("x"), rows, images, 0, math.prod(found.fitting))
    return (step,)


def pool2d(call: Call, bounds: Bounds) -> Steps:
    """Max or mean over windows."""
    mean = "true" if call.attrs["op"] == "mean" else "false"
    pads = "true" if call.attrs["count_pads"] else "false"
    count = math.prod(call.shape("out"))
    wide = bounds.wide(count)
    kernel = f"pool2d<{NAMES[call.dtype('x')]}, {index_type(wide)}, {mean}, {pads}>"
    args = (geometry(call, pool2d_windows(call)), Pointer("out"), Pointer("x"), pack_index(count, wide))
    return (KernelStep(FAMILY, kernel, (blocks_for(count), 1), args),)


def columns_step(
    call: Call, found: Windows, to: Pointer, x: Pointer, rows: int, images: int, window: int, windows: int
) -> KernelStep:
    """Lay out so many windows, from one on, of so many images; ``rows`` of each image's columns."""
    image_elements = math.prod(call.shape("x")[1:])
    counts = [struct.pack("<q", each) for each in (rows, rows * images, window, windows, image_elements)]
    args: tuple[Pointer | bytes, ...] = (geometry(call, found), to, x, *counts)
    blocks = (blocks_for(windows), min(rows * images, _MOST_ROWS))
    return KernelStep(FAMILY, f"im2col<{raw_of(call.dtype('x'))}>", blocks, args)


def geometry(call: Call, found: Windows) -> bytes:
    """The kernels' ``Windows``. Raises ModuleRejected for sizes that they cannot count."""
    height, width = call.shape("x")[2:]
    _, _, bottom, right = found.pads
    ends = (height + bottom, width + right)
    values = (height, width, *found.kernel, *found.strides, *found.pads[:2], *found.dilations, *found.fitting, *ends)
    try:
        return struct.pack("<14i", *values)
    except struct.error:
        raise ModuleRejected(f"{call.builtin.name}: sizes beyond 2^31 along one axis are not supported") from None
