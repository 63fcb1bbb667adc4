"""Matrix products: Gemm, and MatMul with NumPy's rules for batches and vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kaasq.importers.onnx.node import Node, Value


def _gemm(node: Node) -> Value:
    a, b = node.tensor(0), node.tensor(1)
    alpha, beta = float(node.attribute("alpha", 1.0)), float(node.attribute("beta", 1.0))
    transposed: dict[str, Any] = {
        "transpose_a": bool(node.attribute("transA", 0)),
        "transpose_b": bool(node.attribute("transB", 0)),
    }
    if not node.has(2) or beta == 0:
        return node.make("gemm", a, b, np.float64(alpha), **transposed)
    out = node.make("copy", node.tensor(2))
    node.program.add_into("gemm", out, a, b, np.float64(alpha), np.float64(beta), **transposed)
    return out


def _matmul(node: Node) -> Value:
    a, b = node.tensor(0), node.tensor(1)
    a = a.seen_as((1, *a.shape)) if len(a.shape) == 1 else a
    b = b.seen_as((*b.shape, 1)) if len(b.shape) == 1 else b
    rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    batches = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if math.prod(b.shape[:-2]) == 1:  # one right side for all: their rows make one large product
        flat, right = a.seen_as((math.prod(batches) * rows, inner)), b.seen_as((inner, columns))
        made = node.make("gemm", flat, right, shape=(math.prod(batches) * rows, columns))
    else:
        one = math.prod(a.shape[:-2]) == 1
        left = a.seen_as((rows, inner)) if one else node.stretched(a, (*batches, rows, inner))
        right = node.stretched(b, (*batches, inner, columns))
        made = node.make("gemm", left, right, shape=(*batches, rows, columns))
    return made.seen_as(node.out.shape)


OPERATORS: dict[str, Callable[[Node], Value]] = {"Gemm": _gemm, "MatMul": _matmul}
