"""Shapes seen otherwise, which costs nothing; axes in another order; copies that stretch."""

from __future__ import annotations

from collections.abc import Callable

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.program import Shape, Tensor, Unsupported


def _view(*attributes: str) -> Callable[[Node], Value]:
    """A reshape: ONNX has inferred the shape from these attributes, or from inputs that were constant."""

    def see(node: Node) -> Value:
        node.ignore(*attributes)
        return node.tensor(0).seen_as(node.out.shape)

    return see


def _same(node: Node) -> Value:
    return node.value(0)


def _dropout(node: Node) -> Value:
    node.only_first_output()
    node.ignore("ratio", "seed")
    if node.has(2) and node.known(2, "training_mode").item():
        raise Unsupported("training_mode is true: what is dropped would be random")
    return node.value(0)


def _transpose(node: Node) -> Value:
    x = node.tensor(0)
    return _ordered(node, x, tuple(node.attribute("perm") or reversed(range(len(x.shape)))))


def _ordered(node: Node, x: Tensor, order: tuple[int, ...]) -> Tensor:
    """The axes in that order. If only axes of size 1 move, memory stays as it is."""
    shape = tuple(x.shape[axis] for axis in order)
    moving = [axis for axis in order if x.shape[axis] != 1]
    if moving == sorted(moving):
        return x.seen_as(shape)
    return node.make("transpose", x, shape=shape, axes=order)


def _expand(node: Node) -> Value:
    return node.stretched(node.tensor(0), node.out.shape)


def _tile(node: Node) -> Value:
    """Every axis gets one before it, along which the copy stretches."""
    x = node.tensor(0)
    repeats = node.known(1, "repeats").tolist()
    once: Shape = tuple([each for size in x.shape for each in (1, size)])
    often: Shape = tuple([each for pair in zip(repeats, x.shape, strict=True) for each in pair])
    return node.stretched(x.seen_as(once), often).seen_as(node.out.shape)


def _depth_to_space(node: Node) -> Value:
    n, c, h, w = node.shape(0)
    size = int(node.attribute("blocksize"))
    if node.attribute("mode", "DCR") == "DCR":
        split, order = (n, size, size, c // size**2, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, order = (n, c // size**2, size, size, h, w), (0, 1, 4, 2, 5, 3)
    return _ordered(node, node.tensor(0).seen_as(split), order).seen_as(node.out.shape)


def _space_to_depth(node: Node) -> Value:
    n, c, h, w = node.shape(0)
    size = int(node.attribute("blocksize"))
    split = (n, c, h // size, size, w // size, size)
    order = (0, 3, 5, 1, 2, 4) if node.attribute("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return _ordered(node, node.tensor(0).seen_as(split), order).seen_as(node.out.shape)


OPERATORS: dict[str, Callable[[Node], Value]] = {
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _view("axis"),
    "Identity": _same,
    "Reshape": _view("allowzero"),
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _view("axes"),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _view("axes"),
}
