"""Three ONNX models trained on scikit-learn's handwritten digits, without a training framework. Deterministic.

The MLP is trained whole. The other two have random features, whose batch statistics come from the training set, and a
trained last layer: the weights are real enough for the numbers to mean something, and it takes seconds.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from tests.support.onnx_models import model_of

OPSET = 17


class Digits(NamedTuple):
    """Images as (N, 64) float32 from 0 to 1, and which digit each shows."""

    train: np.ndarray
    train_labels: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray


class Trained(NamedTuple):
    """A model with input ``x`` of an open batch, output ``logits``, and the held-out images as it takes them."""

    model: ModelProto
    held_out: np.ndarray

    def accuracy(self, logits: np.ndarray) -> float:
        """Share of the held-out images told right."""
        return float((logits.argmax(axis=1) == digits().labels).mean())


@functools.cache
def digits() -> Digits:
    """The data set, a quarter of it held out."""
    images, labels = load_digits(return_X_y=True)
    train, held_out, train_labels, held_labels = train_test_split(
        (images / 16).astype(np.float32), labels, test_size=0.25, random_state=0, stratify=labels
    )
    return Digits(train, train_labels, held_out, held_labels)


class Network:
    """A model that grows node by node, with what each node makes of the training set."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape = shape
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: dict[str, np.ndarray] = {"x": digits().train.reshape(-1, *shape)}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; the name of its output."""
        name = f"{op.lower()}_{len(self.nodes)}"
        node = helper.make_node(op, inputs, [name], name=f"/{name}", **attributes)
        self.nodes.append(node)
        known = {**self.constants, **self.values}
        model = model_of([node], {each: known[each] for each in inputs}, [name], opset=OPSET)
        (self.values[name],) = ReferenceEvaluator(model).run(None, {each: known[each] for each in inputs})
        return name

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """A weight."""
        name = f"w{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def weights(self, *shape: int) -> str:
        """Random weights that keep the variance of what goes through them (He et al. 2015)."""
        inputs = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return self.constant(self.random.normal(0, np.sqrt(2 / inputs), shape))

    def finish(self, features: str) -> Trained:
        """Train the last layer on these features."""
        data = digits()
        head = LogisticRegression(max_iter=2000, C=0.3).fit(self.values[features], data.train_labels)
        self.nodes.append(
            helper.make_node(
                "Gemm",
                [features, self.constant(head.coef_), self.constant(head.intercept_)],
                ["logits"],
                name="/head",
                transB=1,
            )
        )
        model = model_of(self.nodes, {"x": (np.float32, ("N", *self.shape))}, ["logits"], self.constants, opset=OPSET)
        return Trained(model, data.held_out.reshape(-1, *self.shape))


@functools.cache
def mlp() -> Trained:
    """64 - 64 - 32 - 10, trained by scikit-learn."""
    data = digits()
    fitted = MLPClassifier((64, 32), max_iter=300, random_state=0).fit(data.train, data.train_labels)
    constants: dict[str, np.ndarray] = {}
    nodes, last = [], "x"
    for index, (weights, bias) in enumerate(zip(fitted.coefs_, fitted.intercepts_)):
        final = index == len(fitted.coefs_) - 1
        constants |= {f"w{index}": weights.astype(np.float32), f"b{index}": bias.astype(np.float32)}
        made = "logits" if final else f"h{index}"
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [made]))
        if not final:
            nodes.append(helper.make_node("Relu", [made], [f"r{index}"]))
            last = f"r{index}"
    model = model_of(nodes, {"x": (np.float32, ("N", 64))}, ["logits"], constants, opset=OPSET)
    return Trained(model, data.held_out)


@functools.cache
def convnet() -> Trained:
    """A small ResNet: a stem, two residual blocks, the second at half the resolution."""
    net = Network((1, 8, 8), seed=1)

    def normal_conv(x: str, filters: int, size: int = 3, stride: int = 1) -> str:
        depth = net.values[x].shape[1]
        pads = [size // 2] * 4
        made = net.add("Conv", x, net.weights(filters, depth, size, size), pads=pads, strides=[stride, stride])
        seen = net.values[made]
        statistics = [np.ones(filters), np.zeros(filters), seen.mean((0, 2, 3)), seen.var((0, 2, 3))]
        return net.add("BatchNormalization", made, *[net.constant(each) for each in statistics])

    def block(x: str, filters: int, stride: int) -> str:
        straight = normal_conv(net.add("Relu", normal_conv(x, filters, 3, stride)), filters)
        short = x if stride == 1 else normal_conv(x, filters, 1, stride)
        return net.add("Relu", net.add("Add", straight, short))

    stem = net.add("Relu", normal_conv("x", 16))
    deep = block(block(stem, 16, 1), 32, 2)
    pooled = net.add("AveragePool", deep, kernel_shape=[2, 2], strides=[2, 2])
    return net.finish(net.add("Flatten", pooled))


@functools.cache
def transformer() -> Trained:
    """Two encoder layers with four heads over the eight rows of an image; shapes computed as exporters do it."""
    net = Network((8, 8), seed=2)
    width, heads = 32, 4
    batch = net.add("Gather", net.add("Shape", "x"), net.constant(0, np.int64), axis=0)
    batch = net.add("Unsqueeze", batch, net.constant([0], np.int64))

    def reshaped(x: str, *rest: int) -> str:
        return net.add("Reshape", x, net.add("Concat", batch, net.constant(rest, np.int64), axis=0))

    def normal(x: str) -> str:
        return net.add("LayerNormalization", x, net.constant(np.ones(width)), net.constant(np.zeros(width)))

    def linear(x: str, inputs: int, outputs: int) -> str:
        made = net.add("MatMul", x, net.weights(inputs, outputs))
        return net.add("Add", made, net.constant(net.random.normal(0, 0.1, outputs)))

    def attention(x: str) -> str:
        def split(x: str, *order: int) -> str:
            return net.add("Transpose", reshaped(linear(x, width, width), 8, heads, width // heads), perm=order)

        query, key, value = split(x, 0, 2, 1, 3), split(x, 0, 2, 3, 1), split(x, 0, 2, 1, 3)
        scores = net.add("Div", net.add("MatMul", query, key), net.constant(np.sqrt(width / heads)))
        mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), value)
        return linear(reshaped(net.add("Transpose", mixed, perm=[0, 2, 1, 3]), 8, width), width, width)

    def gelu(x: str) -> str:
        """As exporters write it before opset 20."""
        gate = net.add("Erf", net.add("Div", x, net.constant(np.sqrt(2))))
        return net.add("Mul", net.add("Mul", x, net.add("Add", gate, net.constant(1))), net.constant(0.5))

    x = net.add("Add", linear("x", 8, width), net.constant(net.random.normal(0, 0.5, (8, width))))
    for _ in range(2):
        x = net.add("Add", x, attention(normal(x)))
        x = net.add("Add", x, linear(gelu(linear(normal(x), width, 2 * width)), 2 * width, width))
    return net.finish(reshaped(normal(x), 8 * width))


TRAINED = {"mlp": mlp, "convnet": convnet, "transformer": transformer}


if __name__ == "__main__":
    FOLDER = Path(__file__).parents[1] / "data" / "digits"
    for name, train in TRAINED.items():
        FOLDER.joinpath(f"{name}.onnx").write_bytes(train().model.SerializeToString(deterministic=True))
    pixels = np.round(digits().held_out * 16).astype(np.uint8)
    np.savez_compressed(FOLDER / "held_out.npz", pixels=pixels, labels=digits().labels.astype(np.uint8))
