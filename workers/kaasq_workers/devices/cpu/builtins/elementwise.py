"""Element by element: operators, comparisons, where, clip, axpy, cast. Formulas work on one block at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins.blocks import Array, blocks, per_block, per_pass, spread
from kaasq_workers.devices.cpu.builtins.casting import cast_into, number_as

Formula = Callable[..., None]
"""``formula(out, *inputs)`` on blocks that stretch to out's shape; it writes out last, or inputs are no longer read."""


def apply(formula: Formula, out: Array, *inputs: Array, once: bool = False) -> None:
    """Run the formula over the whole of ``out``, with the inputs stretched to it. ``once``: it is a single step."""
    limit = (per_pass if once else per_block)(out.itemsize)
    if out.size <= limit:
        formula(out, *inputs)
        return
    if all(each.shape == out.shape and each.flags.c_contiguous for each in inputs):
        flat, *seen = (each.reshape(-1) for each in (out, *inputs))
    else:
        flat, seen = out, [np.broadcast_to(each, out.shape) for each in inputs]
    spread(blocks(flat.shape, limit), lambda block: formula(flat[block], *[each[block] for each in seen]), out.nbytes)


def in_float32(formula: Formula) -> Formula:
    """The formula, computed in float32 where the output is float16: several roundings would add up."""

    @functools.wraps(formula)
    def widened(out: Array, *inputs: Array) -> None:
        if out.dtype != np.float16:
            formula(out, *inputs)
            return
        wide = np.empty(out.shape, np.float32)
        formula(wide, *[each.astype(np.float32, copy=False) for each in inputs])
        np.copyto(out, wide, casting="same_kind")

    return widened


def operator(ufunc: np.ufunc) -> Callable[[Call, dict[str, Any]], None]:
    """``out = ufunc(a, b)``."""

    def run(_: Call, given: dict[str, Any]) -> None:
        apply(lambda out, a, b: ufunc(a, b, out=out), given["out"], given["a"], given["b"], once=True)

    return run


def div(_: Call, given: dict[str, Any]) -> None:
    """``out = a / b``, of integers towards zero."""
    formula = {"f": _divide, "u": _divide_unsigned, "i": _divide_signed}[given["out"].dtype.kind]
    apply(formula, given["out"], given["a"], given["b"])


def where(_: Call, given: dict[str, Any]) -> None:
    """``out = a where condition, else b``."""
    apply(_where, given["out"], given["condition"], given["a"], given["b"])


def clip(_: Call, given: dict[str, Any]) -> None:
    """``out = x`` between two numbers."""
    low, high = (number_as(given[name], given["x"].dtype) for name in ("low", "high"))
    apply(lambda out, x: np.clip(x, low, high, out=out), given["out"], given["x"], once=True)


def axpy(_: Call, given: dict[str, Any]) -> None:
    """``y += alpha x``."""
    alpha = float(given["alpha"])
    formula = in_float32(lambda out, x, y: np.add(np.multiply(x, alpha), y, out=out))
    apply(formula, given["y"], given["x"], given["y"])


def cast(_: Call, given: dict[str, Any]) -> None:
    """``out = x`` in out's dtype."""
    apply(cast_into, given["out"], given["x"])


def _divide(out: Array, a: Array, b: Array) -> None:
    np.divide(a, b, out=out)


def _divide_unsigned(out: Array, a: Array, b: Array) -> None:
    np.floor_divide(a, b, out=out)  # 0 for a divisor of 0


def _divide_signed(out: Array, a: Array, b: Array) -> None:
    np.floor_divide(a, b, out=out)
    # Where the quotient was rounded down below zero. The least number by -1 wraps around to itself, exactly.
    below = (out < 0) & (out * b != a)
    np.add(out, below, out=out)


def _where(out: Array, condition: Array, a: Array, b: Array) -> None:
    np.copyto(out, b)
    np.copyto(out, a, where=condition)
