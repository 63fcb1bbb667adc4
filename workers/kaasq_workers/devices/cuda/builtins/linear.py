"""The steps of gemm. Pure."""

from __future__ import annotations

import math

from kaasq.builtins import Call
from kaasq_workers.devices.cuda.builtins.elements import wide
from kaasq_workers.devices.cuda.builtins.steps import Bounds, Figure, Matrix, Pointer, ProductStep, Steps


def gemm(call: Call, _: Bounds) -> Steps:
    """One product, batched if need be."""
    transposes = {"a": call.attrs["transpose_a"], "b": call.attrs["transpose_b"], "c": False}
    matrices = {name: _matrix(call, name, transposed) for name, transposed in transposes.items()}
    a, b, c = (matrices[name] for name in ("a", "b", "c"))
    *batches, m, n = call.shape("c")
    k = call.shape("a")[-2 if a.transposed else -1]
    batch = math.prod(batches)
    if batch > 1 and not b.batch_step and not a.transposed:
        # One b for all: their rows, which lie one after the other, are the rows of one larger product.
        m, batch = m * batch, 1
        a, c = a._replace(batch_step=0), c._replace(batch_step=0)
    factor = wide(call.dtype("c"))
    alpha, beta = Figure("alpha", factor), Figure("beta", factor)
    return (ProductStep(call.dtype("c"), m, n, k, batch, a, b, c, alpha, beta),)


def _matrix(call: Call, name: str, transposed: bool) -> Matrix:
    *batches, rows, columns = call.shape(name)
    return Matrix(Pointer(name), columns, rows * columns if math.prod(batches) > 1 else 0, transposed)
