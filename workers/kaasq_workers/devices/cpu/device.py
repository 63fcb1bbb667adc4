"""CpuDevice: the device protocol on the host's own cores. Everything is synchronous; launches release the GIL."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from kaasq.builtins import Call
from kaasq.errors import KernelFailed, ModuleRejected
from kaasq.model import Dim3, Module, Number
from kaasq_workers.devices.code_cache import CodeCache
from kaasq_workers.devices.cpu.builder import Builder
from kaasq_workers.devices.cpu.builtins import CpuOperation, prepare
from kaasq_workers.devices.cpu.memory import Allocator, CpuMemory, default_limit
from kaasq_workers.devices.cpu.module import CpuKernel, CpuModule, Runtime
from kaasq_workers.devices.cpu.processor import processor_name
from kaasq_workers.devices.cpu.toolchain import find_toolchain, no_compiler
from kaasq_workers.devices.protocol import Arguments, Limits, LoadedKernel, Mark, Memory, Operation, Stream

SHARED_PER_BLOCK = 232448  # 227 KiB, an H100's
FENCE_BYTES = 256 << 20  # of address space, not of memory


class CpuMark:
    """A moment: what came before it has run."""

    def __init__(self) -> None:
        self._ns = time.perf_counter_ns()

    @property
    def passed(self) -> bool:
        """What is behind it has run."""
        return True

    def us_since(self, earlier: Mark) -> float:
        """Microseconds between two marks."""
        assert isinstance(earlier, CpuMark)
        return (self._ns - earlier._ns) / 1e3


class CpuStream:
    """Runs everything at once, in the calling thread or with the help of the pool."""

    def __init__(self, device: CpuDevice) -> None:
        self._device = device

    def copy_in(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Host to device. Raises ValueError if it does not fit."""
        view = _bytes(memory, offset, data.nbytes)
        view[:] = np.frombuffer(data, np.uint8)

    def copy_out(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Device to host. Raises ValueError if it does not fit."""
        np.frombuffer(data, np.uint8)[:] = _bytes(memory, offset, data.nbytes)

    def copy(self, destination: Memory, source: Memory) -> None:
        """Device to device."""
        _bytes(destination, 0, source.nbytes)[:] = _bytes(source, 0, source.nbytes)

    def zero(self, memory: Memory) -> None:
        """Fill with zeros."""
        _bytes(memory, 0, memory.nbytes).fill(0)

    def launch(self, kernel: LoadedKernel, grid: Dim3, block: Dim3, arguments: Arguments, shared_bytes: int) -> None:
        """Run a kernel to its end. Raises KernelFailed if it is refused or fails."""
        assert isinstance(kernel, CpuKernel)
        self._device.launch(kernel, grid, block, arguments.pointers, shared_bytes)

    def operate(self, operation: Operation, operands: Mapping[str, Memory | Number]) -> None:
        """Run a built-in to its end."""
        assert isinstance(operation, CpuOperation)
        operation.run(operands)

    def record(self, calls: Sequence[Callable[[Stream], None]]) -> None:
        """Nothing is gained: a launch costs what the call costs."""

    def mark(self, again: Mark | None = None) -> CpuMark:  # noqa: ARG002 - a moment costs nothing to keep
        """Mark this point."""
        return CpuMark()

    def wait(self, mark: Mark) -> None:
        """Nothing is outstanding, ever."""

    def synchronize(self) -> None:
        """Nothing is outstanding, ever."""


class CpuDevice:
    """The host's cores as a device: all that this process may run on.

    ``cache_dir``: where compiled code is kept. ``compiler``: a command, where g++, clang++ or ziglang is not what
    should be used. ``memory_limit`` in bytes; without one, half of the memory, divided by the ``sharing`` processes
    that open it. ``guard``: catch what a kernel does to memory that is not mapped, and put each allocation between
    memory that is not. Raises BadRequest for a compiler that is not there and a ``cache_dir`` that others can write to.
    """

    name = "cpu"

    def __init__(
        self,
        *,
        cache_dir: Path,
        compiler: str | None = None,
        memory_limit: int | None = None,
        sharing: int = 1,
        guard: bool = False,
    ) -> None:
        self.threads = len(os.sched_getaffinity(0))
        self.limits = Limits(memory=memory_limit or default_limit() // sharing, shared_per_block=SHARED_PER_BLOCK)
        self.poisoned = False
        self._guard = guard
        self._allocator = Allocator(self.limits.memory, FENCE_BYTES if guard else 0)
        toolchain = find_toolchain(compiler)
        self._cache = CodeCache(cache_dir)
        self._builder = Builder(toolchain, self._cache, guard=guard) if toolchain else None
        compiler_name = toolchain.name if toolchain else "no C++ compiler"
        self.description = f"{processor_name()}, {self.threads} threads, {compiler_name}"
        self._runtime: Runtime | None = None
        self._lock = threading.Lock()

    def load(self, module: Module, kernels: tuple[str, ...]) -> CpuModule:
        """Compile a module, or find it compiled. Raises ModuleRejected."""
        if module.kind != "source":
            raise ModuleRejected(
                f"a CPU cannot run {module.kind}, which is code for a GPU: send the module's CUDA C++ source",
                kind=module.kind,
            )
        if self._builder is None:
            raise no_compiler()
        self._load_runtime(self._builder)
        return CpuModule(self._builder.module(module, kernels), kernels, self._cache.work)

    def prepare(self, call: Call) -> CpuOperation:
        """Find a built-in. Raises ModuleRejected."""
        return prepare(call)

    def allocate(self, nbytes: int) -> CpuMemory:
        """Page-aligned memory. Raises OutOfMemory."""
        return self._allocator.allocate(nbytes)

    def pin(self, data: memoryview) -> None:
        """Nothing is gained: a copy is a copy."""

    def stream(self) -> CpuStream:
        """A stream; all streams are alike."""
        return CpuStream(self)

    def launch(self, kernel: CpuKernel, grid: Dim3, block: Dim3, arguments: int, shared_bytes: int) -> None:
        """Run a kernel to its end. Raises KernelFailed.

        Plans are checked before, with better words: this is only what would otherwise end the process.
        """
        threads = block[0] * block[1] * block[2]
        if not (
            min(*grid, *block) > 0
            and max(grid) <= self.limits.grid[0]
            and threads <= kernel.threads_per_block
            and 0 <= shared_bytes <= SHARED_PER_BLOCK
        ):
            raise KernelFailed(
                f"kernel {kernel.name!r} cannot run with grid {grid}, block {block} and {shared_bytes} bytes of shared "
                f"memory: a block has at most {kernel.threads_per_block} threads and {SHARED_PER_BLOCK} bytes",
                kernel=kernel.name,
            )
        assert self._runtime is not None
        try:
            self._runtime.launch(kernel, grid, block, arguments, shared_bytes, threads=self.threads, guard=self._guard)
        except KernelFailed as error:
            # A kernel that strays so far may have written elsewhere before: no other request is to meet that.
            self.poisoned = self.poisoned or "unmapped" in error.detail
            raise

    def close(self) -> None:
        """Nothing to release but what the caller holds: modules and memory go with their last reference."""

    def _load_runtime(self, builder: Builder) -> None:
        with self._lock:
            if self._runtime is None:
                self._runtime = Runtime.load(builder.runtime_name, builder.runtime, self._cache.work)


def _bytes(memory: Memory, offset: int, nbytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    assert isinstance(memory, CpuMemory)
    if offset < 0 or offset + nbytes > memory.nbytes:
        raise ValueError(f"{nbytes} bytes at offset {offset} are outside of {memory.nbytes} bytes of memory")
    return memory.bytes[offset : offset + nbytes]
