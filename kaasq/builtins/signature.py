"""What a built-in takes: its parameters, its attributes and the rule that their shapes and types must obey. Pure.

``args`` of a launch are what may change from request to request (buffers, numbers), ``attrs`` what shapes the code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from kaasq.dtypes import itemsize
from kaasq.model import Attribute

Access = Literal["reads", "writes", "updates", "number"]
Shape = tuple[int, ...]

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NUMBERS = (*FLOATS, *INTEGERS)
ANY = ("bool", *NUMBERS)


class Parameter(NamedTuple):
    """One parameter: a buffer that is read, written (all of it) or updated in place, or a number.

    A parameter with a ``default`` may be left out, if all after it are; a buffer's default is ``ABSENT``.
    ``scaled_by``: the number with which what is in the buffer counts; where that is 0, it is written and not read.
    """

    name: str
    access: Access
    dtypes: tuple[str, ...] = FLOATS
    default: float | str | None = None
    scaled_by: str | None = None


ABSENT = "absent"

VIEWS = "shapes"
"""An attribute of every built-in: a shape per argument under which to see its buffer, null for the declared one."""


def reads(name: str, dtypes: tuple[str, ...] = FLOATS, *, optional: bool = False) -> Parameter:
    """A buffer that is read."""
    return Parameter(name, "reads", dtypes, ABSENT if optional else None)


def writes(name: str, dtypes: tuple[str, ...] = FLOATS) -> Parameter:
    """A buffer every element of which is written, and none read."""
    return Parameter(name, "writes", dtypes)


def updates(name: str, dtypes: tuple[str, ...] = FLOATS, *, scaled_by: str | None = None) -> Parameter:
    """A buffer that is read and written, or written in part."""
    return Parameter(name, "updates", dtypes, scaled_by=scaled_by)


def number(name: str, default: float | None = None) -> Parameter:
    """A constant or a scalar of the graph, of any dtype."""
    return Parameter(name, "number", ANY, default)


class Operand(NamedTuple):
    """An argument as the graph describes it: a buffer (or a reshaped view of the whole of it), or a number.

    ``name`` is the buffer's or scalar's; "" for a constant. A number has shape ().
    """

    name: str
    dtype: str
    shape: Shape
    is_buffer: bool

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        size = itemsize(self.dtype)
        for each in self.shape:
            size *= each
        return size


class Mistake(Exception):
    """What is wrong with a call, in words, and which argument or attribute it is about ("" if none alone)."""

    def __init__(self, message: str, about: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.about = about


class Call(NamedTuple):
    """A launch of a built-in, matched with its signature.

    ``operands`` by parameter name, absent ones left out; ``attrs`` with every default filled in.
    """

    builtin: Builtin
    operands: dict[str, Operand]
    attrs: dict[str, Any]

    def shape(self, name: str) -> Shape:
        """The shape of that operand."""
        return self.operands[name].shape

    def dtype(self, name: str) -> str:
        """The dtype of that operand."""
        return self.operands[name].dtype

    def has(self, name: str) -> bool:
        """Whether an optional parameter was given."""
        return name in self.operands


Run = Callable[[Any, dict[str, Any], dict[str, Any]], None]


@dataclass(frozen=True)
class Builtin:
    """A kernel that takes whole arrays: ``graph.call(name, *args, **attrs)``.

    ``attributes`` maps each attribute to its default; a type (``int``, ``tuple``) in place of one makes it required.
    One that does not come with kaasq has a name with a dot, ``package.name``, and ``run``. ``check`` raises ``Mistake``
    where shapes, dtypes or attributes do not fit each other; that each operand's dtype is
    among its parameter's has been checked.

    ``run(xp, operands, attrs)``: ``xp`` is NumPy on a cpu and CuPy on a GPU, ``operands`` are its arrays (and Python
    numbers) by parameter name: absent buffers are left out, absent numbers have their defaults. It writes into the
    arrays that it declared to write, keeps none of them, and returns nothing. It runs inside the executor, with the
    worker's rights.
    """

    name: str
    parameters: tuple[Parameter, ...]
    check: Callable[[Call], None]
    attributes: Mapping[str, Attribute | type] = field(default_factory=dict)
    run: Run | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        names = [each.name for each in self.parameters]
        required = [each.default is None for each in self.parameters]
        if len(set(names)) < len(names):
            raise ValueError(f"built-in {self.name!r} has two parameters of one name: {', '.join(names)}")
        if required != sorted(required, reverse=True):
            raise ValueError(f"built-in {self.usage}: after a parameter that may be left out, all may")
        if VIEWS in self.attributes:
            raise ValueError(
                f"built-in {self.name!r}: every built-in has an attribute {VIEWS!r}; call yours another name"
            )

    @property
    def usage(self) -> str:
        """For people: ``gemm(a, b, c, [alpha], [beta])``."""
        shown = [each.name if each.default is None else f"[{each.name}]" for each in self.parameters]
        return f"{self.name}({', '.join(shown)})"
