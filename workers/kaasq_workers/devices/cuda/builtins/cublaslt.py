"""Matrix products with cuBLASLt, through nvmath-python's bindings. The only module that imports nvmath.

Everything is chosen when a plan is made; a call only passes pointers, so it may be captured into a CUDA graph.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nvmath.bindings import cublasLt

from kaasq.dtypes import itemsize
from kaasq_workers.devices.cuda.builtins.products import COMPUTE_TYPES, DATA_TYPES, SCALE_TYPES, ProductFailed
from kaasq_workers.devices.cuda.builtins.steps import Matrix, ProductStep

# Of a product split along k, parts are added as computed: in the type of the output float16 would lose digits, and
# adding in place would make the order, and so the last digits, a matter of chance.
_REDUCE_AS_COMPUTED = 2
_ALIGNMENT_BYTES = 256  # of all memory that devices hand out, and the most that the library asks about


class CublasLt:
    """The library's handle."""

    capturable = True

    def __init__(self) -> None:
        with _errors():
            version = cublasLt.get_version()
            self._handle = cublasLt.create()
        # Versions are major * 10000 + minor * 100 + patch from 12 on.
        self.name = f"cuBLASLt {version // 10000}.{version // 100 % 100}"

    def prepare(self, step: ProductStep, workspace_bytes: int) -> LtProduct:
        """Have the library's heuristic choose an algorithm."""
        with _errors():
            return LtProduct(self._handle, step, workspace_bytes)

    def close(self) -> None:
        """Destroy the handle. Idempotent."""
        handle, self._handle = self._handle, 0
        if handle:
            with _errors():
                cublasLt.destroy(handle)


class LtProduct:
    """Descriptors and an algorithm."""

    def __init__(self, handle: int, step: ProductStep, workspace_bytes: int) -> None:
        self._handle = handle
        made: list[tuple[Any, int]] = []
        weakref.finalize(self, _destroy, made)

        def keep(destroy: Any, made_now: int) -> int:
            made.append((destroy, made_now))
            return made_now

        self._product = keep(
            cublasLt.matmul_desc_destroy,
            cublasLt.matmul_desc_create(COMPUTE_TYPES[step.dtype], SCALE_TYPES[step.dtype]),
        )
        attributes = cublasLt.MatmulDescAttribute
        for attribute, transposed in ((attributes.TRANSA, step.b.transposed), (attributes.TRANSB, step.a.transposed)):
            _set(cublasLt.matmul_desc_set_attribute, self._product, attribute, ctypes.c_int32(transposed))
        sides = ((step.b, step.k, step.n), (step.a, step.m, step.k), (step.c, step.m, step.n))
        self._b, self._a, self._c = (
            keep(cublasLt.matrix_layout_destroy, _layout(step, matrix, rows, columns))
            for matrix, rows, columns in sides
        )
        preference = cublasLt.matmul_preference_create()
        try:
            wants = cublasLt.MatmulPreferenceAttribute
            _set(
                cublasLt.matmul_preference_set_attribute,
                preference,
                wants.MAX_WORKSPACE_BYTES,
                ctypes.c_uint64(workspace_bytes),
            )
            _set(
                cublasLt.matmul_preference_set_attribute,
                preference,
                wants.REDUCTION_SCHEME_MASK,
                ctypes.c_uint32(_REDUCE_AS_COMPUTED),
            )
            for want, matrix in (
                (wants.MIN_ALIGNMENT_A_BYTES, step.b),
                (wants.MIN_ALIGNMENT_B_BYTES, step.a),
                (wants.MIN_ALIGNMENT_C_BYTES, step.c),
                (wants.MIN_ALIGNMENT_D_BYTES, step.c),
            ):
                value = ctypes.c_uint32(_alignment(matrix, step.dtype))
                _set(cublasLt.matmul_preference_set_attribute, preference, want, value)
            self._found = cublasLt.MatmulHeuristicResult(1)
            count = ctypes.c_int32()
            cublasLt.matmul_algo_get_heuristic(
                handle, self._product, self._b, self._a, self._c, self._c, preference, 1,
                self._found.ptr, ctypes.addressof(count),
            )  # fmt: skip
        finally:
            cublasLt.matmul_preference_destroy(preference)
        if not count.value or int(self._found.state):
            raise ProductFailed(f"no algorithm for {step}")
        self._algorithm = int(self._found.ptr)  # of the result, which begins with it
        self.workspace_bytes = int(self._found.workspace_size)

    def queue(self, a: int, b: int, c: int, alpha: int, beta: int, workspace: int, stream: Any) -> None:
        """Queue it."""
        try:  # by hand: this runs for every request
            cublasLt.matmul(
                self._handle, self._product, alpha, b, self._b, a, self._a, beta, c, self._c, c, self._c,
                self._algorithm, workspace, self.workspace_bytes, stream.pointer,
            )  # fmt: skip
        except cublasLt.cuBLASLtError as error:
            raise ProductFailed(str(error)) from error


def _layout(step: ProductStep, matrix: Matrix, rows: int, columns: int) -> int:
    """As stored: our rows are the library's columns."""
    if matrix.transposed:
        rows, columns = columns, rows
    layout: int = cublasLt.matrix_layout_create(DATA_TYPES[step.dtype], columns, rows, matrix.row_step)
    attributes = cublasLt.MatrixLayoutAttribute
    _set(cublasLt.matrix_layout_set_attribute, layout, attributes.BATCH_COUNT, ctypes.c_int32(step.batch))
    _set(
        cublasLt.matrix_layout_set_attribute, layout, attributes.STRIDED_BATCH_OFFSET, ctypes.c_int64(matrix.batch_step)
    )
    return layout


def _alignment(matrix: Matrix, dtype: str) -> int:
    """What every matrix of the batch is aligned to, in bytes."""
    return math.gcd(_ALIGNMENT_BYTES, matrix.at.offset, matrix.batch_step * itemsize(dtype))


def _set(setter: Any, of: int, attribute: int, value: Any) -> None:
    setter(of, int(attribute), ctypes.addressof(value), ctypes.sizeof(value))


def _destroy(made: list[tuple[Any, int]]) -> None:
    while made:
        destroy, what = made.pop()
        destroy(what)


@contextmanager
def _errors() -> Iterator[None]:
    """The library's errors as ProductFailed."""
    try:
        yield
    except cublasLt.cuBLASLtError as error:
        raise ProductFailed(str(error)) from error
