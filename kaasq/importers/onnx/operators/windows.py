"""The geometry of convolutions and poolings, brought to two dimensions; one dimension is an image of height 1."""

from __future__ import annotations

from typing import NamedTuple

from kaasq.importers.onnx.node import Node
from kaasq.importers.onnx.program import Shape, Tensor, Unsupported


class Geometry(NamedTuple):
    """Of a 2-D window: (y, x) each, pads as (top, left, bottom, right)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def attributes(self) -> dict[str, tuple[int, ...]]:
        """All but the kernel, as built-ins take it."""
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}


def geometry(node: Node, kernel: tuple[int, ...]) -> Geometry:
    """What the node's attributes say about windows of that size. Raises Unsupported above two dimensions."""
    rank = len(kernel)
    image = node.shape(0)[2:]
    if rank not in {1, 2} or len(image) != rank:
        raise Unsupported(f"{len(image)} dimensions beside batch and channels; 1 and 2 are supported")
    strides = tuple(node.attribute("strides", (1,) * rank))
    dilations = tuple(node.attribute("dilations", (1,) * rank))
    pads = _pads(node, image, kernel, strides, dilations)
    if rank == 1:
        return Geometry((1, *kernel), (1, *strides), (0, pads[0], 0, pads[1]), (1, *dilations))
    return Geometry(kernel, strides, pads, dilations)


def as_image(tensor: Tensor) -> Tensor:
    """(N, C, L) as (N, C, 1, L); what has two dimensions stays."""
    return tensor.seen_as(image_shape(tensor.shape))


def image_shape(shape: Shape) -> Shape:
    """The same of a shape."""
    return (*shape[:2], 1, shape[2]) if len(shape) == 3 else shape


def _pads(
    node: Node, image: Shape, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> tuple[int, ...]:
    given = tuple(node.attribute("pads", (0,) * (2 * len(kernel))))
    auto = node.attribute("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return given
    if auto == "VALID":
        return (0,) * (2 * len(kernel))
    if auto not in {"SAME_UPPER", "SAME_LOWER"}:
        raise Unsupported(f"auto_pad={auto!r}; known are NOTSET, VALID, SAME_UPPER and SAME_LOWER")
    before, after = [], []
    for size, window, stride, dilation in zip(image, kernel, strides, dilations, strict=True):
        windows = -(-size // stride)
        total = max((windows - 1) * stride + dilation * (window - 1) + 1 - size, 0)
        small, large = total // 2, total - total // 2
        before.append(large if auto == "SAME_LOWER" else small)
        after.append(small if auto == "SAME_LOWER" else large)
    return (*before, *after)
