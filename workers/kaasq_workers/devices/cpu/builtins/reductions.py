"""Sums and the like over axes, and where the largest is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kaasq.builtins import Call
from kaasq.builtins.reductions import reduced_axes
from kaasq_workers.devices.cpu.builtins.blocks import Array, Block, blocks, lane_blocks, lanes, per_pass, spread

STEP_BYTES = 1 << 20  # what is reduced at once; the longer sum of such steps is added up in float64
STEP_ROWS = 1024  # and what is added up one by one, as rows are: NumPy adds in pairs only along the last axis
NEIGHBOURS = 4096  # elements of a row that are added to the next row's together, at least: they share cache lines

_UFUNCS = {"sum": np.add, "mean": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}


class _Reduction(NamedTuple):
    """How to reduce: over which axes, and the dtypes of a step's and of all steps' result."""

    ufunc: np.ufunc
    axes: tuple[int, ...]
    within: np.dtype[Any]
    across: np.dtype[Any]


def reduce(call: Call, given: dict[str, Any]) -> None:
    """Sum, mean, max, min or prod over axes."""
    op, x = call.attrs["op"], given["x"]
    sizes, gone = _collapsed(x.shape, reduced_axes(call))
    x = x.reshape(sizes)
    out = given["out"].reshape([1 if reduced else size for size, reduced in zip(sizes, gone, strict=True)])
    rounds = x.dtype.kind == "f" and op not in {"max", "min"}
    within = np.dtype(np.float32) if rounds and x.dtype == np.float16 else x.dtype
    axes = tuple(axis for axis, reduced in enumerate(gone) if reduced)
    how = _Reduction(_UFUNCS[op], axes, within, np.dtype(np.float64) if rounds else within)

    each = x.size // out.size  # elements that make one
    limit = max(per_pass(x.itemsize, each), min(NEIGHBOURS, out.shape[-1]))
    rows = max(1, STEP_BYTES * sizes[axes[0]] // (limit * each * x.itemsize))
    if axes[0] < len(sizes) - 1:
        rows = min(rows, STEP_ROWS)

    def work(part: Block) -> None:
        reach = tuple(slice(None) if reduced else cut for cut, reduced in zip(part, gone, strict=True))
        found = _reduced(how, x[reach], rows)
        np.copyto(out[part], found / each if op == "mean" else found, casting="same_kind")

    in_one_step = sizes[axes[0]] <= rows  # else each part's steps are spread
    spread(blocks(out.shape, limit), work, x.nbytes if in_one_step else 0)


def arg(where: Callable[..., Array]) -> Callable[[Call, dict[str, Any]], None]:
    """``out`` = where along the axis, by ``np.argmax`` or ``np.argmin``, for which a NaN is it."""

    def run(call: Call, given: dict[str, Any]) -> None:
        axis = call.attrs["axis"] % given["x"].ndim
        x = lanes(given["x"], axis)
        out = given["out"].reshape(x.shape[0], x.shape[2])

        def work(block: Block) -> None:
            before, _, behind = block
            np.copyto(out[before, behind], where(x[block], axis=1), casting="same_kind")

        spread(lane_blocks(x, once=True), work, x.nbytes)

    return run


def _reduced(how: _Reduction, x: Array, rows: int) -> Array:
    """Its axes reduced to 1, in steps of so many rows of the first of them."""
    first = how.axes[0]
    if x.shape[first] <= rows:
        return np.asarray(how.ufunc.reduce(x, axis=how.axes, dtype=how.within, keepdims=True))
    steps = blocks((x.shape[first],), rows)
    shape = [1 if axis in how.axes else size for axis, size in enumerate(x.shape)]
    partial = np.empty((len(steps), *shape), how.within)

    def work(step: Block) -> None:
        (cut,) = step
        reach = (*(slice(None),) * first, cut)
        into = partial[cut.start // rows]
        how.ufunc.reduce(x[reach], axis=how.axes, dtype=how.within, keepdims=True, out=into)

    spread(steps, work, x.nbytes)
    return np.asarray(how.ufunc.reduce(partial, axis=0, dtype=how.across))


def _collapsed(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[list[int], list[bool]]:
    """The shape with neighbours that share a fate joined, and whether each is reduced. Never without one that is."""
    if not axes:
        return [*shape, 1], [*[False] * len(shape), True]
    sizes, gone = [], []
    for reduced, group in itertools.groupby(enumerate(shape), lambda item: item[0] in axes):
        sizes.append(math.prod(size for _, size in group))
        gone.append(reduced)
    return sizes, gone
