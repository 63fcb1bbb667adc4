"""Softmax and normalisations, in blocks of whole lanes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins.blocks import Array, Block, blocks, lane_blocks, lanes, per_block, spread
from kaasq_workers.devices.cpu.builtins.elementwise import Formula, apply, in_float32


def softmax(call: Call, given: dict[str, Any]) -> None:
    """``exp(x) / sum(exp(x))`` along an axis."""
    _along(_softmax, call, given)


def log_softmax(call: Call, given: dict[str, Any]) -> None:
    """Its logarithm."""
    _along(_log_softmax, call, given)


def layernorm(call: Call, given: dict[str, Any]) -> None:
    """Mean 0 and variance 1 over the last axes, then scale and bias."""
    axis, epsilon = call.attrs["axis"] % given["x"].ndim, call.attrs["epsilon"]
    width = math.prod(given["x"].shape[axis:])
    x, out = (given[name].reshape(-1, width) for name in ("x", "out"))
    scale, bias = (_wide(given[name]).reshape(-1) if name in given else None for name in ("scale", "bias"))

    @in_float32
    def formula(out: Array, x: Array) -> None:
        np.subtract(x, np.mean(x, axis=1, keepdims=True), out=out)
        variance = np.mean(np.square(out), axis=1, keepdims=True)
        np.multiply(out, _inverse_deviation(variance, epsilon), out=out)
        if scale is not None:
            np.multiply(out, scale, out=out)
        if bias is not None:
            np.add(out, bias, out=out)

    def work(block: Block) -> None:
        rows, _ = block
        formula(out[rows], x[rows])

    spread([(rows, slice(None)) for (rows,) in blocks((len(x),), per_block(x.itemsize, width))], work, x.nbytes)


def batchnorm(call: Call, given: dict[str, Any]) -> None:
    """By each channel's given mean and variance, then scale and bias."""
    x = given["x"]
    shape = (x.shape[0], x.shape[1], -1)
    scale, bias, mean, variance = (_wide(given[each])[:, None] for each in ("scale", "bias", "mean", "variance"))
    factor = scale * _inverse_deviation(variance, call.attrs["epsilon"])

    @in_float32
    def formula(out: Array, x: Array, factor: Array, bias: Array, mean: Array) -> None:
        np.subtract(x, mean, out=out)
        np.multiply(out, factor, out=out)
        np.add(out, bias, out=out)

    apply(formula, given["out"].reshape(shape), x.reshape(shape), factor, bias, mean)


def _along(formula: Callable[[Array, Array], None], call: Call, given: dict[str, Any]) -> None:
    axis = call.attrs["axis"] % given["x"].ndim
    x, out = lanes(given["x"], axis), lanes(given["out"], axis)
    wide: Formula = in_float32(formula)
    spread(lane_blocks(x), lambda block: wide(out[block], x[block]), x.nbytes)


def _softmax(out: Array, x: Array) -> None:
    np.subtract(x, np.max(x, axis=1, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, np.sum(out, axis=1, keepdims=True), out=out)


def _log_softmax(out: Array, x: Array) -> None:
    np.subtract(x, np.max(x, axis=1, keepdims=True), out=out)
    np.subtract(out, np.log(np.sum(np.exp(out), axis=1, keepdims=True)), out=out)


def _inverse_deviation(variance: Array, epsilon: float) -> Array:
    return np.asarray(1 / np.sqrt(variance + variance.dtype.type(epsilon)))


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype == np.float16 else x
