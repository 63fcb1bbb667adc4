"""Builds a graph from Python: declare buffers and scalars, add launches, then hand it to a client."""

from __future__ import annotations

import operator
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kaasq.builtins import find_builtin, resolve_call
from kaasq.checks import GraphLimits, check_buffer, check_graph, check_graph_name, check_scalar, check_shape
from kaasq.dtypes import canonical
from kaasq.errors import BadRequest
from kaasq.finite import check_finite
from kaasq.model import BUILTINS, Attribute, Buffer, Constant, GraphSpec, Kernel, Launch, Module, Number, Role, Scalar
from kaasq.reading import Reader

# A declaration is checked at its line, where the mistake is seen best, but limits are settings, known only later.
UNLIMITED = GraphLimits(buffer_bytes=sys.maxsize)

_specs = Reader(GraphSpec)

Shape = int | Sequence[int]
Argument = Buffer | Scalar | np.generic | bool | int | float | bytes


class Graph:
    r"""A kernel graph under construction.

    >>> graph = Graph("twice")
    >>> x = graph.input("x", shape=(4,), dtype="float32")
    >>> y = graph.output("y", shape=(4,), dtype="float32")
    >>> module = Module.from_source('extern "C" __global__ void twice(const float* x, float* y) {...}')
    >>> graph.launch(module.kernel("twice"), grid=1, block=4, args=[x, y])
    >>> graph
    <Graph 'twice': 1 launches, 2 buffers, 1 iterations>
    >>> graph.freeze().buffer("y").nbytes
    16

    The name becomes part of the routing key of the graph's events: letters, digits, ``_``, ``-`` and dots.
    """

    def __init__(self, name: str) -> None:
        """Raises BadRequest for what is no name."""
        check_graph_name(name)
        self.name = name
        self.iterations = 1
        self._buffers: list[Buffer] = []
        self._scalars: list[Scalar] = []
        self._modules: dict[str, Module] = {}
        self._launches: list[Launch] = []
        self._declared: set[int] = set()  # ids of the buffers and scalars, all of which live as long as the graph
        self._frozen: GraphSpec | None = None

    def input(
        self,
        name: str,
        *,
        shape: Shape | None = None,
        dtype: Any = None,
        nbytes: int | None = None,
        const: bool = False,
    ) -> Buffer:
        """Declare a buffer that a request binds. ``const``: the kernels promise not to write to it."""
        return self._declare(name, "input", shape, dtype, nbytes, const=const)

    def output(self, name: str, *, shape: Shape | None = None, dtype: Any = None, nbytes: int | None = None) -> Buffer:
        """Declare a buffer that the reply carries, or that is kept in the store. It starts as zeros."""
        return self._declare(name, "output", shape, dtype, nbytes)

    def inout(self, name: str, *, shape: Shape | None = None, dtype: Any = None, nbytes: int | None = None) -> Buffer:
        """Declare a buffer that a request binds, kernels change and the reply carries."""
        return self._declare(name, "inout", shape, dtype, nbytes)

    def temp(self, name: str, *, shape: Shape | None = None, dtype: Any = None, nbytes: int | None = None) -> Buffer:
        """Declare a buffer that lives on the device for one request. It starts as zeros."""
        return self._declare(name, "temp", shape, dtype, nbytes)

    def scalar(self, name: str, dtype: Any, default: Number | None = None) -> Scalar:
        """Declare an argument passed by value, which a request may set; without a default it must."""
        scalar = declared_scalar(name, dtype, default, f"graph.scalars[{len(self._scalars)}]")
        self._scalars.append(scalar)
        self._declared.add(id(scalar))
        self._frozen = None
        return scalar

    def launch(
        self,
        kernel: Kernel,
        *,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Argument],
        shared_bytes: int = 0,
    ) -> None:
        """Append a launch. ``args`` in the kernel's order: buffers, scalars, NumPy scalars, raw bytes for structs.

        A Python int or float has no size of its own and is refused: say ``np.int32(n)`` or ``np.float32(a)``.
        Raises BadRequest.
        """
        at = f"graph.launches[{len(self._launches)}]"
        _check_kernel(kernel, f"{at}.kernel")
        module = kernel.module.hash
        launch = Launch(
            module=module,
            kernel=kernel.name,
            grid=_dims(grid, f"{at}.grid"),
            block=_dims(block, f"{at}.block"),
            args=tuple(self._argument(arg, f"{at}.args[{i}]") for i, arg in enumerate(args)),
            shared_bytes=_whole(shared_bytes, f"{at}.shared_bytes"),
        )
        check_shape(launch, at)
        self._modules[module] = kernel.module
        self._launches.append(launch)
        self._frozen = None

    def call(self, builtin: str, *args: Argument, **attrs: Attribute) -> None:
        """Append a launch of a built-in: ``graph.call("gemm", a, b, c, transpose_b=True)``. docs/builtins.md has them.

        Its arguments are buffers and numbers: scalars of the graph, NumPy's, or plain Python ones.

        Raises ModuleRejected if there is no such built-in, BadArguments naming what does not fit its signature. One
        with a dot in its name comes from another package; where that is not installed, the worker checks.
        """
        at = f"graph.launches[{len(self._launches)}]"
        launch = Launch(
            module=BUILTINS,
            kernel=builtin,
            args=tuple(self._argument(_sized(arg), f"{at}.args[{i}]") for i, arg in enumerate(args)),
            attrs={name: _attribute(value) for name, value in attrs.items()},
        )
        if "." not in builtin or find_builtin(builtin):  # else it is one that only the workers have
            declared: dict[str, Buffer | Scalar] = {each.name: each for each in self._buffers}
            declared.update((each.name, each) for each in self._scalars)
            resolve_call(launch, at, declared)
        self._launches.append(launch)
        self._frozen = None

    @property
    def launches(self) -> int:
        """How many launches it has so far."""
        return len(self._launches)

    def freeze(self, limits: GraphLimits | None = None) -> GraphSpec:
        """The graph as checked, immutable data. Raises BadRequest naming the place of the first mistake."""
        if self._frozen is None or self._frozen.iterations != self.iterations or self._frozen.name != self.name:
            spec = GraphSpec(
                name=self.name,
                buffers=tuple(self._buffers),
                scalars=tuple(self._scalars),
                modules=dict(self._modules),
                launches=tuple(self._launches),
                iterations=_whole(self.iterations, "graph.iterations"),
            )
            self._frozen = check_graph(spec, limits or GraphLimits())
        return self._frozen

    def to_json(self) -> bytes:
        """The graph as JSON, as a request written by hand holds it under ``"graph"``.

        Raises BadRequest for what JSON cannot say: an infinite number, or one that is none.
        """
        spec = self.freeze()
        check_finite(spec)
        return msgspec.json.format(msgspec.json.encode(spec))

    @classmethod
    def from_json(cls, source: str | Path | bytes, *, limits: GraphLimits | None = None) -> Graph:
        """A graph from a JSON file, or from the bytes that ``to_json`` gave. Raises BadRequest, and OSError."""
        body = source if isinstance(source, bytes) else Path(source).read_bytes()
        spec = check_graph(_specs.read(body, json=True, prefix="graph"), limits or GraphLimits())
        graph = cls(spec.name)
        graph.iterations = spec.iterations
        graph._buffers, graph._scalars = list(spec.buffers), list(spec.scalars)
        graph._modules, graph._launches = dict(spec.modules), list(spec.launches)
        graph._declared = {id(each) for each in (*spec.buffers, *spec.scalars)}
        graph._frozen = spec
        return graph

    def __repr__(self) -> str:
        return (
            f"<Graph {self.name!r}: {len(self._launches)} launches, {len(self._buffers)} buffers, "
            f"{self.iterations} iterations>"
        )

    def _declare(
        self,
        name: str,
        role: Role,
        shape: Shape | None,
        dtype: Any,
        nbytes: int | None,
        *,
        const: bool = False,
    ) -> Buffer:
        at = f"graph.buffers[{len(self._buffers)}]"
        buffer = declared_buffer(name, role, shape, dtype, nbytes, at, const=const)
        self._buffers.append(buffer)
        self._declared.add(id(buffer))
        self._frozen = None
        return buffer

    def _argument(self, arg: Argument, at: str) -> str | Constant:
        match arg:
            case Buffer() | Scalar():
                if id(arg) not in self._declared:
                    raise BadRequest(f"{arg.name!r} was declared on another graph", at=at)
                return arg.name
            case bytes():
                return Constant(dtype="bytes", data=arg)
            case np.void():
                return Constant(dtype="bytes", data=arg.tobytes())
            case np.complexfloating():
                return Constant(dtype="bytes", data=arg.tobytes())
            case np.generic():
                return Constant(dtype=canonical(arg.dtype) or arg.dtype.name, value=arg.item())
            case bool() | int() | float():
                raise BadRequest(
                    f"a Python {type(arg).__name__} has no size: use np.int32(...), np.float32(...) or the like",
                    at=at,
                )
        raise BadRequest(
            f"cannot pass a {type(arg).__name__} to a kernel: it takes buffers and scalars of this graph, and "
            "constants such as np.int32(...)",
            at=at,
        )


def declared_buffer(
    name: str, role: Role, shape: Shape | None, dtype: Any, nbytes: int | None, at: str, *, const: bool = False
) -> Buffer:
    """A buffer as a person declares it, checked. Raises BadRequest."""
    dims = None if shape is None else _dims(shape, f"{at}.shape")
    given = Buffer(
        name=name,
        role=role,
        nbytes=-1 if nbytes is None else _whole(nbytes, f"{at}.nbytes"),
        dtype=None if dtype is None else canonical(dtype) or str(dtype),
        shape=(dims,) if isinstance(dims, int) else dims,
        const=const,
    )
    return check_buffer(given, at, UNLIMITED)


def declared_scalar(name: str, dtype: Any, default: Number | None, at: str) -> Scalar:
    """A scalar as a person declares it, checked. Raises BadRequest."""
    given = Scalar(name=name, dtype=canonical(dtype) or str(dtype), default=_number(default, f"{at}.default"))
    return check_scalar(given, at)


def _check_kernel(kernel: object, at: str) -> None:
    if not isinstance(kernel, Kernel):
        example = kernel if isinstance(kernel, str) else "name"
        raise BadRequest(
            f"expected a kernel of a module, module.kernel({example!r}), given a {type(kernel).__name__}", at=at
        )


def _dims(value: int | Sequence[int], at: str) -> int | tuple[int, ...]:
    if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes)):
        return tuple(_whole(each, at) for each in value)
    return _whole(value, at)


def _sized(arg: Argument) -> Argument:
    """A plain Python number as NumPy's of the same meaning; what it cannot hold is left for the check to refuse."""
    if isinstance(arg, bool):
        return np.bool_(arg)
    if isinstance(arg, float):
        return np.float64(arg)
    if type(arg) is int and -(2**63) <= arg < 2**63:
        return np.int64(arg)
    return arg


def _attribute(value: Any) -> Any:
    """Lists as tuples, NumPy's numbers as Python's."""
    if isinstance(value, (list, tuple)):
        return tuple(_attribute(each) for each in value)
    return value.item() if isinstance(value, np.generic) else value


def _whole(value: Any, at: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise BadRequest(f"expected a whole number, given {value!r:.60} ({type(value).__name__})", at=at) from None


def _number(value: Any, at: str) -> Number | None:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is not None and not isinstance(plain, (bool, int, float)):
        raise BadRequest(f"expected a number, given {value!r:.60}", at=at)
    return plain
