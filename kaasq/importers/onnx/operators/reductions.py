"""Reductions along axes, which newer opsets give as an input."""

from __future__ import annotations

from collections.abc import Callable

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Shape, Tensor


def _axes(node: Node) -> tuple[int, ...] | None:
    """Which axes go, from the front; None if none does."""
    rank = len(node.shape(0))
    given = node.setting("axes", 1)
    if not given:
        return None if node.attribute("noop_with_empty_axes", 0) else tuple(range(rank))
    node.ignore("noop_with_empty_axes")
    return tuple(sorted(each % rank for each in given))


def _reduction(
    op: str, before: Callable[[Node, Tensor], Tensor] | None = None, after: str | None = None
) -> Callable[[Node], Value]:
    def reduce(node: Node) -> Value:
        x = node.tensor(0)
        axes = _axes(node)
        keepdims = bool(node.attribute("keepdims", 1))
        x = before(node, x) if before else x
        if axes is None or not x.shape:
            made = x
        else:
            made = node.make("reduce", x, op=op, axes=axes, keepdims=keepdims)
        return node.make(after, made) if after else made

    return reduce


def _squared(node: Node, x: Tensor) -> Tensor:
    return node.make("mul", x, x, shape=x.shape)


def _absolute(node: Node, x: Tensor) -> Tensor:
    return node.make("abs", x, shape=x.shape)


def _log_sum_exp(node: Node) -> Value:
    """The largest is taken out first, so that no exponential overflows."""
    x = node.tensor(0)
    axes = _axes(node)
    keepdims = bool(node.attribute("keepdims", 1))
    if axes is None or not x.shape:
        return x
    few: Shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    largest = node.make("reduce", x, shape=few, op="max", axes=axes, keepdims=True)
    powers = node.make("exp", node.make("sub", x, largest, shape=x.shape), shape=x.shape)
    total = node.make("log", node.make("reduce", powers, op="sum", axes=axes, keepdims=keepdims))
    return node.make("add", total, largest.seen_as(total.shape))


def _picked(builtin: str) -> Callable[[Node], Value]:
    def pick(node: Node) -> Value:
        x = node.tensor(0)
        axis, keepdims = node.axis(0), bool(node.attribute("keepdims", 1))
        if not node.attribute("select_last_index", 0):
            return node.make(builtin, x, axis=axis, keepdims=keepdims)
        last = x.shape[axis] - 1  # the first of the reversed axis is the last one
        starts = tuple(last if each == axis else 0 for each in range(len(x.shape)))
        steps = tuple(-1 if each == axis else 1 for each in range(len(x.shape)))
        reversed_x = node.make("slice", x, shape=x.shape, dtype=x.dtype, starts=starts, steps=steps)
        return node.make("sub", node.constant(last), node.make(builtin, reversed_x, axis=axis, keepdims=keepdims))

    return pick


OPERATORS: dict[str, Callable[[Node], Value]] = {
    "ArgMax": _picked("argmax"),
    "ArgMin": _picked("argmin"),
    "ReduceL1": _reduction("sum", _absolute),
    "ReduceL2": _reduction("sum", _squared, "sqrt"),
    "ReduceLogSum": _reduction("sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduction("max"),
    "ReduceMean": _reduction("mean"),
    "ReduceMin": _reduction("min"),
    "ReduceProd": _reduction("prod"),
    "ReduceSum": _reduction("sum"),
    "ReduceSumSquare": _reduction("sum", _squared),
}
