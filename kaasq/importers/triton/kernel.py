"""A compiled Triton kernel: what it takes, and how it becomes a launch or a whole graph. Pure; needs no Triton."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kaasq.errors import BadRequest
from kaasq.graph import Argument, Graph, Shape
from kaasq.importers.triton.arguments import number, pointee
from kaasq.importers.triton.types import Parameter
from kaasq.model import Buffer, Module, Number, Role, Scalar

WARP_THREADS = 32

Grid = int | Sequence[int] | Callable[[Mapping[str, Any]], int | Sequence[int]]

_NULL = np.uint64(0)


@dataclass(frozen=True, kw_only=True, eq=False)
class TritonKernel:
    """A Triton kernel as machine code for one architecture, made by ``compile``.

    ``parameters`` are those a launch gives, in the kernel's order: what was compiled in (``constants``) is not among
    them. ``scratch`` has the bytes per program of each pointer that Triton appends to them; of 0 bytes it may be null.
    """

    module: Module
    name: str
    target: str
    num_warps: int
    shared_bytes: int
    parameters: tuple[Parameter, ...]
    constants: Mapping[str, Any]
    multiples_of_16: frozenset[str]
    scratch: tuple[int, ...]

    @property
    def block(self) -> int:
        """Threads of a block, which is one program."""
        return self.num_warps * WARP_THREADS

    def launch(self, graph: Graph, *, grid: Grid, args: Mapping[str, Buffer | Scalar | np.generic | Number]) -> None:
        """Append a launch to the graph: ``grid`` programs, and an argument for every parameter by its name.

        A pointer takes a buffer of the graph whose dtype is that of its elements (bf16 as uint16, fp8 as uint8). A
        number takes a number or a scalar of the graph. ``grid`` may be a function of the constants, as in Triton.
        Scratch memory that the kernel needs becomes temps of the graph. Raises BadRequest naming the argument.
        """
        self._check_names(args, "args")
        dims = self._dims(grid)
        values = [self._argument(each, args[each.name]) for each in self.parameters]
        programs = math.prod(dims)
        index = graph.launches  # names, unlike counters, must be the same whenever the graph is built
        for position, nbytes in enumerate(self.scratch):
            if nbytes and programs > 0:
                values.append(graph.temp(f"{self.name}.scratch{position}.launch{index}", nbytes=nbytes * programs))
            else:
                values.append(_NULL)
        graph.launch(
            self.module.kernel(self.name), grid=dims, block=self.block, args=values, shared_bytes=self.shared_bytes
        )

    def graph(
        self,
        name: str,
        *,
        grid: Grid,
        inputs: Mapping[str, Shape] | None = None,
        outputs: Mapping[str, Shape] | None = None,
        inouts: Mapping[str, Shape] | None = None,
        temps: Mapping[str, Shape] | None = None,
        scalars: Mapping[str, Number | np.generic] | None = None,
        const: bool = False,
    ) -> Graph:
        """A graph of this one launch. Its buffers and scalars are called as the kernel's parameters.

        Every pointer has a shape under one of the roles; its dtype is that of its elements. Numbers in ``scalars``
        become part of the graph, those left out are the request's to give. ``const``: the kernel promises not to write
        to its inputs. Raises BadRequest naming the parameter.
        """
        roles: dict[Role, Mapping[str, Shape]] = {
            "input": inputs or {},
            "output": outputs or {},
            "inout": inouts or {},
            "temp": temps or {},
        }
        shapes: dict[str, tuple[Role, Shape]] = {}
        fixed = scalars or {}
        for role, given in roles.items():
            for each, shape in given.items():
                if each in shapes:
                    raise BadRequest(f"{each!r} has a shape as {shapes[each][0]} already", at=f"{role}s.{each}")
                shapes[each] = role, shape
        for kind, names in (("pointer", shapes), ("number", fixed)):
            known = {each.name for each in self.parameters if each.pointer == (kind == "pointer")}
            for each in names:
                if each not in known:
                    raise BadRequest(
                        f"kernel {self.name!r} has no {kind} {each!r}; it has {self._signature()}", at=each
                    )
        graph = Graph(name)
        args: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in shapes:
                role, shape = shapes[parameter.name]
                args[parameter.name] = _declare(graph, role, parameter, shape, const=const)
            elif parameter.pointer:
                raise BadRequest("a pointer needs a shape: in inputs, outputs, inouts or temps", at=parameter.name)
            elif parameter.name in fixed:
                args[parameter.name] = fixed[parameter.name]
            else:
                args[parameter.name] = graph.scalar(parameter.name, parameter.dtype)
        self.launch(graph, grid=grid, args=args)
        return graph

    def _dims(self, grid: Grid) -> tuple[int, ...]:
        given = grid(dict(self.constants)) if callable(grid) else grid
        try:
            return tuple(operator.index(each) for each in (given if isinstance(given, Sequence) else (given,)))
        except TypeError:
            raise BadRequest(
                f"expected one to three whole numbers, or a function of the constants that gives them, "
                f"given {given!r:.60}",
                at="grid",
            ) from None

    def _check_names(self, args: Mapping[str, object], at: str) -> None:
        names = {each.name for each in self.parameters}
        for name in args:
            if name in self.constants:
                raise BadRequest(
                    f"{name!r} was compiled into kernel {self.name!r} as {self.constants[name]!r:.60}; leave it out, "
                    "or compile the kernel for another value",
                    at=f"{at}.{name}",
                )
            if name not in names:
                raise BadRequest(
                    f"kernel {self.name!r} has no parameter {name!r}; it has {self._signature()}", at=f"{at}.{name}"
                )
        missing = [each.name for each in self.parameters if each.name not in args]
        if missing:
            raise BadRequest(f"kernel {self.name!r} also takes {', '.join(missing)}", at=at)

    def _signature(self) -> str:
        return ", ".join(f"{each.name}: {each.type}" for each in self.parameters) or "none"

    def _argument(self, parameter: Parameter, value: object) -> Argument:
        at = f"args.{parameter.name}"
        if parameter.pointer:
            return pointee(parameter, value, at)
        return number(parameter, value, at, multiple_of_16=parameter.name in self.multiples_of_16)


def _declare(graph: Graph, role: Role, parameter: Parameter, shape: Shape, *, const: bool) -> Buffer:
    match role:
        case "input":
            return graph.input(parameter.name, shape=shape, dtype=parameter.dtype, const=const)
        case "output":
            return graph.output(parameter.name, shape=shape, dtype=parameter.dtype)
        case "inout":
            return graph.inout(parameter.name, shape=shape, dtype=parameter.dtype)
        case "temp":
            return graph.temp(parameter.name, shape=shape, dtype=parameter.dtype)
