"""A model under translation: tensors that are views of storage, and the built-ins that work on them, in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kaasq.builtins import Builtin, find_builtin, resolve_call
from kaasq.builtins.signature import VIEWS
from kaasq.dtypes import BUFFER_DTYPES, itemsize
from kaasq.errors import BadArguments
from kaasq.importers.onnx.naming import Names
from kaasq.model import BUILTINS, Attribute, Buffer, Constant, Launch, content_hash

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class Unsupported(Exception):
    """What of a node cannot be translated, in words. The translation adds which node it is."""


@dataclass(frozen=True, eq=False)
class Storage:
    """Memory that will be a buffer of the graph, or a share in one. ``name`` is unique in the program."""

    name: str
    role: Literal["input", "weight", "temp"]
    dtype: str
    elements: int


class Tensor(NamedTuple):
    """The whole of a storage, seen under a shape: reshaping costs nothing."""

    storage: Storage
    shape: Shape

    @property
    def dtype(self) -> str:
        """Its elements' type."""
        return self.storage.dtype

    def seen_as(self, shape: Shape) -> Tensor:
        """The same memory under another shape with as many elements. Raises Unsupported if they are not as many."""
        if math.prod(shape) != self.storage.elements:
            raise Unsupported(f"{self.storage.name!r} of shape {self.shape} cannot be seen as {shape}")
        return Tensor(self.storage, shape)


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a built-in."""

    builtin: Builtin
    args: tuple[Tensor | np.generic, ...]
    attrs: dict[str, Attribute] = field(default_factory=dict)

    def touched(self, *accesses: str) -> list[Storage]:
        """The storages that it reads, writes or updates."""
        pairs = zip(self.builtin.parameters, self.args, strict=False)
        return [arg.storage for parameter, arg in pairs if isinstance(arg, Tensor) and parameter.access in accesses]

    def launch(self, buffer_of: Callable[[Storage], Buffer]) -> Launch:
        """Itself in a graph with those buffers."""
        args: list[str | Constant] = []
        views: list[Shape | None] = []
        for arg in self.args:
            if isinstance(arg, Tensor):
                buffer = buffer_of(arg.storage)
                args.append(buffer.name)
                views.append(None if buffer.shape == arg.shape else arg.shape)
            else:
                args.append(Constant(dtype=arg.dtype.name, value=arg.item()))
                views.append(None)
        attrs = {**self.attrs, VIEWS: tuple(views)} if any(each is not None for each in views) else self.attrs
        return Launch(module=BUILTINS, kernel=self.builtin.name, args=tuple(args), attrs=attrs)


class Program:
    """Steps in the making. Each is checked against its built-in's signature as it is added."""

    def __init__(self, made_bytes: int) -> None:
        """``made_bytes``: how large all constants together may be that are computed on the way."""
        self._made_limit, self._made_bytes = made_bytes, 0
        self.steps: list[Step] = []
        self.arrays: dict[Storage, Array] = {}
        self._weights: dict[tuple[str, str], Storage] = {}
        self._names = Names()

    def spend(self, nbytes: int) -> None:
        """Ask before a constant of that size is computed. Raises Unsupported if it is too much."""
        self._made_bytes += nbytes
        if self._made_bytes > self._made_limit:
            raise Unsupported(
                f"with it the computed constants take {self._made_bytes} bytes; the limit is {self._made_limit} "
                "(OnnxLimits.folded_bytes)"
            )

    def input(self, name: str, dtype: str, shape: Shape) -> Tensor:
        """An input of the model."""
        return self._new(name, "input", dtype, shape)

    def weight(self, array: Array, name: str) -> Tensor:
        """A constant as an input that is bound once. Equal contents share storage."""
        dtype = array.dtype.name
        array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes one dimension of none
        key = (dtype, content_hash(array.reshape(-1).view(np.uint8).data) if array.size else "")
        if key not in self._weights:
            made = self._new(name, "weight", dtype, array.shape)
            self._weights[key] = made.storage
            self.arrays[made.storage] = array
        return Tensor(self._weights[key], array.shape)

    def array(self, tensor: Tensor) -> Array | None:
        """The values of a weight, None of anything else."""
        array = self.arrays.get(tensor.storage)
        return None if array is None else array.reshape(tensor.shape)

    def temp(self, dtype: str, shape: Shape, name: str) -> Tensor:
        """Memory for a result. Its first content is anything."""
        return self._new(name, "temp", dtype, shape)

    def add_into(self, builtin: str, out: Tensor, *args: Tensor | np.generic, **attrs: Attribute) -> None:
        """Append a call that writes to ``out``, given its other arguments.

        Raises Unsupported where the built-in cannot take what it is given.
        """
        found = find_builtin(builtin)
        assert found is not None, builtin
        written = next(i for i, each in enumerate(found.parameters) if each.access in {"writes", "updates"})
        self.steps.append(checked(Step(found, (*args[:written], out, *args[written:]), attrs)))

    def _new(self, name: str, role: Literal["input", "weight", "temp"], dtype: str, shape: Shape) -> Tensor:
        if dtype not in BUFFER_DTYPES:
            raise Unsupported(f"{name!r} is {dtype}; possible are {', '.join(BUFFER_DTYPES)}")
        elements = math.prod(shape)
        if not elements:
            raise Unsupported(f"{name!r} of shape {shape} is empty; a buffer has at least one element")
        return Tensor(Storage(self._names.take(name), role, dtype, elements), shape)


def checked(step: Step) -> Step:
    """The same. Raises Unsupported where its built-in cannot take what it is given."""
    declared = {each.storage.name: _flat(each.storage) for each in step.args if isinstance(each, Tensor)}
    try:
        resolve_call(step.launch(_flat), step.builtin.name, declared)
    except BadArguments as error:
        raise Unsupported(error.message) from None
    return step


def _flat(storage: Storage) -> Buffer:
    nbytes = storage.elements * itemsize(storage.dtype)
    return Buffer(name=storage.name, role="temp", dtype=storage.dtype, shape=(storage.elements,), nbytes=nbytes)
