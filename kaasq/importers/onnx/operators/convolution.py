"""Conv, and BatchNormalization, which disappears into the Conv before it where it can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.operators.windows import as_image, geometry, image_shape
from kaasq.importers.onnx.program import Array, Step, Tensor, Unsupported, checked


def _conv(node: Node) -> Value:
    x, w = node.tensor(0), node.tensor(1)
    if "kernel_shape" in node.attributes and tuple(node.attribute("kernel_shape")) != w.shape[2:]:
        raise Unsupported(f"kernel_shape is {node.attribute('kernel_shape')}, but the weights have shape {w.shape}")
    found = geometry(node, w.shape[2:])
    bias = (node.tensor(2),) if node.has(2) else ()
    made = node.program.temp(node.out.dtype, image_shape(node.out.shape), node.out.name)
    groups = int(node.attribute("group", 1))
    node.program.add_into("conv2d", made, as_image(x), as_image(w), *bias, **found.attributes, groups=groups)
    return made.seen_as(node.out.shape)


def _batch_normalization(node: Node) -> Value:
    if node.attribute("training_mode", 0):
        raise Unsupported("training_mode=1: statistics would come from the batch")
    node.ignore("momentum")  # of training
    if node.attribute("spatial", 1) != 1:  # opsets 7 and 8
        raise Unsupported("spatial=0: statistics per pixel")
    node.only_first_output()
    epsilon = float(node.attribute("epsilon", 1e-5))
    x = node.tensor(0)
    if 0 in node.lonely and _folded(node, x, epsilon):
        return x
    parameters = node.tensors()[1:]
    return node.make("batchnorm", x, *parameters, epsilon=epsilon)


def _folded(node: Node, x: Tensor, epsilon: float) -> bool:
    """Scale the weights of the convolution that gives x, if they are known: then x is normalised already."""
    program = node.program
    index = next((i for i, step in enumerate(program.steps) if x.storage in step.touched("writes")), None)
    if index is None or program.steps[index].builtin.name != "conv2d":
        return False
    step = program.steps[index]
    image, weights, out, *bias = [each for each in step.args if isinstance(each, Tensor)]
    w = program.array(weights)
    b = program.array(bias[0]) if bias else np.zeros(weights.shape[0], weights.dtype)
    parameters = [_known(node, position) for position in range(1, 5)]
    if w is None or b is None or any(each is None for each in parameters):
        return False
    scale, offset, mean, variance = [np.asarray(each, np.float64) for each in parameters]
    factor = scale / np.sqrt(variance + epsilon)
    new_w = (w * factor[:, None, None, None]).astype(w.dtype)
    new_b = ((b - mean) * factor + offset).astype(w.dtype)
    args = (
        image,
        program.weight(new_w, f"{weights.storage.name}.normalised"),
        out,
        program.weight(new_b, f"{node.out.name}.bias"),
    )
    program.steps[index] = checked(Step(step.builtin, args, step.attrs))
    return True


def _known(node: Node, index: int) -> Array | None:
    try:
        return node.known(index, "a statistic")
    except Unsupported:
        return None


OPERATORS: dict[str, Callable[[Node], Value]] = {"BatchNormalization": _batch_normalization, "Conv": _conv}
