"""The steps of softmax, log_softmax and layernorm. Pure."""

from __future__ import annotations

import math

from kaasq.builtins import Call
from kaasq.builtins.rules import axis_of
from kaasq.dtypes import itemsize
from kaasq_workers.devices.cuda.builtins.elements import NAMES, pack, wide
from kaasq_workers.devices.cuda.builtins.steps import THREADS, Bounds, KernelStep, Pointer, Steps, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import VECTOR_BYTES, index_type, pack_index

_FAMILY = "rows"
_COLUMNS = 32
# Threads of a row, and up to how many vectors each of them has then.
_LANES = ((32, 8), (256, 16), (1024, 0))


def softmax(call: Call, bounds: Bounds) -> Steps:
    """Along an axis, and its logarithm."""
    shape, dtype = call.shape("x"), call.dtype("x")
    axis = axis_of(call, call.attrs["axis"], "x")
    log = "true" if call.builtin.name == "log_softmax" else "false"
    outer, length, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    wide_index = bounds.wide(math.prod(shape))
    index = index_type(wide_index)
    if inner == 1:
        lanes, packs, threads = _row(length, dtype)
        kernel = f"softmax_rows<{NAMES[dtype]}, {index}, {lanes}, {threads}, {log}>"
        counts = (pack_index(outer, wide_index), pack_index(packs, wide_index))
        return (_step(kernel, outer, threads, (Pointer("out"), Pointer("x"), *counts)),)
    kernel = f"softmax_columns<{NAMES[dtype]}, {index}, {log}>"
    sizes = [pack_index(each, wide_index) for each in (outer * inner, length, inner)]
    blocks = (blocks_for(outer * inner, _COLUMNS), 1)
    return (KernelStep(_FAMILY, kernel, blocks, (Pointer("out"), Pointer("x"), *sizes)),)


def layernorm(call: Call, bounds: Bounds) -> Steps:
    """Over the axes from one on."""
    shape, dtype = call.shape("x"), call.dtype("x")
    axis = axis_of(call, call.attrs["axis"], "x")
    rows, length = math.prod(shape[:axis]), math.prod(shape[axis:])
    wide_index = bounds.wide(math.prod(shape))
    lanes, packs, threads = _row(length, dtype)
    given = [Pointer(each) if call.has(each) else Pointer() for each in ("scale", "bias")]
    args: tuple[Pointer | bytes, ...] = (
        Pointer("out"),
        Pointer("x"),
        *given,
        pack_index(rows, wide_index),
        pack_index(packs, wide_index),
        pack(wide(dtype), call.attrs["epsilon"]),
    )
    flags = ", ".join("true" if call.has(each) else "false" for each in ("scale", "bias"))
    kernel = f"layernorm_rows<{NAMES[dtype]}, {index_type(wide_index)}, {lanes}, {threads}, {flags}>"
    return (_step(kernel, rows, threads, args),)


def _row(length: int, dtype: str) -> tuple[int, int, int]:
    """Elements of a vector, vectors of a row, threads of a row."""
    lanes = math.gcd(length, VECTOR_BYTES // itemsize(dtype))
    packs = length // lanes
    threads = next(threads for threads, most in _LANES if not most or packs <= threads * most)
    return lanes, packs, threads


def _step(kernel: str, rows: int, threads: int, args: tuple[Pointer | bytes, ...]) -> KernelStep:
    block = max(threads, THREADS)
    return KernelStep(_FAMILY, kernel, (blocks_for(rows, block // threads), 1), args, block)
