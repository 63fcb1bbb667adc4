"""Triton's names of types as kaasq's: what an argument of that type may be, and its bytes."""

from __future__ import annotations

from typing import NamedTuple

from kaasq.dtypes import itemsize
from kaasq.errors import BadRequest

POINTER_BYTES = 8

_NUMBERS = {
    "i1": "bool",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "fp16": "float16",
    "fp32": "float32",
    "fp64": "float64",
}
# NumPy has no such types: a buffer of them holds their bits.
_BITS = {
    "bf16": "uint16",
    "fp8e4nv": "uint8",
    "fp8e5": "uint8",
    "fp8e4b8": "uint8",
    "fp8e4b15": "uint8",
    "fp8e5b16": "uint8",
}
_PAIRS = {"float32": "complex64", "float64": "complex128"}


class Parameter(NamedTuple):
    """A parameter of a kernel. ``dtype`` is that of the number, or of the elements that a pointer points to."""

    name: str
    type: str
    dtype: str
    pointer: bool

    @property
    def nbytes(self) -> int:
        """Size of the argument in bytes."""
        return POINTER_BYTES if self.pointer else itemsize(self.dtype)

    def holds(self, dtype: str) -> bool:
        """Whether elements of that dtype are what the pointer points to (complex numbers are pairs of floats)."""
        return dtype in {self.dtype, _PAIRS.get(self.dtype)}


def parameter(name: str, spelling: object, at: str) -> Parameter:
    """The parameter of that Triton type: ``i32``, ``fp32``, ``*fp16``. Raises BadRequest."""
    if not isinstance(spelling, str):
        raise BadRequest(
            f"expected a type's name such as '*fp32' or 'i32', given {spelling!r:.60} ({type(spelling).__name__}); "
            "tuples of arguments are not supported",
            at=at,
        )
    if spelling.startswith(("tensordesc", "nvTmaDesc")):
        raise BadRequest(
            f"{spelling!r:.60} is a TMA descriptor made on the host, which kaasq cannot pass: pass the pointer and "
            "make it in the kernel with tl.make_tensor_descriptor",
            at=at,
        )
    element = spelling.removeprefix("*").removeprefix("k") if spelling.startswith("*") else spelling
    pointer = element != spelling
    dtype = _NUMBERS.get(element) or (_BITS.get(element) if pointer else None)
    if dtype is None:
        if element in _BITS:
            raise BadRequest(
                f"a number of type {element} cannot be passed by value: say 'fp32' and convert it in the kernel", at=at
            )
        known = ", ".join((*_NUMBERS, *_BITS))
        raise BadRequest(f"{spelling!r:.60} is no type; known are {known}, and pointers to them ('*fp32')", at=at)
    return Parameter(name, spelling, dtype, pointer)
