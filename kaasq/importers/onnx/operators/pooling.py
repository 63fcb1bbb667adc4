"""Pooling, over windows and over whole images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.operators.windows import as_image, geometry, image_shape
from kaasq.importers.onnx.program import Unsupported


def _windowed(op: str) -> Callable[[Node], Value]:
    def pool(node: Node) -> Value:
        node.only_first_output()
        node.ignore("ceil_mode")  # shows in the output's shape, which ONNX infers and the built-in follows
        if node.attribute("storage_order", 0):
            raise Unsupported("storage_order=1")
        found = geometry(node, tuple(node.attribute("kernel_shape")))
        attributes: dict[str, Any] = {"op": op, "kernel": found.kernel, **found.attributes}
        if node.attribute("count_include_pad", 0):
            attributes["count_pads"] = True
        made = node.make("pool2d", as_image(node.tensor(0)), shape=image_shape(node.out.shape), **attributes)
        return made.seen_as(node.out.shape)

    return pool


def _whole(op: str) -> Callable[[Node], Value]:
    def pool(node: Node) -> Value:
        axes = tuple(range(2, len(node.shape(0))))
        return node.make("reduce", node.tensor(0), op=op, axes=axes, keepdims=True)

    return pool


OPERATORS: dict[str, Callable[[Node], Value]] = {
    "AveragePool": _windowed("mean"),
    "GlobalAveragePool": _whole("mean"),
    "GlobalMaxPool": _whole("max"),
    "MaxPool": _windowed("max"),
}
