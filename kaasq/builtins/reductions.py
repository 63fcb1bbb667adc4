"""Along axes: reductions, softmax, normalisations. float16 is computed in float32 and rounded once, at the end."""

from __future__ import annotations

from kaasq.builtins.rules import axes_of, axis_of, has_shape, same_dtype
from kaasq.builtins.signature import NUMBERS, Builtin, Call, Mistake, reads, writes

REDUCTIONS = ("sum", "mean", "max", "min", "prod")


def reduced_axes(call: Call) -> tuple[int, ...]:
    """The axes that a ``reduce`` goes over, from the front, in order."""
    return axes_of(call, call.attrs["axes"], "x")


def _reduce(call: Call) -> None:
    same_dtype(call, "x", "out")
    if call.attrs["op"] not in REDUCTIONS:
        raise Mistake(f"op is one of {', '.join(REDUCTIONS)}; given {call.attrs['op']!r:.40}", "op")
    if call.attrs["op"] == "mean" and "float" not in call.dtype("x"):
        raise Mistake(f"the mean of {call.dtype('x')} is none; cast first", "x")
    gone = reduced_axes(call)
    _without(call, gone)


def _argmax(call: Call) -> None:
    axis = axis_of(call, call.attrs["axis"], "x")
    _without(call, (axis,))
    if call.dtype("out") == "int32" and call.shape("x")[axis] > 2**31:
        raise Mistake(f"an index of {call.shape('x')[axis]} elements does not fit int32; let out be int64", "out")


def _without(call: Call, gone: tuple[int, ...]) -> None:
    shape = call.shape("x")
    if call.attrs["keepdims"]:
        has_shape(call, "out", tuple(1 if axis in gone else size for axis, size in enumerate(shape)))
    else:
        has_shape(call, "out", tuple(size for axis, size in enumerate(shape) if axis not in gone))


def _softmax(call: Call) -> None:
    same_dtype(call, "x", "out")
    has_shape(call, "out", call.shape("x"))
    axis_of(call, call.attrs["axis"], "x")


def _layernorm(call: Call) -> None:
    same_dtype(call, "x", "out", "scale", "bias")
    has_shape(call, "out", call.shape("x"))
    normalised = call.shape("x")[axis_of(call, call.attrs["axis"], "x") :]
    for name in ("scale", "bias"):
        if call.has(name):
            has_shape(call, name, normalised)


def _batchnorm(call: Call) -> None:
    same_dtype(call, "x", "out", "scale", "bias", "mean", "variance")
    has_shape(call, "out", call.shape("x"))
    if len(call.shape("x")) < 2:
        raise Mistake(f"x has shape {call.shape('x')}; its second axis would be the channels", "x")
    for name in ("scale", "bias", "mean", "variance"):
        has_shape(call, name, call.shape("x")[1:2])


_WHOLE = ("int32", "int64")
_PICK = (reads("x", NUMBERS), writes("out", _WHOLE))

ALONG_AXES = (
    Builtin(
        "reduce",
        (reads("x", NUMBERS), writes("out", NUMBERS)),
        _reduce,
        {"op": str, "axes": (), "keepdims": False},
        summary=(
            "out = sum, mean, max, min or prod of x over axes (all, if none are named); "
            "integers wrap around, max and min give NaN where there is one"
        ),
    ),
    Builtin(
        "argmax",
        _PICK,
        _argmax,
        {"axis": -1, "keepdims": False},
        summary="the first index of the largest; a NaN is the largest",
    ),
    Builtin(
        "argmin",
        _PICK,
        _argmax,
        {"axis": -1, "keepdims": False},
        summary="the first index of the smallest; a NaN is the smallest",
    ),
    Builtin(
        "softmax",
        (reads("x"), writes("out")),
        _softmax,
        {"axis": -1},
        summary="exp(x) / sum(exp(x)) along axis",
    ),
    Builtin("log_softmax", (reads("x"), writes("out")), _softmax, {"axis": -1}, summary="the logarithm of softmax"),
    Builtin(
        "layernorm",
        (reads("x"), writes("out"), reads("scale", optional=True), reads("bias", optional=True)),
        _layernorm,
        {"axis": -1, "epsilon": 1e-5},
        summary="(x - mean) / sqrt(variance + epsilon) over the axes from axis on, times scale, plus bias",
    ),
    Builtin(
        "batchnorm",
        (reads("x"), reads("scale"), reads("bias"), reads("mean"), reads("variance"), writes("out")),
        _batchnorm,
        {"epsilon": 1e-5},
        summary="(x - mean) / sqrt(variance + epsilon) * scale + bias per channel, which is the second axis",
    ),
)
