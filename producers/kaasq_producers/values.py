"""One value for one buffer or scalar: checked against what the graph declares, and turned into bytes. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from kaasq.dtypes import pack_number
from kaasq.errors import BadRequest, BufferSize
from kaasq.messages import Stored
from kaasq.model import Buffer, Number, Scalar
from kaasq.names import check_name
from kaasq_producers.references import BufferRef

# Below this a copy is cheaper than a view; above it the array's own memory goes straight into the message.
COPY_BYTES = 64 << 10
RAW_FORMATS = {"B", "b", "c"}  # memoryviews of these are bytes, not numbers

Data = bytes | memoryview


class InputField:
    """A buffer with what checking a value against it needs."""

    __slots__ = ("buffer", "dtype", "shape")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.dtype = None if buffer.dtype is None else np.dtype(buffer.dtype)
        self.shape = buffer.shape

    def data(self, value: Any) -> Data:
        """The value's bytes in C order."""
        buffer = self.buffer
        check_given(buffer)
        if not isinstance(value, np.ndarray):
            if isinstance(value, (bytes, bytearray)) or (
                isinstance(value, memoryview) and value.format in RAW_FORMATS and value.c_contiguous
            ):
                _check_size(buffer, memoryview(value).nbytes, "")
                return value if isinstance(value, bytes) else memoryview(value)
            value = self._array(value)
        if self.dtype is None:
            if value.dtype.hasobject:
                raise BadRequest("an array of Python objects has no bytes to send", at=f"bind.{buffer.name}")
            _check_size(buffer, value.nbytes, f": {_described(value.dtype, value.shape)}")
        elif value.dtype != self.dtype or (self.shape is not None and value.shape != self.shape):
            raise _mismatch(buffer, value.dtype, value.shape)
        elif self.shape is None:
            _check_size(buffer, value.nbytes, f": {_described(value.dtype, value.shape)}")
        if value.nbytes <= COPY_BYTES:
            copied: bytes = value.tobytes()
            return copied
        return flat(value)

    def _array(self, value: Any) -> npt.NDArray[Any]:
        """An array from a list, a number, or anything that knows how to become one (a tensor, an array.array)."""
        buffer = self.buffer
        at = f"bind.{buffer.name}"
        if value is None or isinstance(value, (str, dict, set)):
            raise BadRequest(
                f"cannot send a {type(value).__name__}; bind an array, bytes, a list, a number, a BufferRef or "
                f"Stored(name=...)",
                at=at,
            )
        plain = isinstance(value, (bool, int, float, complex)) or (
            isinstance(value, (list, tuple)) and not _holds_typed(value)
        )
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadRequest(f"cannot make an array of it: {error}", at=at) from None
        if not plain:
            return array
        # Python's numbers have a value but no type, so they take the buffer's.
        if self.dtype is None:
            raise BadRequest(
                f"is declared with nbytes only, so numbers have no size there: bind bytes or an array of "
                f"{buffer.nbytes} bytes",
                at=at,
            )
        if isinstance(value, (int, float, complex)) and buffer.nbytes == self.dtype.itemsize:
            array = array.reshape(self.shape or ())
        return _converted(array, self.dtype, at)


def flat(array: npt.NDArray[Any]) -> memoryview:
    """The array's bytes in C order as one memoryview of bytes, without a copy if it is in C order already."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def number(scalar: Scalar, value: Any) -> Number:
    """The value of a scalar, checked against its dtype."""
    at = f"scalars.{scalar.name}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        if not np.can_cast(value.dtype, np.dtype(scalar.dtype), "same_kind"):
            raise BadRequest(f"expected {scalar.dtype}, given {value.dtype}", at=at)
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise BadRequest(f"expected a number ({scalar.dtype}), given a {type(value).__name__}", at=at)
    pack_number(scalar.dtype, value, at)
    return value


def reference(buffer: Buffer, value: BufferRef | Stored) -> Stored:
    """A stored object as an input, checked as far as what is known of it goes."""
    at = f"bind.{buffer.name}"
    check_given(buffer)
    if isinstance(value, Stored):
        if (value.ref is None) == (value.name is None):
            raise BadRequest("Stored needs a ref or a name, and not both", at=at)
        if value.offset is not None and value.offset < 0:
            raise BadRequest(f"offset is {value.offset}", at=at)
        return value
    if value.dtype is not None and buffer.dtype is not None:
        given = np.dtype(value.dtype)
        if given != np.dtype(buffer.dtype) or (
            buffer.shape is not None and value.shape is not None and value.shape != buffer.shape
        ):
            raise _mismatch(buffer, given, value.shape or (value.nbytes // given.itemsize,))
    _check_size(buffer, value.nbytes, "")
    return Stored(ref=value.ref)


def check_given(buffer: Buffer) -> None:
    """Whether something can be bound to it. Raises BadRequest."""
    if not buffer.given:
        hint = "; Keep('name') keeps it in the store" if buffer.role == "output" else ""
        raise BadRequest(
            f"{buffer.name!r} is {'an' if buffer.role[0] in 'io' else 'a'} {buffer.role}: nothing can be bound to it"
            f"{hint}",
            at=f"bind.{buffer.name}",
        )


def kept(buffer: Buffer, name: object) -> str:
    """The name under which an output is kept, checked."""
    if not buffer.returned:
        raise BadRequest(f"only an output or inout can be kept; {buffer.name!r} is none", at=f"keep.{buffer.name}")
    if not isinstance(name, str):
        raise BadRequest(f"a name is a str, {type(name).__name__} was given", at=f"keep.{buffer.name}")
    check_name(name, f"keep.{buffer.name}")
    return name


def _converted(array: npt.NDArray[Any], dtype: np.dtype[Any], at: str) -> npt.NDArray[Any]:
    """Python's numbers as that type: rounded to its precision, refused if out of its range or of a wider kind."""
    given, wanted = _KINDS.get(array.dtype.kind), _KINDS[dtype.kind]
    if given is None:
        raise BadRequest(f"expected {dtype}, given values that make {array.dtype}", at=at)
    if given > wanted or (given == _BOOLEAN) != (wanted == _BOOLEAN):
        raise BadRequest(f"expected {dtype}, given {_WORDS[given]}", at=at)
    if dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        for value in (int(array.min()), int(array.max())):
            if not bounds.min <= value <= bounds.max:
                raise BadRequest(f"{value} does not fit {dtype} ({bounds.min} to {bounds.max})", at=at)
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind in "fc" and not np.array_equal(np.isfinite(array), np.isfinite(converted)):
        raise BadRequest(f"a value does not fit {dtype}", at=at)
    return converted


def _holds_typed(values: Iterable[Any]) -> bool:
    return any(
        _holds_typed(each) if isinstance(each, (list, tuple)) else isinstance(each, (np.ndarray, np.generic))
        for each in values
    )


_BOOLEAN = 0
_KINDS = {"b": _BOOLEAN, "i": 1, "u": 1, "f": 2, "c": 3}
_WORDS = ("booleans", "whole numbers", "fractions", "complex numbers")


def _check_size(buffer: Buffer, given: int, described: str) -> None:
    if given != buffer.nbytes:
        raise BufferSize(
            f"buffer {buffer.name!r} is declared with {buffer.nbytes} bytes, but {given} bytes were given{described}",
            buffer=buffer.name,
            expected=buffer.nbytes,
            given=given,
        )


def _mismatch(buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...]) -> BadRequest | BufferSize:
    assert buffer.dtype is not None
    expected, given = _described(np.dtype(buffer.dtype), buffer.shape), _described(dtype, shape)
    if dtype == np.dtype(buffer.dtype):
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes != buffer.nbytes:
            return BufferSize(
                f"buffer {buffer.name!r} is declared as {expected} ({buffer.nbytes} bytes), but {given} "
                f"({nbytes} bytes) was given",
                buffer=buffer.name,
                expected=buffer.nbytes,
                given=nbytes,
            )
    return BadRequest(f"expected {expected}, given {given}", at=f"bind.{buffer.name}", expected=expected, given=given)


def _described(dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> str:
    # A foreign byte order has the same name; only its short form tells the two apart.
    name = dtype.name if dtype.isnative else f"{dtype.str} (foreign byte order)"
    return name if shape is None else f"{name} {shape}"
