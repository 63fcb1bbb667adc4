"""What the engine needs of a device: load modules, hold memory, run copies and launches in order on a stream.

Siblings: the packages cpu and cuda beside this file; others join through the entry point group ``kaasq.devices``.
Left out on purpose: caching, eviction, argument checks and plans. They are the engine's, the same for every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from kaasq.builtins import Call
from kaasq.model import Dim3, Module, Number


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one launch and one device can take; sizes in bytes."""

    memory: int
    shared_per_block: int
    in_flight: int = 1
    """Requests that gain from being queued at once, on streams of their own."""
    threads_per_block: int = 1024
    grid: Dim3 = (2**31 - 1, 65535, 65535)
    block: Dim3 = (1024, 1024, 64)


class Parameter(NamedTuple):
    """One parameter in a kernel's real parameter table: where it lies and its size in bytes.

    ``pointer``: whether it is a pointer; None where the table does not say (it has sizes only).
    """

    offset: int
    size: int
    pointer: bool | None = None


class LoadedKernel(Protocol):
    """A kernel ready to launch. ``parameters`` is None where the format carries no table."""

    name: str
    parameters: tuple[Parameter, ...] | None
    threads_per_block: int
    """The most threads a block of this kernel may have (registers, launch bounds)."""
    static_shared_bytes: int


class LoadedModule(Protocol):
    """A module on the device. It stays loaded until unloaded or collected."""

    stateful: bool
    """Whether it has, or may have, variables that a launch finds as another left them (``__device__``)."""

    def kernel(self, name: str) -> LoadedKernel:
        """The kernel of that name (one of those named to ``load``). Raises ModuleRejected naming those there are."""

    def unload(self) -> None:
        """Give the device's memory back. Only when none of its launches is still running."""


class Memory(Protocol):
    """Device memory. ``address`` is what a kernel gets as its pointer, aligned to 256 bytes."""

    address: int
    nbytes: int

    def part(self, offset: int, nbytes: int) -> Memory:
        """Memory in the same allocation, ``offset`` bytes from here (unchecked, and may be negative in a part).

        The parts and the whole are freed together.
        """

    def free(self) -> None:
        """Give it back; idempotent. Only when nothing queued uses it any more."""


class Pinned(Protocol):
    """Host memory that the device reads by itself."""

    def release(self) -> None:
        """Pinned no longer; idempotent. Only when nothing queued reads it any more."""


class Mark(Protocol):
    """A point in a stream."""

    @property
    def passed(self) -> bool:
        """Whether the stream has passed it, or failed before. Does not wait."""

    def us_since(self, earlier: Mark) -> float:
        """Microseconds between two marks that their stream has passed (synchronize first)."""


class Arguments(Protocol):
    """A launch's arguments, packed: ``pointers`` is the address of a C array of pointers to the values, in order."""

    pointers: int
    count: int


class Operation(Protocol):
    """A built-in made ready for one launch of a graph: its algorithm chosen, its code loaded, its workspace there."""

    call: Call


class Recording(Protocol):
    """Launches and operations that a device repeats as one."""

    def replay(self, stream: Stream) -> None:
        """Queue all of them. Raises KernelFailed."""

    def update(
        self, index: int, kernel: LoadedKernel, grid: Dim3, block: Dim3, arguments: Arguments, shared_bytes: int
    ) -> bool:
        """Give the launch that was recorded at that place other arguments. False if that is not possible."""


class Stream(Protocol):
    """Work in order. Calls may return before the work is done; ``synchronize`` waits and reports what failed."""

    def copy_in(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Host to device. ``data`` must stay unchanged until the stream has passed."""

    def copy_out(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Device to host, into writable ``data``, valid once the stream has passed."""

    def copy(self, destination: Memory, source: Memory) -> None:
        """Device to device, the whole of ``source``."""

    def zero(self, memory: Memory) -> None:
        """Fill with zeros."""

    def launch(self, kernel: LoadedKernel, grid: Dim3, block: Dim3, arguments: Arguments, shared_bytes: int) -> None:
        """Run a kernel. Arguments have been checked against its parameters. Raises KernelFailed if refused."""

    def operate(self, operation: Operation, operands: Mapping[str, Memory | Number]) -> None:
        """Run a built-in on memory and numbers, by its parameters' names. Raises KernelFailed."""

    def record(self, calls: Sequence[Callable[[Stream], None]]) -> Recording | None:
        """Record what each of those calls queues on the stream they are given, and run none of it.

        None if this device gains nothing by that, or cannot for these.
        """

    def mark(self, again: Mark | None = None) -> Mark:
        """Mark this point. ``again``: a mark of this stream that is no longer needed, to be moved here."""

    def wait(self, mark: Mark) -> None:
        """Have what is queued from here on wait until another stream has passed its mark."""

    def synchronize(self) -> None:
        """Wait until all is done. Raises KernelFailed; the device may be unusable then (``Device.poisoned``)."""


class Device(Protocol):
    """One GPU, or the CPU standing in for one. Used by one executor process, from one thread."""

    name: str
    """``cpu`` or ``cuda:0``."""
    description: str
    """For people: the model's name and what compiles for it."""
    limits: Limits
    poisoned: bool
    """After an error that only a new process recovers from."""

    def load(self, module: Module, kernels: tuple[str, ...]) -> LoadedModule:
        """Compile (source) or load (binary) a module so that those kernels can be launched.

        Raises ModuleRejected: diagnostics in ``message`` and in full in ``log``, or why this device cannot run the
        module's kind. Compiled source is cached on disk by hash.
        """

    def prepare(self, call: Call) -> Operation:
        """Make a built-in ready. Raises ModuleRejected if this device has none of that name, OutOfMemory."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory with undefined contents. Raises OutOfMemory with fields needed and capacity."""

    def pin(self, data: memoryview) -> Pinned | None:
        """Have copies from this memory run at the device's full speed until released, for as long as it stays mapped.

        None where that cannot be had or gains nothing: copies work all the same.
        """

    def stream(self) -> Stream:
        """A new stream."""

    def close(self) -> None:
        """Release the device. Idempotent."""
