"""Arithmetic, comparisons and functions of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kaasq.importers.onnx.node import Known, Node, Value
from kaasq.importers.onnx.program import Tensor, Unsupported

Operator = Callable[[Node], Value]

_UNARY = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Log": "log",
    "Neg": "neg",
    "Not": "logical_not",
    "Reciprocal": "reciprocal",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Sqrt": "sqrt",
}
_BINARY = {
    "Add": "add",
    "And": "logical_and",
    "Div": "div",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "mul",
    "Or": "logical_or",
    "Sub": "sub",
    "Xor": "logical_xor",
}
_VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}
_SMALL_POWERS = {1.0, 2.0, 3.0, 4.0}


def _unary(builtin: str) -> Operator:
    return lambda node: node.make(builtin, node.tensor(0))


def _binary(builtin: str) -> Operator:
    return lambda node: node.make(builtin, node.tensor(0), node.tensor(1))


def _variadic(builtin: str) -> Operator:
    def combine(node: Node) -> Value:
        total, *others = node.tensors()
        for each in others:
            shape = np.broadcast_shapes(total.shape, each.shape)
            total = node.make(builtin, total, each, shape=shape)
        if node.op == "Mean" and others:
            total = node.make("mul", total, node.constant(1 / (len(others) + 1)))
        return total

    return combine


def _pow(node: Node) -> Value:
    base = node.tensor(0)
    exponent = node.value(1)
    if isinstance(exponent, Known) and exponent.array.size == 1 and len(exponent.shape) <= len(base.shape):
        power = float(exponent.array.item())
        if power in _SMALL_POWERS:
            return _product(node, base, int(power))
        if power == 0.5 and base.dtype.startswith("float"):
            return node.make("sqrt", base)
        if power == -1 and base.dtype.startswith("float"):
            return node.make("reciprocal", base)
    if not base.dtype.startswith("float"):
        raise Unsupported(f"of {base.dtype} only the constant powers 1 to 4 are supported")
    if isinstance(exponent, Known):
        return node.make("pow", base, node.constant(exponent.array))
    other = node.tensor(1)
    if other.dtype != base.dtype:
        other = node.make("cast", other, shape=other.shape)
    return node.make("pow", base, other)


def _product(node: Node, base: Tensor, power: int) -> Tensor:
    if power == 1:
        return base
    square = node.make("mul", base, base)
    if power == 2:
        return square
    return node.make("mul", square, base if power == 3 else square)


def _where(node: Node) -> Value:
    return node.make("where", *node.tensors())


def _is_nan(node: Node) -> Value:
    return node.make("not_equal", node.tensor(0), node.tensor(0))


def _clip(node: Node) -> Value:
    """With one bound alone, or one that a request brings, it is a maximum or a minimum."""
    x = node.tensor(0)
    low, high = _bound(node, 1, "min", -math.inf), _bound(node, 2, "max", math.inf)
    if low is not None and high is not None:
        known = [node.program.array(each) for each in (low, high)]
        numbers = [each.reshape(-1)[0] for each in known if each is not None]
        if len(numbers) == 2 and np.isfinite(numbers).all():
            return node.make("clip", x, *numbers)
    if low is not None:
        x = node.make("maximum", x, low.seen_as(()))
    return x if high is None else node.make("minimum", x, high.seen_as(()))


def _bound(node: Node, position: int, name: str, boundless: float) -> Tensor | None:
    """A bound, which is an attribute in older opsets and an input later; None where nothing is beyond it."""
    limit = node.attribute(name)
    if limit is None and not node.has(position):
        return None
    bound = node.tensor(position) if limit is None else node.constant(limit)
    array = node.program.array(bound)
    return None if array is not None and array.item() == boundless else bound


def _cast(node: Node) -> Value:
    node.attribute("to")
    node.ignore("saturate")  # concerns 8-bit floats, which are not supported
    x = node.tensor(0)
    return x if x.dtype == node.out.dtype else node.make("cast", x)


OPERATORS: dict[str, Operator] = {
    **{name: _unary(builtin) for name, builtin in _UNARY.items()},
    **{name: _binary(builtin) for name, builtin in _BINARY.items()},
    **{name: _variadic(builtin) for name, builtin in _VARIADIC.items()},
    "Cast": _cast,
    "CastLike": _cast,
    "Clip": _clip,
    "IsNaN": _is_nan,
    "Pow": _pow,
    "Where": _where,
}
