"""Activations: those that are built-ins, and those composed of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Tensor, Unsupported

_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875

_PLAIN = {"Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus", "Tanh": "tanh"}


def _plain(builtin: str) -> Callable[[Node], Value]:
    return lambda node: node.make(builtin, node.tensor(0))


def _leaky_relu(node: Node) -> Value:
    return node.make("leaky_relu", node.tensor(0), alpha=float(node.attribute("alpha", 0.01)))


def _elu(node: Node) -> Value:
    return node.make("elu", node.tensor(0), alpha=float(node.attribute("alpha", 1.0)))


def _selu(node: Node) -> Value:
    made = node.make("elu", node.tensor(0), alpha=float(node.attribute("alpha", _SELU_ALPHA)))
    return node.make("mul", made, node.constant(node.attribute("gamma", _SELU_GAMMA)))


def _gelu(node: Node) -> Value:
    approximate = node.attribute("approximate", "none")
    if approximate not in {"none", "tanh"}:
        raise Unsupported(f"approximate={approximate!r}; known are none and tanh")
    return node.make("gelu", node.tensor(0), tanh=approximate == "tanh")


def _swish(node: Node) -> Value:
    x, alpha = node.tensor(0), float(node.attribute("alpha", 1.0))
    if alpha == 1:
        return node.make("silu", x)
    scaled = node.make("mul", x, node.constant(alpha))
    return node.make("mul", x, node.make("sigmoid", scaled))


def _hard_sigmoid(node: Node) -> Value:
    return _ramp(node, float(node.attribute("alpha", 0.2)), float(node.attribute("beta", 0.5)))


def _hard_swish(node: Node) -> Value:
    return node.make("mul", node.tensor(0), _ramp(node, 1 / 6, 0.5))


def _ramp(node: Node, slope: float, offset: float) -> Tensor:
    """From 0 to 1: clip(slope * x + offset, 0, 1)."""
    scaled = node.make("mul", node.tensor(0), node.constant(slope))
    shifted = node.make("add", scaled, node.constant(offset))
    kind = np.dtype(node.out.dtype).type
    return node.make("clip", shifted, kind(0), kind(1))


def _mish(node: Node) -> Value:
    gate = node.make("tanh", node.make("softplus", node.tensor(0)))
    return node.make("mul", node.tensor(0), gate)


def _softsign(node: Node) -> Value:
    below = node.make("add", node.make("abs", node.tensor(0)), node.constant(1))
    return node.make("div", node.tensor(0), below)


def _prelu(node: Node) -> Value:
    """max(x, 0) + slope * min(x, 0)."""
    x, zero = node.tensor(0), node.constant(0)
    below = node.make("mul", node.make("minimum", x, zero), node.tensor(1))
    return node.make("add", node.make("maximum", x, zero), below)


OPERATORS: dict[str, Callable[[Node], Value]] = {
    **{name: _plain(builtin) for name, builtin in _PLAIN.items()},
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "Mish": _mish,
    "PRelu": _prelu,
    "Selu": _selu,
    "Softsign": _softsign,
    "Swish": _swish,
}
