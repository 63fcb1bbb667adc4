"""Matrix products by NumPy's BLAS, which uses all cores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins.blocks import Array, blocks

TILE = 1024  # side of the tiles through which a product goes that BLAS cannot write straight into c


def gemm(call: Call, given: dict[str, Any]) -> None:
    """``c = alpha a b + beta c``."""
    a, b, c = given["a"], given["b"], given["c"]
    alpha, beta = float(given["alpha"]), float(given["beta"])
    if call.attrs["transpose_b"]:
        b = b.swapaxes(-1, -2)
    if call.attrs["transpose_a"]:
        a = a.swapaxes(-1, -2)
    elif b.ndim == 2:  # one product instead of one per batch
        a, c = a.reshape(-1, a.shape[-1]), c.reshape(-1, c.shape[-1])
    if alpha == 0:
        _scale(c, beta)
    elif beta == 0 and c.dtype != np.float16:
        np.matmul(a, b, out=c)
        if alpha != 1:
            np.multiply(c, alpha, out=c)
    else:
        for matrix in np.ndindex(c.shape[:-2]):
            _tiled(a[matrix] if a.ndim > 2 else a, b[matrix] if b.ndim > 2 else b, c[matrix], alpha, beta)


def _tiled(a: Array, b: Array, c: Array, alpha: float, beta: float) -> None:
    """One product, in tiles of c."""
    for (rows,), (columns,) in itertools.product(blocks(c.shape[:1], TILE), blocks(c.shape[1:], TILE)):
        into = c[rows, columns]
        product = _product(a[rows], b[:, columns])
        if alpha != 1:
            np.multiply(product, alpha, out=product)
        if beta != 0:
            np.add(product, np.multiply(into, beta, dtype=product.dtype), out=product)
        np.copyto(into, product, casting="same_kind")


def _product(a: Array, b: Array) -> Array:
    """The product; of float16 in float32, into which it is converted a tile at a time."""
    if a.dtype != np.float16:
        return np.asarray(a @ b)
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for (along,) in blocks(a.shape[1:], TILE):
        total += a[:, along].astype(np.float32) @ b[along].astype(np.float32)
    return total


def _scale(c: Array, factor: float) -> None:
    if factor == 0:
        c.fill(0)
    else:
        np.multiply(c, factor, out=c)
