"""Every built-in's function by name: ``function(call, operands)``, operands as ``Builtin.run`` gets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq_workers.devices.cpu.builtins import elementwise, functions, layout, normalisations, reductions, windows
from kaasq_workers.devices.cpu.builtins.convolution import conv2d
from kaasq_workers.devices.cpu.builtins.linear import gemm

Function = Callable[[Call, dict[str, Any]], None]

_OPERATORS: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}
_FUNCTIONS: dict[str, np.ufunc] = {
    "logical_not": np.logical_not,
    "neg": np.negative,
    "abs": np.absolute,
    "sign": np.sign,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
}

FUNCTIONS: dict[str, Function] = {
    **{name: elementwise.operator(ufunc) for name, ufunc in _OPERATORS.items()},
    **{name: functions.function(ufunc) for name, ufunc in _FUNCTIONS.items()},
    "div": elementwise.div,
    "where": elementwise.where,
    "clip": elementwise.clip,
    "axpy": elementwise.axpy,
    "cast": elementwise.cast,
    "rsqrt": functions.formula(functions.rsqrt),
    "erf": functions.formula(functions.erf_of),
    "relu": functions.relu,
    "leaky_relu": functions.leaky_relu,
    "elu": functions.elu,
    "sigmoid": functions.formula(functions.sigmoid),
    "silu": functions.formula(functions.silu),
    "softplus": functions.formula(functions.softplus),
    "gelu": functions.gelu,
    "gemm": gemm,
    "reduce": reductions.reduce,
    "argmax": reductions.arg(np.argmax),
    "argmin": reductions.arg(np.argmin),
    "softmax": normalisations.softmax,
    "log_softmax": normalisations.log_softmax,
    "layernorm": normalisations.layernorm,
    "batchnorm": normalisations.batchnorm,
    "copy": layout.copy,
    "fill": layout.fill,
    "transpose": layout.transpose,
    "slice": layout.part,
    "paste": layout.paste,
    "pad": layout.pad,
    "gather": layout.gather,
    "im2col": windows.im2col,
    "conv2d": conv2d,
    "pool2d": windows.pool2d,
}
