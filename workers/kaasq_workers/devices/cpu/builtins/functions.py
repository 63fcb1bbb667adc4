"""Functions of one argument and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins.blocks import Array
from kaasq_workers.devices.cpu.builtins.elementwise import Formula, apply, in_float32
from kaasq_workers.devices.cpu.builtins.error_function import erf

_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_BY_PI = math.sqrt(2 / math.pi)


def function(ufunc: np.ufunc) -> Callable[[Call, dict[str, Any]], None]:
    """``out = ufunc(x)``. NumPy computes float16 in float32."""

    def run(_: Call, given: dict[str, Any]) -> None:
        apply(lambda out, x: ufunc(x, out=out), given["out"], given["x"], once=True)

    return run


def formula(of: Formula) -> Callable[[Call, dict[str, Any]], None]:
    """``of(out, x)``."""

    def run(_: Call, given: dict[str, Any]) -> None:
        apply(of, given["out"], given["x"])

    return run


def gelu(call: Call, given: dict[str, Any]) -> None:
    """``out = x Phi(x)``."""
    apply(in_float32(_gelu_tanh if call.attrs["tanh"] else _gelu), given["out"], given["x"])


def leaky_relu(call: Call, given: dict[str, Any]) -> None:
    """``out = x``, times alpha where negative."""
    alpha = call.attrs["alpha"]

    def of(out: Array, x: Array) -> None:
        np.multiply(x, alpha, out=out)
        np.copyto(out, x, where=x >= 0)

    apply(in_float32(of), given["out"], given["x"])


def elu(call: Call, given: dict[str, Any]) -> None:
    """``out = x``, or alpha (exp(x) - 1) where negative."""
    alpha = call.attrs["alpha"]

    def of(out: Array, x: Array) -> None:
        np.expm1(x, out=out)
        np.multiply(out, alpha, out=out)
        np.copyto(out, x, where=x >= 0)

    apply(in_float32(of), given["out"], given["x"])


def relu(_: Call, given: dict[str, Any]) -> None:
    """``out = max(x, 0)``."""
    zero = given["x"].dtype.type(0)
    apply(lambda out, x: np.maximum(x, zero, out=out), given["out"], given["x"], once=True)


@in_float32
def rsqrt(out: Array, x: Array) -> None:
    """``out = 1 / sqrt(x)``."""
    np.sqrt(x, out=out)
    np.reciprocal(out, out=out)


@in_float32
def sigmoid(out: Array, x: Array) -> None:
    """``out = 1 / (1 + exp(-x))``. Where exp overflows, the quotient is the 0 that it should be."""
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    np.reciprocal(out, out=out)


@in_float32
def silu(out: Array, x: Array) -> None:
    """``out = x sigmoid(x)``."""
    sigmoid(out, x)
    np.multiply(out, x, out=out)


@in_float32
def softplus(out: Array, x: Array) -> None:
    """``out = log(1 + exp(x))``, as max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    np.abs(x, out=out)
    np.negative(out, out=out)
    np.exp(out, out=out)
    np.log1p(out, out=out)
    np.add(out, np.maximum(x, 0), out=out)


@in_float32
def erf_of(out: Array, x: Array) -> None:
    """``out = erf(x)``."""
    erf(x, out)


def _gelu(out: Array, x: Array) -> None:
    erf(np.multiply(x, _SQRT_HALF), out)
    np.add(out, 1, out=out)
    np.multiply(out, 0.5, out=out)
    np.multiply(out, x, out=out)


def _gelu_tanh(out: Array, x: Array) -> None:
    np.multiply(x, x, out=out)
    np.multiply(out, 0.044715, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    np.multiply(out, _SQRT_2_BY_PI, out=out)
    np.tanh(out, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, 0.5, out=out)
    np.multiply(out, x, out=out)
