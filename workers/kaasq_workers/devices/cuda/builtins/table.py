"""Every built-in's steps by name."""

from __future__ import annotations

from collections.abc import Callable

from kaasq.builtins import Call
from kaasq_workers.devices.cuda.builtins import convolution, elementwise, layout, linear, reductions, rows, windows
from kaasq_workers.devices.cuda.builtins.steps import Bounds, Steps

PLANS: dict[str, Callable[[Call, Bounds], Steps]] = {
    **dict.fromkeys(elementwise.UNARY, elementwise.unary),
    **dict.fromkeys(elementwise.BINARY, elementwise.binary),
    "axpy": elementwise.axpy,
    "where": elementwise.where,
    "batchnorm": elementwise.batchnorm,
    "copy": layout.copy,
    "fill": layout.fill,
    "transpose": layout.transpose,
    "slice": layout.slice_,
    "paste": layout.paste,
    "pad": layout.pad,
    "gather": layout.gather,
    "reduce": reductions.reduce,
    "argmax": reductions.argmax,
    "argmin": reductions.argmax,
    "softmax": rows.softmax,
    "log_softmax": rows.softmax,
    "layernorm": rows.layernorm,
    "gemm": linear.gemm,
    "im2col": windows.im2col,
    "conv2d": convolution.conv2d,
    "pool2d": windows.pool2d,
}
