"""Element types: what kernels call them, and numbers of the host as their bytes. Pure."""

from __future__ import annotations

import math
import struct

import numpy as np

from kaasq.dtypes import itemsize
from kaasq.model import Number

NAMES = {
    "bool": "Flag",
    "int8": "signed char",
    "int16": "short",
    "int32": "int",
    "int64": "long long",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned",
    "uint64": "unsigned long long",
    "float16": "__half",
    "float32": "float",
    "float64": "double",
}
_RAW = {1: "unsigned char", 2: "unsigned short", 4: "unsigned", 8: "unsigned long long", 16: "Bytes16"}

_WIDE = {
    "bool": "bool",
    "int8": "int32",
    "int16": "int32",
    "uint8": "uint32",
    "uint16": "uint32",
    "float16": "float32",
}
_PACKINGS = dict(zip(NAMES, map(struct.Struct, ("<?", *(f"<{each}" for each in "bhiqBHIQefd"))), strict=True))
_RANGES = {each: (int(np.iinfo(each).min), int(np.iinfo(each).max)) for each in NAMES if "int" in each}


def raw(nbytes: int) -> str:
    """The type that moves so many bytes at once."""
    return _RAW[nbytes]


def raw_of(dtype: str) -> str:
    """The type that moves an element without looking at it."""
    return _RAW[itemsize(dtype)]


def wide(dtype: str) -> str:
    """What elements of that type are computed in."""
    return _WIDE.get(dtype, dtype)


def pack(dtype: str, value: Number) -> bytes:
    """The number's bytes in that type, by the rules of ``cast``: integers saturate and a NaN becomes 0."""
    if dtype not in _RANGES and dtype != "bool":
        try:
            return _PACKINGS[dtype].pack(value)  # rounds by itself, but not to infinity
        except OverflowError:
            pass
    return _PACKINGS[dtype].pack(rounded(dtype, value))


def rounded(dtype: str, value: Number) -> Number:
    """The nearest number that the type has; of integers the next one towards 0."""
    if dtype == "bool":
        return value != 0
    if dtype in _RANGES:
        least, most = _RANGES[dtype]
        if isinstance(value, float):
            if not math.isfinite(value):
                return 0 if value != value else (most if value > 0 else least)  # noqa: PLR0124 - a NaN
            value = int(value)
        return min(max(value, least), most)
    try:
        return float(_PACKINGS[dtype].unpack(_PACKINGS[dtype].pack(value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
