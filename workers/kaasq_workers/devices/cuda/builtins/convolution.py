"""The steps of conv2d. Pure.

A convolution is a matrix product with the windows as columns, laid out for as many images, or windows of one image, as
the scratch memory holds. Two kinds need no columns: 1 x 1 filters, whose columns are the image, and filters of depth 1.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from kaasq.builtins import Call
from kaasq.builtins.convolution import Windows, conv2d_windows
from kaasq.dtypes import itemsize
from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.builtins.elements import NAMES
from kaasq_workers.devices.cuda.builtins.elementwise import add_per_channel
from kaasq_workers.devices.cuda.builtins.steps import (
    SCRATCH,
    Bounds,
    KernelStep,
    Matrix,
    Pointer,
    ProductStep,
    Step,
    Steps,
    blocks_for,
)
from kaasq_workers.devices.cuda.builtins.walks import index_type, pack_index
from kaasq_workers.devices.cuda.builtins.windows import FAMILY, columns_step, geometry

_WINDOW_MULTIPLE = 8  # of the windows laid out at once where an image has too many: keeps matrices aligned


def conv2d(call: Call, bounds: Bounds) -> Steps:
    """Products of filters with columns, and the bias."""
    found = conv2d_windows(call)
    if call.shape("w")[1] == 1 and call.attrs["groups"] > 1:
        return _direct(call, found, bounds)
    shape = _Shape.of(call, found)
    steps: list[Step] = []
    if math.prod(found.kernel) == 1 and math.prod(found.strides) == 1 and not any(found.pads):
        steps += _products(shape, Pointer("x"), 0, shape.images, 0, shape.windows)
    else:
        for image, images, window, windows in _portions(shape, bounds.scratch_bytes):
            at = Pointer("x", image * shape.image_elements * shape.itemsize)
            rows = shape.groups * shape.depth
            steps.append(columns_step(call, found, Pointer(SCRATCH), at, rows, images, window, windows))
            steps += _products(shape, Pointer(SCRATCH), image, images, window, windows)
    if call.has("bias"):
        steps += add_per_channel(call.shape("out"), call.dtype("out"), bounds)
    return tuple(steps)


class _Shape(NamedTuple):
    """A convolution as products: per image and group, filters x depth times depth x windows."""

    dtype: str
    itemsize: int
    images: int
    groups: int
    filters: int
    depth: int
    windows: int
    image_elements: int

    @classmethod
    def of(cls, call: Call, found: Windows) -> _Shape:
        """That of a call."""
        dtype, groups = call.dtype("x"), call.attrs["groups"]
        filters, *depth = call.shape("w")
        return cls(
            dtype,
            itemsize(dtype),
            call.shape("x")[0],
            groups,
            filters // groups,
            math.prod(depth),
            math.prod(found.fitting),
            math.prod(call.shape("x")[1:]),
        )


def _portions(shape: _Shape, scratch_bytes: int) -> list[tuple[int, int, int, int]]:
    """First image, images, first window, windows of what is laid out at once."""
    column_bytes = shape.groups * shape.depth * shape.itemsize
    fitting = scratch_bytes // column_bytes
    if fitting < 1:
        raise ModuleRejected(
            f"conv2d: one window takes {column_bytes} bytes of scratch memory, there are {scratch_bytes}: "
            "use smaller filters, or give the device more scratch memory",
            needed=column_bytes,
            capacity=scratch_bytes,
        )
    if fitting >= shape.windows:
        most = fitting // shape.windows
        return [(image, min(most, shape.images - image), 0, shape.windows) for image in range(0, shape.images, most)]
    share = -(-shape.windows // -(-shape.windows // fitting))
    most = min(-(-share // _WINDOW_MULTIPLE) * _WINDOW_MULTIPLE, fitting)
    return [
        (image, 1, window, min(most, shape.windows - window))
        for image in range(shape.images)
        for window in range(0, shape.windows, most)
    ]


def _products(shape: _Shape, columns: Pointer, image: int, images: int, window: int, windows: int) -> list[ProductStep]:
    """One product per group, over the images, or per image, over the groups, whichever are fewer."""
    size, groups, filters, depth = shape.itemsize, shape.groups, shape.filters, shape.depth
    out_image = groups * filters * shape.windows
    # From one image, and from one group, to the next: of the filters, the columns, and the outputs.
    by_image = (0, groups * depth * windows, out_image)
    by_group = (filters * depth, depth * windows, filters * shape.windows)
    count, steps, batch, batch_steps = (
        (groups, by_group, images, by_image) if groups <= images else (images, by_image, groups, by_group)
    )

    def matrix(which: int, name: Pointer, start: int, index: int, row_step: int) -> Matrix:
        at = Pointer(name.name, name.offset + (start + index * steps[which]) * size)
        return Matrix(at, row_step, batch_steps[which] if batch > 1 else 0)

    first = image * out_image + window
    return [
        ProductStep(
            shape.dtype,
            filters,
            windows,
            depth,
            batch,
            matrix(0, Pointer("w"), 0, index, depth),
            matrix(1, columns, 0, index, windows),
            matrix(2, Pointer("out"), first, index, shape.windows),
        )
        for index in range(count)
    ]


def _direct(call: Call, found: Windows, bounds: Bounds) -> Steps:
    filters, depth = call.shape("w")[:2]
    count = math.prod(call.shape("out"))
    wide = bounds.wide(count)
    args = (
        geometry(call, found),
        Pointer("out"),
        Pointer("x"),
        Pointer("w"),
        Pointer("bias") if call.has("bias") else Pointer(),
        pack_index(count, wide),
        struct.pack("<i", filters),
        struct.pack("<i", depth),
        struct.pack("<i", filters // call.attrs["groups"]),
    )
    kernel = f"conv2d_direct<{NAMES[call.dtype('x')]}, {index_type(wide)}>"
    return (KernelStep(FAMILY, kernel, (blocks_for(count), 1), args),)
