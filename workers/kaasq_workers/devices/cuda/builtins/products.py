"""What the device needs of a library for matrix products. Siblings: ``cublaslt.py``, and ``cublas.py`` without it."""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

from kaasq.errors import WorkerFailed
from kaasq.extras import install
from kaasq.log import get_logger
from kaasq_workers.devices.cuda.builtins.steps import ProductStep

log = get_logger()

# What both libraries call element types (cudaDataType), and what they compute products of them in
# (cublasComputeType_t). 32F is float32 throughout: TF32 keeps three digits, too few for who declares float32.
DATA_TYPES = {"float16": 2, "float32": 0, "float64": 1}
COMPUTE_TYPES = {"float16": 68, "float32": 68, "float64": 70}
SCALE_TYPES = {"float16": 0, "float32": 0, "float64": 1}


class ProductFailed(Exception):
    """The library refused. Never leaves this package."""


class Product(Protocol):
    """A product made ready. Addresses are those of the three matrices; ``alpha`` and ``beta`` those of host scalars."""

    workspace_bytes: int
    """What of the workspace it uses."""

    def queue(self, a: int, b: int, c: int, alpha: int, beta: int, workspace: int, stream: Any) -> None:
        """Queue it on a CudaStream. Raises ProductFailed."""


class Products(Protocol):
    """A library, opened on the current device. Rows of ours are columns of theirs, so they get b and a for a and b."""

    name: str
    capturable: bool
    """Whether what it queues may go into a CUDA graph."""

    def prepare(self, step: ProductStep, workspace_bytes: int) -> Product:
        """Choose an algorithm. Raises ProductFailed if there is none."""

    def close(self) -> None:
        """Release the library's handle."""


def open_products() -> Products:
    """CuBLASLt through nvmath-python, else cuBLAS through CuPy. Raises WorkerFailed where there is neither."""
    reasons: list[str] = []
    try:
        from kaasq_workers.devices.cuda.builtins.cublaslt import CublasLt

        return CublasLt()
    except (ImportError, RuntimeError) as error:  # no nvmath-python, or no library for it to load
        reasons.append(f"cuBLASLt: {error}")
    try:
        from kaasq_workers.devices.cuda.builtins.cublas import Cublas

        found = Cublas()
    except (ImportError, RuntimeError) as error:
        reasons.append(f"cuBLAS: {error}")
        raise WorkerFailed(
            f"matrix products need cuBLAS: {install('cuda13', 'cuda12')} ({'; '.join(reasons)})"
        ) from error
    log.warning("builtins.no_cublaslt", reason=reasons[0], instead=found.name)
    return found


def scalar(dtype: str) -> ctypes.c_float | ctypes.c_double:
    """Host memory for an alpha or beta."""
    return ctypes.c_double() if SCALE_TYPES[dtype] else ctypes.c_float()
