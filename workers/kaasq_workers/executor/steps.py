"""The steps of a plan, ready but for a request's addresses and scalars: a kernel to launch, or a built-in to run."""

from __future__ import annotations

from copy import copy
from typing import Protocol

from kaasq.builtins import Parameter
from kaasq.dtypes import unpack_number
from kaasq.errors import BadRequest
from kaasq.model import Constant, Dim3, Launch, Number, dim3
from kaasq_workers.devices.protocol import Device, LoadedKernel, Memory, Operation, Recording, Stream
from kaasq_workers.executor.arguments import PackedArguments, pointer


class Step(Protocol):
    """A kernel's launch or a built-in's run."""

    def set_memory(self, position: int, memory: Memory) -> None:
        """Bind a buffer to an argument."""

    def set_number(self, position: int, value: bytes) -> None:
        """Bind a scalar, packed, to an argument."""

    def launch(self, stream: Stream) -> None:
        """Queue it."""

    def update(self, recording: Recording, index: int) -> bool:
        """Bring its launch at that place of a recording up to date. False if that is not possible."""

    def copy(self) -> Step:
        """The same with arguments of its own."""


class KernelStep:
    """One launch of a module's kernel."""

    def __init__(self, kernel: LoadedKernel, launch: Launch, arguments: PackedArguments) -> None:
        self.kernel = kernel
        self.grid: Dim3 = dim3(launch.grid)
        self.block: Dim3 = dim3(launch.block)
        self.shared_bytes = launch.shared_bytes
        self.arguments = arguments

    def set_memory(self, position: int, memory: Memory) -> None:
        """Bind a buffer."""
        self.arguments.set(position, pointer(memory.address))

    def set_number(self, position: int, value: bytes) -> None:
        """Bind a scalar, packed."""
        self.arguments.set(position, value)

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        stream.launch(self.kernel, self.grid, self.block, self.arguments, self.shared_bytes)

    def update(self, recording: Recording, index: int) -> bool:
        """Bring its launch at that place of a recording up to date."""
        return recording.update(index, self.kernel, self.grid, self.block, self.arguments, self.shared_bytes)

    def copy(self) -> KernelStep:
        """The same with arguments of its own."""
        copied = copy(self)
        copied.arguments = self.arguments.copy()
        return copied


class CallStep:
    """One run of a built-in."""

    def __init__(self, operation: Operation, launch: Launch) -> None:
        self.operation = operation
        call = operation.call
        parameters = call.builtin.parameters
        self._names = [each.name for each in parameters[: len(launch.args)]]
        self._operands: dict[str, Memory | Number] = {
            each.name: each.default for each in parameters if isinstance(each.default, (int, float))
        }
        self._operands.update(
            (name, arg.value) for name, arg in zip(self._names, launch.args, strict=True) if isinstance(arg, Constant)
        )
        self.written = {call.operands[each.name].name for each in parameters if self._writes(each.name, each.access)}
        """Names of the graph's buffers that it writes to."""
        self.overwritten = {
            call.operands[each.name].name
            for each in parameters
            if self._writes(each.name, each.access) and self._unread(each)
        }
        """Those of them whose contents before do not matter."""

    def set_memory(self, position: int, memory: Memory) -> None:
        """Bind a buffer."""
        self._operands[self._names[position]] = memory

    def set_number(self, position: int, value: bytes) -> None:
        """Bind a scalar, packed: so it is rounded as a kernel would see it."""
        name = self._names[position]
        self._operands[name] = unpack_number(self.operation.call.dtype(name), value)

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        stream.operate(self.operation, self._operands)

    def update(self, recording: Recording, index: int) -> bool:  # noqa: ARG002
        """Not possible: what a built-in queues is its own business."""
        return False

    def copy(self) -> CallStep:
        """The same with operands of its own. The operation reads them when it is queued, so all share it."""
        copied = copy(self)
        copied._operands = dict(self._operands)
        return copied

    def _writes(self, name: str, access: str) -> bool:
        return access in {"writes", "updates"} and self.operation.call.has(name)

    def _unread(self, parameter: Parameter) -> bool:
        if not all(each.nbytes for each in self.operation.call.operands.values()):
            return False  # a product along nothing may be left as it is
        if parameter.access == "writes":
            return True
        factor = parameter.scaled_by
        bound = factor is not None and self.operation.call.has(factor) and self.operation.call.operands[factor].name
        return factor is not None and not bound and self._operands[factor] == 0


def check_launch(launch: Launch, place: str, kernel: LoadedKernel, device: Device) -> None:
    """Whether the device and this kernel can take a launch of that size. Raises BadRequest."""
    limits = device.limits
    for what, given, bounds in (("grid", launch.grid, limits.grid), ("block", launch.block, limits.block)):
        for axis, size, bound in zip("xyz", dim3(given), bounds, strict=True):
            if size > bound:
                raise BadRequest(f"{what}.{axis} is {size}; {device.name} takes at most {bound}", at=place)
    x, y, z = dim3(launch.block)
    most = min(limits.threads_per_block, kernel.threads_per_block)
    if x * y * z > most:
        raise BadRequest(
            f"a block of {x * y * z} threads; {kernel.name!r} takes at most {most} on {device.name}", at=place
        )
    shared = launch.shared_bytes + kernel.static_shared_bytes
    if shared > limits.shared_per_block:
        raise BadRequest(
            f"{shared} bytes of shared memory ({kernel.static_shared_bytes} of them static); "
            f"{device.name} has {limits.shared_per_block} a block",
            at=place,
        )
