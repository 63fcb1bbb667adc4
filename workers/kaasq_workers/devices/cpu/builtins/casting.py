"""Casts as ``cast`` defines them: saturating, NaN as 0 in integers; for arrays and for single numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kaasq.model import Number
from kaasq_workers.devices.cpu.builtins.blocks import Array


def number_as(value: Number, dtype: np.dtype[Any]) -> Any:
    """The number as a NumPy scalar of that dtype."""
    if dtype.kind not in "iu":
        return dtype.type(value)
    if isinstance(value, float):
        value = _whole(value)
    limits = np.iinfo(dtype)
    return dtype.type(min(max(value, int(limits.min)), int(limits.max)))


def cast_into(out: Array, x: Array) -> None:
    """``out = x``, of equal shapes."""
    if out.dtype.kind == "b":
        np.not_equal(x, x.dtype.type(0), out=out)
    elif out.dtype.kind in "iu" and x.dtype.kind == "f":
        # NumPy compares float16 by way of float32 each time.
        _whole_numbers(out, x.astype(np.float32) if x.dtype == np.float16 else x)
    elif out.dtype.kind in "iu" and x.dtype.kind in "iu" and not np.can_cast(x.dtype, out.dtype):
        given, wanted = np.iinfo(x.dtype), np.iinfo(out.dtype)
        low, high = max(given.min, wanted.min), min(given.max, wanted.max)
        np.copyto(out, np.clip(x, x.dtype.type(low), x.dtype.type(high)), casting="unsafe")
    else:
        np.copyto(out, x, casting="unsafe")


def _whole_numbers(out: Array, x: Array) -> None:
    limits = np.iinfo(out.dtype)
    np.copyto(out, x, casting="unsafe")  # undefined outside of the range, which is mended below
    # Powers of two, so exact in x's dtype.
    np.copyto(out, out.dtype.type(limits.max), where=x >= x.dtype.type(float(limits.max + 1)))
    np.copyto(out, out.dtype.type(limits.min), where=x <= x.dtype.type(float(limits.min)))
    np.copyto(out, out.dtype.type(0), where=np.isnan(x))


def _whole(value: float) -> int:
    if math.isnan(value):
        return 0
    return int(min(max(value, -(2.0**64)), 2.0**64))  # every integer dtype lies within
