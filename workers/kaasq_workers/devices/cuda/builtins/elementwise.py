"""The steps of built-ins that work element by element. Pure."""

from __future__ import annotations

from kaasq.builtins import Call
from kaasq.dtypes import itemsize
from kaasq_workers.devices.cuda.builtins.elements import NAMES, pack, raw_of, wide
from kaasq_workers.devices.cuda.builtins.steps import Bounds, Figure, KernelStep, Pointer, Steps, blocks_for
from kaasq_workers.devices.cuda.builtins.walks import Walk, contiguous, stretched, walk

_FAMILY = "elementwise"

UNARY = {
    "logical_not": "LogicalNot",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "rsqrt": "Rsqrt",
    "reciprocal": "Reciprocal",
    "sin": "Sin",
    "cos": "Cos",
    "tanh": "Tanh",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
    "relu": "Relu",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "sigmoid": "Sigmoid",
    "silu": "Silu",
    "softplus": "Softplus",
    "gelu": "Gelu",
    "clip": "Clip",
    "cast": "Cast",
}
BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "maximum": "Maximum",
    "minimum": "Minimum",
    "logical_and": "LogicalAnd",
    "logical_or": "LogicalOr",
    "logical_xor": "LogicalXor",
    "equal": "Equal",
    "not_equal": "NotEqual",
    "less": "Less",
    "less_equal": "LessEqual",
    "greater": "Greater",
    "greater_equal": "GreaterEqual",
}


def unary(call: Call, bounds: Bounds) -> Steps:
    """Out = f(x), of one shape."""
    name, dtype, out = call.builtin.name, call.dtype("x"), call.dtype("out")
    operator = UNARY[name]
    first: Figure | bytes = pack(wide(dtype), 0)
    second: Figure | bytes = first
    if name == "clip":
        first, second = Figure("low", dtype), Figure("high", dtype)
    elif "alpha" in call.attrs:
        first = pack(wide(dtype), call.attrs["alpha"])
    elif name == "gelu" and call.attrs["tanh"]:
        operator = "GeluTanh"
    elif name == "cast":
        operator = f"Cast<{NAMES[out]}>"
    path = _walk(call, ("out", "x"), bounds)
    kernel = f"map1<{operator}, {NAMES[out]}, {NAMES[dtype]}, {path.template}>"
    return _step(kernel, path, (Pointer("out"), Pointer("x"), first, second))


def binary(call: Call, bounds: Bounds) -> Steps:
    """Out = f(a, b), stretched."""
    dtype = call.dtype("a")
    path = _walk(call, ("out", "a", "b"), bounds)
    kernel = f"map2<{BINARY[call.builtin.name]}, {NAMES[call.dtype('out')]}, {NAMES[dtype]}, {path.template}>"
    return _step(kernel, path, (Pointer("out"), Pointer("a"), Pointer("b"), pack(wide(dtype), 0)))


def axpy(call: Call, bounds: Bounds) -> Steps:
    """Y += alpha * x."""
    dtype = call.dtype("x")
    path = _walk(call, ("y", "x", "y"), bounds)
    kernel = f"map2<Axpy, {NAMES[dtype]}, {NAMES[dtype]}, {path.template}>"
    return _step(kernel, path, (Pointer("y"), Pointer("x"), Pointer("y"), Figure("alpha", wide(dtype))))


def where(call: Call, bounds: Bounds) -> Steps:
    """A choice."""
    names = ("out", "condition", "a", "b")
    path = _walk(call, names, bounds)
    kernel = f"choose<{raw_of(call.dtype('out'))}, {path.template}>"
    return _step(kernel, path, tuple(map(Pointer, names)))


def batchnorm(call: Call, bounds: Bounds) -> Steps:
    """By channel, the second axis."""
    shape, dtype = call.shape("x"), call.dtype("x")
    channels = (0, 1, *(0 for _ in shape[2:]))
    sizes = [itemsize(dtype)] * 3
    path = walk(shape, (contiguous(shape), contiguous(shape), channels), sizes, bounds)
    names = ("out", "x", "scale", "bias", "mean", "variance")
    epsilon = pack(wide(dtype), call.attrs["epsilon"])
    return _step(f"batchnorm<{NAMES[dtype]}, {path.template}>", path, (*map(Pointer, names), epsilon))


def add_per_channel(shape: tuple[int, ...], dtype: str, bounds: Bounds) -> Steps:
    """Out += bias, along the second axis of ``shape``."""
    own = contiguous(shape)
    path = walk(shape, (own, own, (0, 1, *(0 for _ in shape[2:]))), [itemsize(dtype)] * 3, bounds)
    kernel = f"map2<Add, {NAMES[dtype]}, {NAMES[dtype]}, {path.template}>"
    return _step(kernel, path, (Pointer("out"), Pointer("out"), Pointer("bias"), pack(wide(dtype), 0)))


def _walk(call: Call, names: tuple[str, ...], bounds: Bounds) -> Walk:
    shape = call.shape(names[0])
    strides = [stretched(call.shape(each), shape) for each in names]
    return walk(shape, strides, [itemsize(call.dtype(each)) for each in names], bounds)


def _step(kernel: str, path: Walk, args: tuple[Pointer | Figure | bytes, ...]) -> Steps:
    return (KernelStep(_FAMILY, kernel, (blocks_for(path.threads), 1), (path.packed(), *args)),)
