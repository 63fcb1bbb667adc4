"""Matrix products with cuBLAS, through CuPy: where nvmath-python is not installed.

CuPy refuses to call cuBLAS while a stream is captured, so these products cannot go into a CUDA graph.
"""

from __future__ import annotations

from typing import Any

from cupy.cuda import cublas

from kaasq_workers.devices.cuda.builtins.products import COMPUTE_TYPES, DATA_TYPES, ProductFailed
from kaasq_workers.devices.cuda.builtins.steps import ProductStep

_DEFAULT_ALGORITHM = -1
_MOST = 2**31 - 1


class Cublas:
    """The library's handle."""

    capturable = False

    def __init__(self) -> None:
        try:
            self._handle: int = cublas.create()
        except cublas.CUBLASError as error:
            raise ProductFailed(str(error)) from error
        version = cublas.getVersion(self._handle)
        self.name = f"cuBLAS {version // 10000}.{version // 100 % 100} through CuPy"

    def prepare(self, step: ProductStep, workspace_bytes: int) -> CublasProduct:  # noqa: ARG002 - it has its own
        """Nothing is chosen beforehand."""
        sizes = (step.m, step.n, step.k, step.batch, *(each.row_step for each in (step.a, step.b, step.c)))
        if max(sizes) > _MOST:
            raise ProductFailed(f"a side or batch of {max(sizes)} is more than cuBLAS takes, which is {_MOST}")
        return CublasProduct(self._handle, step)

    def close(self) -> None:
        """Destroy the handle. Idempotent."""
        handle, self._handle = self._handle, 0
        if handle:
            cublas.destroy(handle)


class CublasProduct:
    """A call's constant arguments."""

    workspace_bytes = 0

    def __init__(self, handle: int, step: ProductStep) -> None:
        self._sizes = (handle, int(step.b.transposed), int(step.a.transposed), step.n, step.m, step.k)
        kind = DATA_TYPES[step.dtype]
        self._a, self._b, self._c = ((kind, each.row_step, each.batch_step) for each in (step.a, step.b, step.c))
        self._how = (step.batch, COMPUTE_TYPES[step.dtype], _DEFAULT_ALGORITHM)

    def queue(self, a: int, b: int, c: int, alpha: int, beta: int, workspace: int, stream: Any) -> None:  # noqa: ARG002
        """Queue it."""
        try:
            with stream.cupy:
                cublas.gemmStridedBatchedEx(
                    *self._sizes, alpha, b, *self._b, a, *self._a, beta, c, *self._c, *self._how
                )
        except (cublas.CUBLASError, NotImplementedError) as error:
            raise ProductFailed(str(error)) from error
