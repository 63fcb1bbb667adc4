"""Parts taken out: Slice, Split, Gather; and masks that are known at import: Trilu, OneHot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Shape, Tensor


def _slice(node: Node) -> Value:
    x = node.tensor(0)
    rank = len(x.shape)
    starts, ends = node.setting("starts", 1), node.setting("ends", 2)
    axes = node.setting("axes", 3, range(len(starts)))
    steps = node.setting("steps", 4, [1] * len(starts))
    firsts, strides = [0] * rank, [1] * rank
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Python's slices have the same rules for what lies outside, and counts from the end.
        until = end if step > 0 or end >= -x.shape[axis] else None
        firsts[axis], _, strides[axis] = slice(start, until, step).indices(x.shape[axis])
    return _part(node, x, node.out.shape, tuple(firsts), tuple(strides))


def _part(node: Node, x: Tensor, shape: Shape, starts: tuple[int, ...], steps: tuple[int, ...]) -> Tensor:
    if shape == x.shape and not any(starts) and set(steps) <= {1}:
        return x
    return node.make("slice", x, shape=shape, starts=starts, steps=steps)


def _split(node: Node) -> Sequence[Value]:
    """Sizes are in the inferred shapes. An output that nobody uses costs nothing: nothing will read it."""
    node.ignore("split", "num_outputs")
    x = node.tensor(0)
    axis = node.axis(0)
    sizes = _split_sizes(node, x.shape[axis])
    parts: list[Value] = []
    start = 0
    for size in sizes:
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        starts = tuple(start if each == axis else 0 for each in range(len(x.shape)))
        parts.append(_part(node, x, shape, starts, (1,) * len(x.shape)))
        start += size
    return parts


def _split_sizes(node: Node, whole: int) -> list[int]:
    given = node.setting("split", 1)
    if given is not None:
        return [int(each) for each in given]
    count = len(node.outputs)
    each = -(-whole // count)
    return [each] * (count - 1) + [whole - each * (count - 1)]


def _gather(node: Node) -> Value:
    axis = int(node.attribute("axis", 0))
    return node.make("gather", node.tensor(0), node.tensor(1), axis=axis)


def _trilu(node: Node) -> Value:
    x = node.tensor(0)
    offset = int(node.known(1, "k")) if node.has(1) else 0
    node.program.spend(x.shape[-2] * x.shape[-1])
    mask = np.tri(x.shape[-2], x.shape[-1], k=offset - 1 if node.attribute("upper", 1) else offset, dtype=bool)
    if node.attribute("upper", 1):
        mask = ~mask
    return node.make("where", node.constant(mask, "bool"), x, node.constant(0))


def _one_hot(node: Node) -> Value:
    """Compares with every class at once. Negative indices count from the end."""
    indices = node.tensor(0)
    if "int" not in indices.dtype:
        indices = node.make("cast", indices, shape=indices.shape, dtype="int64")
    depth = int(node.known(1, "depth").reshape(-1)[0])
    off, on = node.known(2, "values").reshape(-1)
    rank = len(node.out.shape)
    axis = int(node.attribute("axis", -1)) % rank
    column = indices.seen_as((*indices.shape[:axis], 1, *indices.shape[axis:]))
    node.program.spend(16 * max(depth, 0))
    row = np.arange(depth).reshape([depth if each == axis else 1 for each in range(rank)])
    hits = [
        node.make("equal", column, node.constant(classes, indices.dtype), dtype="bool")
        for classes in ((row,) if indices.dtype.startswith("u") else (row, row - depth))
    ]
    hit = hits[0] if len(hits) == 1 else node.make("logical_or", *hits, dtype="bool")
    return node.make("where", hit, node.constant(on), node.constant(off))


OPERATORS: dict[str, Callable[[Node], Value | Sequence[Value]]] = {
    "Gather": _gather,
    "OneHot": _one_hot,
    "Slice": _slice,
    "Split": _split,
    "Trilu": _trilu,
}
