"""A CUDA stream: copies, launches and marks in order, on its own pinned staging memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cupy
from cupy.cuda import driver, runtime

from kaasq.errors import KernelFailed, OutOfMemory
from kaasq.model import Dim3, Number
from kaasq_workers.devices.cuda.addresses import AddressReader
from kaasq_workers.devices.cuda.builtins.operation import CudaOperation
from kaasq_workers.devices.cuda.builtins.products import ProductFailed
from kaasq_workers.devices.cuda.builtins.workspaces import Workspace
from kaasq_workers.devices.cuda.errors import Poisonable, run_error
from kaasq_workers.devices.cuda.large_copies import FROM_BYTES as LARGE_BYTES
from kaasq_workers.devices.cuda.large_copies import LargeCopies
from kaasq_workers.devices.cuda.module import CudaKernel
from kaasq_workers.devices.cuda.recording import CudaRecording, capture
from kaasq_workers.devices.cuda.staging import Staging
from kaasq_workers.devices.protocol import Arguments, LoadedKernel, Mark, Memory, Operation, Stream

SLOT_BYTES = 2 << 20
SLOTS = 4
# Up to here the driver itself takes pageable memory along with the command and returns at once, sooner than staging.
DIRECT_BYTES = 32 << 10
# Asking whether memory is pinned costs a microsecond, staging this much hardly more.
ASK_IF_PINNED_BYTES = 64 << 10

_CUDA_ERRORS = (runtime.CUDARuntimeError, driver.CUDADriverError)
_TO_DEVICE, _TO_HOST, _ON_DEVICE = runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost, runtime.memcpyDeviceToDevice
_NAMES_KEPT = 8
_NOT_READY = 600


class CudaMark:
    """A timing event."""

    __slots__ = ("event",)

    def __init__(self, event: Any) -> None:
        self.event = event

    @property
    def passed(self) -> bool:
        """Whether the stream has passed it. After a failure it has: waiting for the stream tells what it was."""
        return bool(runtime.eventQuery(self.event.ptr) != _NOT_READY)  # the bare status: nothing is raised

    def us_since(self, earlier: Mark) -> float:
        """Microseconds, to about half of one."""
        assert isinstance(earlier, CudaMark)
        return float(cupy.cuda.get_elapsed_time(earlier.event, self.event)) * 1000


class _SlotEvent:
    """A staging slot's event in this stream."""

    def __init__(self, stream: int) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)
        self._stream = stream

    def record(self) -> None:
        runtime.eventRecord(self._event.ptr, self._stream)

    def synchronize(self) -> None:
        self._event.synchronize()


class CudaStream:
    """Work in order on the GPU. Any call may report what failed earlier in the stream or beside it (KernelFailed).

    ``cupy`` is the stream for CuPy's own functions, ``pointer`` the driver's handle, which a CUDA graph is launched on
    (``cuda.core.Stream.from_handle``).
    """

    def __init__(self, device: Poisonable, large: LargeCopies) -> None:
        self._device = device
        self._large = large
        self.cupy = cupy.cuda.Stream(non_blocking=True)
        self.pointer: int = self.cupy.ptr
        self._address_of = AddressReader()
        self._staging: Staging | None = None
        self._pinned: Any = None
        self.workspace: Workspace | None = None
        """Memory of built-ins, where one needs it."""
        self._launched: dict[str, None] = {}  # names since the last synchronize, for messages

    def copy_in(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Host to device. Pinned memory is read by the GPU later; from pageable memory the bytes are taken now."""
        nbytes = _checked(memory, data, offset)
        if not nbytes:
            return
        source, target = self._address_of(data), memory.address + offset
        try:
            if nbytes <= DIRECT_BYTES or _is_pinned(source, nbytes):
                runtime.memcpyAsync(target, source, nbytes, _TO_DEVICE, self.pointer)
                return

            def send(at: int, slot: int, size: int) -> None:
                runtime.memcpyAsync(target + at, slot, size, _TO_DEVICE, self.pointer)

            if nbytes >= LARGE_BYTES:
                self._large.copies.copy_in(source, nbytes, self.pointer, send)
            else:
                self._stage().copy_in(source, nbytes, send)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "a copy to the device") from error

    def copy_out(self, memory: Memory, data: memoryview, offset: int = 0) -> None:
        """Device to host. Into pageable memory the last step is ``synchronize``'s; a large copy waits here."""
        nbytes = _checked(memory, data, offset)
        if data.readonly:
            raise ValueError("cannot copy out into read-only memory")
        if not nbytes:
            return
        source, target = memory.address + offset, self._address_of(data)
        try:
            # Even a few bytes go through pinned memory: into any other the runtime's copy waits for the stream.
            if _is_pinned(target, nbytes):
                runtime.memcpyAsync(target, source, nbytes, _TO_HOST, self.pointer)
                return

            def fetch(at: int, slot: int, size: int) -> None:
                runtime.memcpyAsync(slot, source + at, size, _TO_HOST, self.pointer)

            if nbytes >= LARGE_BYTES:
                self._large.copies.copy_out(target, nbytes, self.pointer, fetch)
            else:
                self._stage().copy_out(target, nbytes, data, fetch)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "a copy from the device") from error

    def copy(self, destination: Memory, source: Memory) -> None:
        """Device to device, the whole of ``source``."""
        if source.nbytes > destination.nbytes:
            raise ValueError(f"{source.nbytes} bytes do not fit into {destination.nbytes}")
        if not source.nbytes:
            return
        try:
            runtime.memcpyAsync(destination.address, source.address, source.nbytes, _ON_DEVICE, self.pointer)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "a copy on the device") from error

    def zero(self, memory: Memory) -> None:
        """Fill with zeros."""
        if not memory.nbytes:
            return
        try:
            runtime.memsetAsync(memory.address, 0, memory.nbytes, self.pointer)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "zeroing memory") from error

    def launch(self, kernel: LoadedKernel, grid: Dim3, block: Dim3, arguments: Arguments, shared_bytes: int) -> None:
        """Run a kernel. Raises KernelFailed if it is refused."""
        assert isinstance(kernel, CudaKernel)
        self._launched[kernel.name] = None
        if shared_bytes > kernel.shared_allowed:
            kernel.allow_shared(shared_bytes, self._device)
        try:
            # Of the ways to launch CuPy's thin wrapper costs least: plain numbers, no objects.
            driver.launchKernel(kernel.function, *grid, *block, shared_bytes, self.pointer, arguments.pointers, 0)
        except _CUDA_ERRORS as error:
            raise self._failed(error, f"a launch of {kernel.name!r} with grid {grid}, block {block}") from error

    def operate(self, operation: Operation, operands: Mapping[str, Memory | Number]) -> None:
        """Queue a built-in. Raises KernelFailed, OutOfMemory."""
        assert isinstance(operation, CudaOperation)
        name = operation.call.builtin.name
        self._launched[name] = None
        try:
            operation.queue(operands, self)
        except _CUDA_ERRORS as error:
            raise self._failed(error, f"built-in {name!r}") from error
        except ProductFailed as error:  # what made it fail, if that was earlier, comes out when waiting for the stream
            raise KernelFailed(f"{self._device.name} refused built-in {name!r}: {error}", kernel=name) from error
        except cupy.cuda.memory.OutOfMemoryError as error:  # of CuPy's own pool, which custom built-ins allocate from
            raise OutOfMemory(f"{self._device.name} has no memory left for built-in {name!r}: {error}") from error

    def record(self, calls: Sequence[Callable[[Stream], None]]) -> CudaRecording | None:
        """Record what those calls queue, as a CUDA graph; None if something in it cannot be recorded."""
        return capture(self, calls, self._device)

    def mark(self, again: Mark | None = None) -> CudaMark:
        """Mark this point."""
        assert again is None or isinstance(again, CudaMark)
        try:
            mark = again or CudaMark(cupy.cuda.Event())
            runtime.eventRecord(mark.event.ptr, self.pointer)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "marking the stream") from error
        return mark

    def wait(self, mark: Mark) -> None:
        """Have what is queued from here on wait for another stream's mark. The host does not wait."""
        assert isinstance(mark, CudaMark)
        try:
            runtime.streamWaitEvent(self.pointer, mark.event.ptr)
        except _CUDA_ERRORS as error:
            raise self._failed(error, "waiting for another stream") from error

    def synchronize(self) -> None:
        """Wait until all is done and copied out. Raises KernelFailed."""
        try:
            if self._staging is None:
                runtime.streamSynchronize(self.pointer)
            else:
                self._staging.drain(lambda: runtime.streamSynchronize(self.pointer))
        except _CUDA_ERRORS as error:
            raise self._failed(error, "synchronisation") from error
        self._launched.clear()

    def _stage(self) -> Staging:
        """The stream's pinned memory, taken when first needed."""
        if self._staging is None:
            self._pinned = cupy.cuda.PinnedMemory(SLOTS * SLOT_BYTES)
            events = [_SlotEvent(self.pointer) for _ in range(SLOTS)]
            self._staging = Staging(self._pinned.ptr, SLOT_BYTES, events)
        return self._staging

    def _failed(self, error: Exception, doing: str) -> Exception:
        failure = run_error(error, self._device, doing, tuple(self._launched)[:_NAMES_KEPT])
        if self._device.poisoned and self._staging is not None:
            self._staging.forget()  # nothing arrives any more; after a mere refusal all that was queued still does
        return failure


def _checked(memory: Memory, data: memoryview, offset: int) -> int:
    """The copy's size, once it is sure that it stays within the memory: beyond it lies another tenant's."""
    nbytes = data.nbytes
    if offset < 0 or offset + nbytes > memory.nbytes:
        raise ValueError(f"a copy of {nbytes} bytes at {offset} leaves a memory of {memory.nbytes}")
    return nbytes


def _is_pinned(address: int, nbytes: int) -> bool:
    """Whether the GPU can reach all of it by itself. Small pieces are not asked about: staging them costs less."""
    if nbytes < ASK_IF_PINNED_BYTES:
        return False
    ends = (address, address + nbytes - 1)
    return all(runtime.pointerGetAttributes(each).type == runtime.memoryTypeHost for each in ends)
