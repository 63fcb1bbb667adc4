"""Matrix products by NumPy's BLAS, which uses all cores."""

from __future__ import annotations

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
    """One product, through tiles in the dtype that accumulates."""
    wide = np.float32 if c.dtype == np.float16 else c.dtype
    depth = a.shape[1]
    for rows, columns in (
        (rows, columns) for (rows,) in blocks(c.shape[:1], TILE) for (columns,) in blocks(c.shape[1:], TILE)
    ):
        total = None
        for (along,) in blocks((depth,), TILE if wide != c.dtype else depth):
            product = np.matmul(a[rows, along].astype(wide, copy=False), b[along, columns].astype(wide, copy=False))
            total = product if total is None else np.add(total, product, out=total)
        if alpha != 1:
            np.multiply(total, alpha, out=total)
        into = c[rows, columns]
        if beta != 0:
            np.add(total, np.multiply(into, beta, dtype=wide), out=total)
        np.copyto(into, total, casting="same_kind")


def _scale(c: Array, factor: float) -> None:
    if factor == 0:
        c.fill(0)
    else:
        np.multiply(c, factor, out=c)
