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

# NumPy's float has 8 bytes, that of a kernel 4; likewise int. Better refused than taken for the wrong one.
_MISLEADING = frozenset({"float", "int", "uint"})

# NumPy reads far more than names (structures, shapes, even literals, with the errors that go with them).
_SPELLING = re.compile(r"[<>=|]?(?!a[0-9]*$)[A-Za-z?][a-z]*[0-9]{0,3}_?", re.ASCII)
_PACKINGS = dict(zip(SCALAR_DTYPES, map(struct.Struct, ("<?", *(f"<{each}" for each in "bhiqBHIQefd"))), strict=True))
_INTEGERS = {name: f" ({np.iinfo(name).min} to {np.iinfo(name).max})" for name in SCALAR_DTYPES if "int" in name}
_SHOWN_BITS = 128
_SIZES = {name: np.dtype(name).itemsize for name in BUFFER_DTYPES}


def itemsize(dtype: str) -> int:
    """Bytes per element. Raises KeyError for a name outside BUFFER_DTYPES."""
    return _SIZES[dtype]


@functools.lru_cache(maxsize=1024)  # bounded: spellings come from outside
def canonical(dtype: Any) -> str | None:
    """NumPy's own name for whatever spelling was given ("f4", "<f4", np.float32), or None if it is no such type."""
    if dtype is None or (isinstance(dtype, str) and (dtype in _MISLEADING or not _SPELLING.fullmatch(dtype))):
        return None
    try:
        parsed = np.dtype(dtype)
    except (TypeError, ValueError):
        return None
    return parsed.name if parsed.name in _SIZES and parsed.isnative else None


def pack_number(dtype: str, value: Number, at: str) -> bytes:
    """The value's bytes as the kernel's parameter of that type sees them. Raises BadRequest if it does not fit."""
    if dtype in _INTEGERS and isinstance(value, float):
        if not value.is_integer():
            raise BadRequest(f"{value!r} is no {dtype}", at=at)
        value = int(value)
    try:
        return _PACKINGS[dtype].pack(value)
    except (OverflowError, struct.error):  # the latter for an int that float16 or an integer type cannot hold
        raise BadRequest(f"{shown(value)} does not fit {dtype}{_INTEGERS.get(dtype, '')}", at=at) from None


def shown(value: Number) -> str:
    """The number for a message. Python refuses to write out whole numbers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return f"a number of {value.bit_length()} bits"
    return str(value)


def unpack_number(dtype: str, data: bytes) -> Number:
    """The number that those bytes hold."""
    number: Number = _PACKINGS[dtype].unpack(data)[0]
    return number
