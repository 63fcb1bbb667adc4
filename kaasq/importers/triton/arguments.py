"""What a launch gives for a parameter, checked against the parameter's type. Pure."""

from __future__ import annotations

import numpy as np

from kaasq.dtypes import pack_number, unpack_number
from kaasq.errors import BadRequest
from kaasq.importers.triton.types import Parameter
from kaasq.model import Buffer, Scalar


def pointee(parameter: Parameter, value: object, at: str) -> Buffer:
    """The buffer for a pointer. Raises BadRequest."""
    if value is None:
        raise BadRequest(
            "a pointer that is None must be so when the kernel is compiled: "
            f"compile(..., constants={{{parameter.name!r}: None}})",
            at=at,
        )
    if not isinstance(value, Buffer):
        raise BadRequest(f"{parameter.type} takes a buffer of the graph, given {value!r:.60}", at=at)
    if value.dtype is not None and not parameter.holds(value.dtype):
        raise BadRequest(
            f"{parameter.type} points to {parameter.dtype}, buffer {value.name!r} holds {value.dtype}", at=at
        )
    return value


def number(parameter: Parameter, value: object, at: str, *, multiple_of_16: bool) -> Scalar | np.generic:
    """The number in its dtype, or the scalar, for a parameter by value. Raises BadRequest."""
    if isinstance(value, Scalar):
        if value.dtype != parameter.dtype:
            raise BadRequest(f"expected {parameter.dtype}, scalar {value.name!r} is {value.dtype}", at=at)
        if multiple_of_16:
            raise BadRequest(
                f"compiled as a multiple of 16, which scalar {value.name!r}, set by requests, cannot promise: "
                "give a number, or compile without multiples_of_16",
                at=at,
            )
        return value
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, (bool, int, float)):
        raise BadRequest(f"{parameter.type} takes a number or a scalar of the graph, given {value!r:.60}", at=at)
    exact = unpack_number(parameter.dtype, pack_number(parameter.dtype, plain, at))
    if multiple_of_16 and exact % 16:
        raise BadRequest(f"compiled as a multiple of 16, given {exact}", at=at)
    typed: np.generic = np.dtype(parameter.dtype).type(exact)
    return typed
