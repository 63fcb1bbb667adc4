"""The error function, which NumPy lacks."""

from __future__ import annotations

import numpy as np

from kaasq_workers.devices.cpu.builtins.blocks import Array

# float32: x P(x^2) / Q(x^2), fitted to erf with relative weights at Chebyshev nodes of |x| < 3.93, beyond which it is 1
# to the last bit. Within 7 units in the last place, most of them from evaluating it in float32. Ascending.
_REACH = 3.93
_P32 = (1.1283791, 0.19077536, 0.052789204, 0.003779259, 0.00028480252, 2.042055e-06)
_Q32 = (1.0, 0.50240296, 0.11425406, 0.014996732, 0.0011651315, 3.8004645e-05)

# float64: W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), 631-637:
# x P(x^2) / Q(x^2) up to 0.46875, then 1 - exp(-x^2) P(x) / Q(x), and from 4 on in 1 / x^2. Ascending.
_SMALL, _LARGE, _ONE = 0.46875, 4.0, 6.0
_P_SMALL = (3.20937758913846947e3, 3.77485237685302021e2, 1.13864154151050156e2, 3.16112374387056560, 1.85777706184603153e-1)  # fmt: skip  # noqa: E501
_Q_SMALL = (2.84423683343917062e3, 1.28261652607737228e3, 2.44024637934444173e2, 2.36012909523441209e1, 1.0)
_P_MIDDLE = (
    1.23033935479799725e3, 2.05107837782607147e3, 1.71204761263407058e3, 8.81952221241769090e2, 2.98635138197400131e2,
    6.61191906371416295e1, 8.88314979438837594, 5.64188496988670089e-1, 2.15311535474403846e-8,
)  # fmt: skip
_Q_MIDDLE = (
    1.23033935480374942e3, 3.43936767414372164e3, 4.36261909014324716e3, 3.29079923573345963e3, 1.62138957456669019e3,
    5.37181101862009858e2, 1.17693950891312499e2, 1.57449261107098347e1, 1.0,
)  # fmt: skip
_P_LARGE = (6.58749161529837803e-4, 1.60837851487422766e-2, 1.25781726111229246e-1, 3.60344899949804439e-1, 3.05326634961232344e-1, 1.63153871373020978e-2)  # fmt: skip  # noqa: E501
_Q_LARGE = (2.33520497626869185e-3, 6.05183413124413191e-2, 5.27905102951428412e-1, 1.87295284992346725, 2.56852019228982242, 1.0)  # fmt: skip  # noqa: E501
_SQRT_PI_INVERSE = 5.6418958354775628695e-1


def erf(x: Array, out: Array) -> None:
    """Write the error function of x to out, both float32 or both float64: within 7 and 4 units in the last place."""
    if out.dtype == np.float32:
        _erf32(x, out)
    else:
        _erf64(x, out)


def _erf32(x: Array, out: Array) -> None:
    near = np.clip(x, -_REACH, _REACH)
    square = near * near
    _polynomial(_P32, square, out)
    np.multiply(out, near, out=out)
    np.divide(out, _polynomial(_Q32, square, near), out=out)
    np.clip(out, -1, 1, out=out)


def _erf64(x: Array, out: Array) -> None:
    size = np.abs(x)
    np.copysign(1.0, x, out=out)  # what it is from 6 on
    np.copyto(out, x, where=np.isnan(x))
    for low, high, of in ((0.0, _SMALL, _small), (_SMALL, _LARGE, _middle), (_LARGE, _ONE, _large)):
        chosen = np.flatnonzero((size >= low) & (size < high))
        if chosen.size:
            np.put(out, chosen, of(np.take(x, chosen)))


def _small(x: Array) -> Array:
    square = x * x
    return np.asarray(x * _ratio(_P_SMALL, _Q_SMALL, square))


def _middle(x: Array) -> Array:
    size = np.abs(x)
    return np.asarray(np.copysign(1 - np.exp(-size * size) * _ratio(_P_MIDDLE, _Q_MIDDLE, size), x))


def _large(x: Array) -> Array:
    size = np.abs(x)
    inverse = 1 / (size * size)
    rest = (_SQRT_PI_INVERSE - inverse * _ratio(_P_LARGE, _Q_LARGE, inverse)) / size
    return np.asarray(np.copysign(1 - np.exp(-size * size) * rest, x))


def _ratio(numerator: tuple[float, ...], denominator: tuple[float, ...], x: Array) -> Array:
    return np.asarray(_polynomial(numerator, x, np.empty_like(x)) / _polynomial(denominator, x, np.empty_like(x)))


def _polynomial(ascending: tuple[float, ...], x: Array, out: Array) -> Array:
    """By Horner's rule."""
    out.fill(ascending[-1])
    for coefficient in ascending[-2::-1]:
        np.multiply(out, x, out=out)
        np.add(out, coefficient, out=out)
    return out
