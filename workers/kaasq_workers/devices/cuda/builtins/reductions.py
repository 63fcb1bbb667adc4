"""The steps of reduce, argmax and argmin. Shapes alone decide how they are split, so results are the same. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from kaasq.builtins import Call
from kaasq.builtins.reductions import reduced_axes
from kaasq.builtins.rules import axis_of
from kaasq.dtypes import itemsize
from kaasq_workers.devices.cuda.builtins.elements import NAMES, wide
from kaasq_workers.devices.cuda.builtins.steps import SCRATCH, THREADS, Bounds, KernelStep, Pointer, Steps, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import Walk, contiguous, pack_index, walk

_FAMILY = "reduce"
_OPERATORS = {"sum": "Sum", "mean": "Mean", "max": "Max", "min": "Min", "prod": "Prod"}

# With fewer blocks than ENOUGH, what is reduced is split until there are about as many; a part has so many steps.
_ENOUGH_BLOCKS = 512
_WANTED_BLOCKS = 1024
_STEPS_OF_PART = 8
_ROW_LANES = (4, 32, THREADS)
_COLUMNS, _COLUMN_ROWS = 32, 8


def reduce(call: Call, bounds: Bounds) -> Steps:
    """Over any axes."""
    operator = f"{_OPERATORS[call.attrs['op']]}<{NAMES[call.dtype('x')]}>"
    return _steps(call, reduced_axes(call), operator, itemsize(wide(call.dtype("x"))), bounds)


def argmax(call: Call, bounds: Bounds) -> Steps:
    """Along one axis."""
    largest = "true" if call.builtin.name == "argmax" else "false"
    operator = f"Arg<{NAMES[call.dtype('x')]}, {NAMES[call.dtype('out')]}, {largest}>"
    return _steps(call, (axis_of(call, call.attrs["axis"], "x"),), operator, 16, bounds)


def _steps(call: Call, gone: Sequence[int], operator: str, found_bytes: int, bounds: Bounds) -> Steps:
    shape, dtype = call.shape("x"), call.dtype("x")
    strides = contiguous(shape)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    innermost = max(range(len(shape)), key=lambda axis: (shape[axis] > 1, axis), default=0)
    in_rows = not kept or innermost in gone

    def over(axes: Sequence[int], also: Sequence[int] | None) -> Walk:
        steps = [strides[axis] for axis in axes]
        vector = also is not None
        sizes = [shape[axis] for axis in axes]
        return walk(sizes, (steps,), [max(itemsize(dtype), least_bytes)], bounds, vector=vector, also=also or ())

    # Each element of a vector has an accumulator of its own, so vectors of small elements are not as long as could be.
    least_bytes = 2 if in_rows else 4
    # Vectors lie along the innermost axis; whatever else is stepped over must keep them aligned.
    outputs = math.prod(shape[axis] for axis in kept)
    along = over(gone, [strides[axis] for axis in kept if shape[axis] > 1] if in_rows else None)
    across = over(kept, None if in_rows else [outputs, *(strides[axis] for axis in gone if shape[axis] > 1)])
    index_wide = along.wide or across.wide
    along, across = along._replace(wide=index_wide), across._replace(wide=index_wide)

    if in_rows:
        lanes = next((each for each in _ROW_LANES if along.threads <= each * _STEPS_OF_PART), THREADS)
        blocks = blocks_for(across.packs, THREADS // lanes)
        pace = lanes
    else:
        lanes, blocks, pace = across.lanes, blocks_for(across.packs, _COLUMNS), _COLUMN_ROWS
    parts = _parts(blocks, along.threads, pace, outputs * found_bytes, bounds)
    part = -(-along.threads // parts)
    parts = -(-along.threads // part)
    kind = NAMES[call.dtype("out")] if parts == 1 else f"{operator}::Acc"
    shared = f"{operator}, {NAMES[dtype]}, {kind}, {along.counts_in}, {len(across.sizes)}, {len(along.sizes)}"
    final = "true" if parts == 1 else "false"
    kernel = (
        f"reduce_rows<{shared}, {along.lanes}, {lanes}, {final}>"
        if in_rows
        else f"reduce_columns<{shared}, {lanes}, {final}>"
    )
    count = struct.pack("<d", math.prod(shape[axis] for axis in gone))
    target = Pointer("out") if parts == 1 else Pointer(SCRATCH)
    args = (across.packed(), along.packed(), target, Pointer("x"), pack_index(part, index_wide), count)
    first = KernelStep(_FAMILY, kernel, (blocks, parts), args)
    if parts == 1:
        return (first,)
    second = KernelStep(
        _FAMILY,
        f"reduce_parts<{operator}, {NAMES[call.dtype('out')]}>",
        (blocks_for(outputs, THREADS // 32), 1),
        (Pointer("out"), Pointer(SCRATCH), struct.pack("<q", outputs), struct.pack("<i", parts), count),
    )
    return (first, second)


def _parts(blocks: int, length: int, pace: int, found_bytes: int, bounds: Bounds) -> int:
    """Into how many parts to split, so that the GPU is busy and what they find fits into the scratch memory."""
    if blocks >= _ENOUGH_BLOCKS:
        return 1
    wanted = min(_WANTED_BLOCKS // blocks, length // (pace * _STEPS_OF_PART), bounds.scratch_bytes // found_bytes)
    return max(wanted, 1)
