"""Normalisations over a layer, an instance or groups, and softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Tensor


def _softmax(builtin: str) -> Callable[[Node], Value]:
    def along(node: Node) -> Value:
        x = node.tensor(0)
        if node.opset >= 13:
            return node.make(builtin, x, axis=int(node.attribute("axis", -1)))
        # Before opset 13 everything from the axis on was one row.
        axis = int(node.attribute("axis", 1)) % max(len(x.shape), 1)
        rows = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return node.make(builtin, x.seen_as(rows), shape=rows, axis=-1).seen_as(x.shape)

    return along


def _layer_normalization(node: Node) -> Value:
    node.only_first_output()
    node.ignore("stash_type")  # the precision of intermediate values; here it is that of the device, float32 at least
    x = node.tensor(0)
    axis = node.axis(-1)
    parameters = [node.stretched(node.tensor(i), x.shape[axis:]) for i in (1, 2) if node.has(i)]
    epsilon = float(node.attribute("epsilon", 1e-5))
    return node.make("layernorm", x, *parameters, axis=axis, epsilon=epsilon)


def _rms_normalization(node: Node) -> Value:
    """Scales by 1 / sqrt(mean(x squared) + epsilon)."""
    node.ignore("stash_type")
    x = node.tensor(0)
    axis = node.axis(-1)
    axes = tuple(range(axis, len(x.shape)))
    few = (*x.shape[:axis], *(1 for _ in axes))
    squares = node.make("reduce", node.make("mul", x, x), shape=few, op="mean", axes=axes, keepdims=True)
    shifted = node.make("add", squares, node.constant(node.attribute("epsilon", 1e-5)), shape=few)
    normal = node.make("mul", x, node.make("rsqrt", shifted, shape=few))
    return node.make("mul", normal, node.tensor(1))


def _instance_normalization(node: Node) -> Value:
    return _grouped(node, node.shape(0)[1])


def _group_normalization(node: Node) -> Value:
    node.ignore("stash_type")
    return _grouped(node, int(node.attribute("num_groups")))


def _grouped(node: Node, groups: int) -> Tensor:
    x = node.tensor(0)
    batch, channels = x.shape[:2]
    rows = (batch * groups, math.prod(x.shape[1:]) // groups)
    epsilon = float(node.attribute("epsilon", 1e-5))
    normal = node.make("layernorm", x.seen_as(rows), shape=rows, axis=-1, epsilon=epsilon).seen_as(x.shape)
    per_channel = (channels, *(1 for _ in x.shape[2:]))
    scaled = node.make("mul", normal, node.tensor(1).seen_as(per_channel))
    return node.make("add", scaled, node.tensor(2).seen_as(per_channel))


OPERATORS: dict[str, Callable[[Node], Value]] = {
    "GroupNormalization": _group_normalization,
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LogSoftmax": _softmax("log_softmax"),
    "RMSNormalization": _rms_normalization,
    "Softmax": _softmax("softmax"),
}
