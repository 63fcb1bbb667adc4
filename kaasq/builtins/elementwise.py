"""Element by element: arithmetic, comparisons, functions, activations. Inputs stretch by NumPy's broadcasting rules.

Integers wrap around. float16 is computed in float32 and rounded once, at the end.
"""

from __future__ import annotations

from kaasq.builtins.rules import broadcast, has_shape, same_dtype
from kaasq.builtins.signature import ANY, FLOATS, NUMBERS, Builtin, Call, number, reads, updates, writes
from kaasq.model import Attribute


def _unary(call: Call) -> None:
    same_dtype(call, "x", "out")
    has_shape(call, "out", call.shape("x"))


def _binary(call: Call) -> None:
    same_dtype(call, "a", "b", "out")
    broadcast(call, "out", "a", "b")


def _comparison(call: Call) -> None:
    same_dtype(call, "a", "b")
    broadcast(call, "out", "a", "b")


def _where(call: Call) -> None:
    same_dtype(call, "a", "b", "out")
    broadcast(call, "out", "condition", "a", "b")


def _axpy(call: Call) -> None:
    same_dtype(call, "x", "y")
    has_shape(call, "y", call.shape("x"))


def _function(name: str, summary: str, dtypes: tuple[str, ...] = FLOATS, **attributes: Attribute) -> Builtin:
    parameters = (reads("x", dtypes), writes("out", dtypes))
    return Builtin(name, parameters, _unary, attributes, summary=f"out = {summary}")


def _operator(name: str, summary: str, dtypes: tuple[str, ...] = NUMBERS) -> Builtin:
    parameters = (reads("a", dtypes), reads("b", dtypes), writes("out", dtypes))
    return Builtin(name, parameters, _binary, summary=f"out = {summary}")


def _compare(name: str, sign: str) -> Builtin:
    parameters = (reads("a", ANY), reads("b", ANY), writes("out", ("bool",)))
    return Builtin(name, parameters, _comparison, summary=f"out = a {sign} b, as bool")


ELEMENTWISE = (
    _operator("add", "a + b"),
    _operator("sub", "a - b"),
    _operator("mul", "a * b"),
    _operator("div", "a / b; of integers rounded towards zero, and 0 where b is 0"),
    _operator("pow", "a to the power b", FLOATS),
    _operator("maximum", "the larger of a and b; NaN if one is"),
    _operator("minimum", "the smaller of a and b; NaN if one is"),
    _operator("logical_and", "a and b", ("bool",)),
    _operator("logical_or", "a or b", ("bool",)),
    _operator("logical_xor", "a or b, not both", ("bool",)),
    _compare("equal", "=="),
    _compare("not_equal", "!="),
    _compare("less", "<"),
    _compare("less_equal", "<="),
    _compare("greater", ">"),
    _compare("greater_equal", ">="),
    _function("logical_not", "not x", ("bool",)),
    _function("neg", "-x", NUMBERS),
    _function("abs", "the absolute value of x", NUMBERS),
    _function("sign", "-1, 0 or 1; NaN of NaN", NUMBERS),
    _function("exp", "e to the power x"),
    _function("log", "the natural logarithm of x"),
    _function("sqrt", "the square root of x"),
    _function("rsqrt", "1 / sqrt(x)"),
    _function("reciprocal", "1 / x"),
    _function("sin", "sin x"),
    _function("cos", "cos x"),
    _function("tanh", "tanh x"),
    _function("erf", "the error function of x"),
    _function("floor", "the largest whole number not above x"),
    _function("ceil", "the smallest whole number not below x"),
    _function("round", "the nearest whole number, halves to even"),
    _function("relu", "the larger of x and 0; NaN of NaN", NUMBERS),
    _function("leaky_relu", "x, times alpha where negative", alpha=0.01),
    _function("elu", "x, or alpha * (exp(x) - 1) where negative", alpha=1.0),
    _function("sigmoid", "1 / (1 + exp(-x))"),
    _function("silu", "x * sigmoid(x)"),
    _function("softplus", "log(1 + exp(x))"),
    _function("gelu", "x * Phi(x); with tanh=true by the approximation with tanh", tanh=False),
    Builtin(
        "clip",
        (reads("x", NUMBERS), writes("out", NUMBERS), number("low"), number("high")),
        _unary,
        summary="out = minimum(maximum(x, low), high), low and high taken in x's dtype as cast does; NaN if one is",
    ),
    Builtin(
        "where",
        (reads("condition", ("bool",)), reads("a", ANY), reads("b", ANY), writes("out", ANY)),
        _where,
        summary="out = a where condition holds, else b",
    ),
    Builtin(
        "axpy",
        (reads("x"), updates("y"), number("alpha", 1.0)),
        _axpy,
        summary="y += alpha * x; float16 in float32, rounded once",
    ),
)
