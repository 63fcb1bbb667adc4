"""One operator of a model as its translation sees it: inputs, attributes, and what it is to give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kaasq.importers.onnx.program import Array, Program, Shape, Tensor, Unsupported
from kaasq.model import Attribute


class Known(NamedTuple):
    """A value that does not depend on any input; it becomes a weight only if a built-in has to read it."""

    array: Array
    name: str

    @property
    def shape(self) -> Shape:
        """As a tensor's."""
        return self.array.shape

    @property
    def dtype(self) -> str:
        """As a tensor's."""
        return self.array.dtype.name


Value = Tensor | Known


class Described(NamedTuple):
    """What a value will be like, as ONNX infers it."""

    name: str
    dtype: str
    shape: Shape


@dataclass
class Node:
    """An operator with its inputs. ``inputs`` and ``outputs`` that are left out are None.

    ``used`` holds the outputs (by position) that somebody uses, ``lonely`` the inputs that nobody else uses.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: Sequence[Value | None]
    outputs: Sequence[Described | None]
    program: Program
    used: frozenset[int] = frozenset({0})
    lonely: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self._read: set[str] = set()

    # ------------------------------------------------------------------------------------------------- attributes
    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value. Those that no one asks for are reported as unsupported."""
        self._read.add(name)
        return self.attributes.get(name, default)

    def ignore(self, *names: str) -> None:
        """These attributes change nothing here."""
        self._read.update(names)

    def unread(self) -> list[str]:
        """Attributes that the translation did not look at, so that it cannot honour them."""
        return sorted(set(self.attributes) - self._read)

    def setting(self, name: str, index: int, default: Any = None) -> Any:
        """What an older opset has as an attribute and a newer one as an input, which must be constant."""
        if name in self.attributes:
            return self.attribute(name)
        array = self.known(index, name) if self.has(index) else None
        return default if array is None else array.tolist()

    def axis(self, default: int) -> int:
        """The attribute of that name: an axis of the first input, from the front."""
        axis, rank = int(self.attribute("axis", default)), len(self.shape(0))
        if not -rank <= axis < rank:
            raise Unsupported(f"axis is {axis}; its input has {rank} axes")
        return axis % rank

    # ----------------------------------------------------------------------------------------------------- inputs
    def has(self, index: int) -> bool:
        """Whether that input is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Value:
        """That input."""
        given = self.inputs[index] if index < len(self.inputs) else None
        if given is None:
            raise Unsupported(f"input {index} is missing")
        return given

    def shape(self, index: int) -> Shape:
        """Its shape."""
        return self.value(index).shape

    def known(self, index: int, what: str) -> Array:
        """Its values, where they must be known now."""
        given = self.value(index)
        if isinstance(given, Known):
            return given.array
        array = self.program.array(given)
        if array is None:
            raise Unsupported(f"{what} depends on the model's inputs; it must be constant")
        return array

    def tensor(self, index: int) -> Tensor:
        """It as a built-in takes it."""
        given = self.value(index)
        return self.program.weight(given.array, given.name) if isinstance(given, Known) else given

    def tensors(self) -> list[Tensor]:
        """All inputs."""
        return [self.tensor(index) for index in range(len(self.inputs))]

    # ---------------------------------------------------------------------------------------------------- results
    @property
    def out(self) -> Described:
        """The first output."""
        found = self.outputs[0]
        if found is None:
            raise Unsupported("its first output has no name")
        return found

    def only_first_output(self) -> None:
        """Raises Unsupported if another output is used."""
        others = [each.name for i, each in enumerate(self.outputs) if each is not None and i in self.used - {0}]
        if others:
            raise Unsupported(f"only its first output is supported; {', '.join(others)} is used")

    def constant(self, value: Any, dtype: str | None = None) -> Tensor:
        """A number or an array as a weight, of the dtype of the first output if none is given."""
        return self.program.weight(np.asarray(value, dtype or self.out.dtype), f"{self.out.name}.constant")

    def make(
        self,
        builtin: str,
        *args: Tensor | np.generic,
        shape: Shape | None = None,
        dtype: str | None = None,
        **attrs: Attribute,
    ) -> Tensor:
        """The result of a built-in, whose argument that is written to must not be given.

        It has shape and dtype of the node's first output unless they are given.
        """
        made = self.program.temp(dtype or self.out.dtype, self.out.shape if shape is None else shape, self.out.name)
        self.program.add_into(builtin, made, *args, **attrs)
        return made

    def stretched(self, x: Tensor, shape: Shape) -> Tensor:
        """The tensor by NumPy's broadcasting rules. Where that makes no new elements it is a view."""
        return x.seen_as(shape) if math.prod(shape) == math.prod(x.shape) else self.make("copy", x, shape=shape)
