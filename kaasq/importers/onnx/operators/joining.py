"""Parts put together: Concat and Pad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Unsupported

_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
"""ONNX's names of what NumPy's ``pad`` calls so."""


def _concat(node: Node) -> Value:
    axis = int(node.attribute("axis")) % len(node.out.shape)
    parts = [node.tensor(i) for i in range(len(node.inputs)) if node.shape(i)[axis]]
    if len(parts) == 1:
        return parts[0]
    out = node.program.temp(node.out.dtype, node.out.shape, node.out.name)
    start = 0
    for part in parts:
        starts = tuple(start if each == axis else 0 for each in range(len(part.shape)))
        node.program.add_into("paste", out, part, starts=starts)
        start += part.shape[axis]
    return out


def _pad(node: Node) -> Value:
    rank = len(node.shape(0))
    node.ignore("value")  # of the mode "constant" alone
    pads = [int(each) for each in node.setting("pads", 1)]
    axes = [int(each) % rank for each in node.known(3, "axes")] if node.has(3) else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = low, high
    mode = node.attribute("mode", "constant")
    if mode == "constant":
        return _bordered(node, before, after)
    if mode not in _MODES or min(before + after) < 0:
        raise Unsupported(f"mode={mode!r} with pads {pads}")
    x = node.tensor(0)
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        if low or high:
            node.program.spend(8 * (x.shape[axis] + low + high))
            indices = np.pad(np.arange(x.shape[axis], dtype=np.int64), (low, high), mode=_MODES[mode])
            shape = (*x.shape[:axis], len(indices), *x.shape[axis + 1 :])
            x = node.make("gather", x, node.constant(indices, "int64"), shape=shape, axis=axis)
    return x


def _bordered(node: Node, before: list[int], after: list[int]) -> Value:
    """Negative pads cut off, the others add a value."""
    x = node.tensor(0)
    if min(before + after) < 0:
        sizes = [size + min(b, 0) + min(a, 0) for size, b, a in zip(x.shape, before, after, strict=True)]
        x = node.make("slice", x, shape=tuple(sizes), starts=tuple(max(-each, 0) for each in before))
        before, after = [max(each, 0) for each in before], [max(each, 0) for each in after]
    if not any(before + after):
        return x
    given = node.attribute("value", 0.0) if node.opset < 11 else _fill(node)
    value = np.dtype(x.dtype).type(given)
    return node.make("pad", x, value, before=tuple(before), after=tuple(after))


def _fill(node: Node) -> object:
    return node.known(2, "constant_value").reshape(-1)[0] if node.has(2) else 0


OPERATORS: dict[str, Callable[[Node], Value]] = {"Concat": _concat, "Pad": _pad}
