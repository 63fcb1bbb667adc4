"""A built-in made ready on the GPU: arguments packed, so that a call writes its addresses and numbers and launches."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cupy.cuda import driver

from kaasq.builtins import Call
from kaasq.model import Number
from kaasq_workers.devices.cuda.builtins.products import Product, scalar
from kaasq_workers.devices.cuda.builtins.steps import SCRATCH, Figure, KernelStep, Pointer, ProductStep
from kaasq_workers.devices.cuda.module import CudaKernel
from kaasq_workers.devices.protocol import Memory

Operands = Mapping[str, Any]
_SLOT_BYTES = 16  # enough for every value's alignment


class Queued(Protocol):
    """What an operation consists of."""

    def queue(self, operands: Operands, stream: Any) -> None:
        """Queue it on a CudaStream."""


class CudaOperation:
    """One built-in of a plan. Its arguments are read when it is queued, so it may be queued again at once."""

    def __init__(self, call: Call, parts: tuple[Queued, ...]) -> None:
        self.call = call
        self._parts = parts

    def queue(self, operands: Mapping[str, Memory | Number], stream: Any) -> None:
        """Queue it on a CudaStream. Raises CUDA's errors and ProductFailed."""
        for part in self._parts:
            part.queue(operands, stream)


class KernelPart:
    """A launch."""

    def __init__(self, step: KernelStep, kernel: CudaKernel) -> None:
        self._kernel = kernel  # kept loaded
        self._addresses: list[tuple[int, str, int]] = []
        self._scratch: list[tuple[int, int]] = []
        self._figures: list[tuple[int, int, str, Callable[[Number], bytes]]] = []
        values: list[bytes] = []
        at = 0
        places: list[int] = []
        for arg in step.args:
            value = arg if isinstance(arg, bytes) else bytes(8)
            match arg:
                case Pointer(name=name, offset=offset) if name == SCRATCH:
                    self._scratch.append((at // 8, offset))
                case Pointer(name=name, offset=offset) if name:
                    self._addresses.append((at // 8, name, offset))
                case Figure():
                    value = arg.packed(0)
                    self._figures.append((at, len(value), arg.name, arg.packed))
            places.append(at)
            value += bytes(-len(value) % _SLOT_BYTES)
            values.append(value)
            at += len(value)
        data = b"".join(values)
        self._words = (ctypes.c_uint64 * (len(data) // 8 + 1)).from_buffer_copy(data + bytes(8))
        self._base = ctypes.addressof(self._words)
        self._pointers = (ctypes.c_void_p * len(places))(*(self._base + each for each in places))
        self._launch = (kernel.function, *step.grid, *step.block, 0)
        self._arguments = ctypes.addressof(self._pointers)

    def queue(self, operands: Operands, stream: Any) -> None:
        """Launch it."""
        words = self._words
        for at, name, offset in self._addresses:
            words[at] = operands[name].address + offset
        for at, offset in self._scratch:
            words[at] = stream.workspace.scratch + offset
        for at, size, name, packed in self._figures:
            ctypes.memmove(self._base + at, packed(operands[name]), size)
        driver.launchKernel(*self._launch, stream.pointer, self._arguments, 0)


class ProductPart:
    """A matrix product."""

    def __init__(self, step: ProductStep, product: Product) -> None:
        self._product = product
        self._matrices = tuple((each.at.name, each.at.offset) for each in (step.a, step.b, step.c))
        self._held: list[Any] = []
        self._factors: list[tuple[Any, str]] = []
        self._alpha, self._beta = (self._factor(step, each) for each in (step.alpha, step.beta))

    def _factor(self, step: ProductStep, given: Figure | float) -> int:
        held = scalar(step.dtype)
        self._held.append(held)
        if isinstance(given, Figure):
            self._factors.append((held, given.name))
        else:
            held.value = given
        return ctypes.addressof(held)

    def queue(self, operands: Operands, stream: Any) -> None:
        """Have the library queue it."""
        a, b, c = [
            (stream.workspace.scratch if name == SCRATCH else operands[name].address) + offset
            for name, offset in self._matrices
        ]
        for held, name in self._factors:
            held.value = operands[name]
        workspace = stream.workspace.product if self._product.workspace_bytes else 0
        self._product.queue(a, b, c, self._alpha, self._beta, workspace, stream)
