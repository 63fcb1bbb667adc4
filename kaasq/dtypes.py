"""The element types of buffers and scalars: NumPy's names, restricted to what a kernel can mean, and their bytes."""

from __future__ import annotations

import functools
import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from kaasq.errors import BadRequest

if TYPE_CHECKING:
    from kaasq.model import Number

SCALAR_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
BUFFER_DTYPES = (*SCALAR_DTYPES, "complex64", "complex128")

# NumPy reads far more than names (structures, shapes, even literals, with the errors that go with them).
_SPELLING = re.compile(r"[<>=|]?(?!a[0-9]*$)[A-Za-z?][a-z]*[0-9]{0,3}_?", re.ASCII)
_SIZES = {name: np.dtype(name).itemsize for name in BUFFER_DTYPES}


def itemsize(dtype: str) -> int:
    """Bytes per element. Raises KeyError for a name outside BUFFER_DTYPES."""
    return _SIZES[dtype]


@functools.lru_cache(maxsize=1024)  # bounded: spellings come from outside
def canonical(dtype: Any) -> str | None:
    """NumPy's own name for whatever spelling was given ("f4", "<f4", np.float32), or None if it is no such type."""
    if dtype is None or (isinstance(dtype, str) and not _SPELLING.fullmatch(dtype)):
        return None
    try:
        parsed = np.dtype(dtype)
    except (TypeError, ValueError):
        return None
    return parsed.name if parsed.name in _SIZES and parsed.isnative else None


def pack_number(dtype: str, value: Number, at: str) -> bytes:
    """The value's bytes as the kernel's parameter of that type sees them. Raises BadRequest if it does not fit."""
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        if isinstance(value, float) and not value.is_integer():
            raise BadRequest(f"{value!r} is no {dtype}", at=at)
        if not bounds.min <= value <= bounds.max:
            raise BadRequest(f"{value} does not fit {dtype} ({bounds.min} to {bounds.max})", at=at)
        return int(value).to_bytes(kind.itemsize, "little", signed=kind.kind == "i")
    if kind.kind == "b":
        return b"\1" if value else b"\0"
    try:
        return struct.pack({2: "<e", 4: "<f", 8: "<d"}[kind.itemsize], value)
    except (OverflowError, struct.error):  # the latter for an int and float16
        raise BadRequest(f"{value} does not fit {dtype}", at=at) from None
