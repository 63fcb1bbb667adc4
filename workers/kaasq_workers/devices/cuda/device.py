"""CudaDevice: one GPU. CUDA is imported when it is opened, so that a base install can name the class."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from kaasq.builtins import Call
from kaasq.errors import DeviceUnavailable, KaasqError, ModuleRejected
from kaasq.extras import install
from kaasq.log import get_logger
from kaasq.model import Module
from kaasq_workers.devices.cuda.builtins.workspaces import PRODUCT_BYTES, SCRATCH_BYTES, Workspaces
from kaasq_workers.devices.cuda.compiled import CompiledCache
from kaasq_workers.devices.cuda.errors import run_error
from kaasq_workers.devices.cuda.images import Image, cubin_image, fatbin_architectures, fatbin_image
from kaasq_workers.devices.protocol import Limits, Operation

if TYPE_CHECKING:
    from kaasq_workers.devices.cuda.memory import CudaMemory
    from kaasq_workers.devices.cuda.module import CudaModule
    from kaasq_workers.devices.cuda.pinning import CudaPinned
    from kaasq_workers.devices.cuda.stream import CudaStream

log = get_logger()

# Of the memory free at the start: the rest is for the modules' code, kernels' stacks and libraries' workspaces.
DEFAULT_MEMORY_SHARE = 0.9
# What each further process on the GPU takes for its context and code (measured: 526 MiB on an H100).
CONTEXT_BYTES = 600 << 20
LEAST_BYTES = 64 << 20

# Requests on streams of their own: enough to fill an H100 with small kernels, with few recordings of each plan.
IN_FLIGHT = 8

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # device attributes that CuPy has no names for


class CudaDevice:
    """A GPU, by its index. Used from one thread, the one that opens it.

    It shares the GPU's primary context with CuPy, cuda.core and any library in the process. ``memory_limit``: bytes
    that allocations may take together; without one, what is free less a reserve, divided by the ``sharing`` processes
    that open it. ``cache_dir``: where compiled code is kept, None for nowhere. ``scratch_bytes``:
    what built-ins may use of it on each stream, for what they leave from one kernel to the next. Raises
    DeviceUnavailable if there is no such GPU or CUDA is not installed, BadRequest for a ``cache_dir`` that others can
    write to.
    """

    def __init__(
        self,
        index: int = 0,
        *,
        memory_limit: int | None = None,
        sharing: int = 1,
        cache_dir: Path | None = None,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        self.name = f"cuda:{index}"
        self.poisoned = False
        self._closed = False
        try:
            from cupy.cuda import runtime

            from kaasq_workers.devices.cuda.builtins.builtins import Builtins
            from kaasq_workers.devices.cuda.compiler import Compiler
            from kaasq_workers.devices.cuda.large_copies import LargeCopies
            from kaasq_workers.devices.cuda.memory import MemoryPool
            from kaasq_workers.devices.cuda.module import CudaModule
            from kaasq_workers.devices.cuda.pinning import Pinning
            from kaasq_workers.devices.cuda.stream import CudaStream
        except ImportError as error:
            raise DeviceUnavailable(
                f"{self.name} needs CuPy and cuda-core: {install('cuda13', 'cuda12')} ({error})"
            ) from error
        self._runtime = runtime
        self._new_module, self._new_stream = CudaModule, CudaStream
        try:
            count = runtime.getDeviceCount()
            if not 0 <= index < count:
                raise DeviceUnavailable(
                    f"there is no {self.name}: CUDA sees {count} GPU{'' if count == 1 else 's'} here"
                )
            runtime.setDevice(index)
            runtime.free(0)  # has CUDA make the primary context, and make it current in this thread
            free, total = runtime.memGetInfo()
            model = runtime.getDeviceProperties(index)["name"].decode()
        except runtime.CUDARuntimeError as error:
            raise DeviceUnavailable(f"{self.name} cannot be used: {error}") from error

        def attribute(which: int) -> int:
            return int(runtime.deviceGetAttribute(which, index))

        self._capability = (attribute(_CAPABILITY_MAJOR), attribute(_CAPABILITY_MINOR))
        limit = min(memory_limit, total) if memory_limit else _part(free, sharing)
        if limit < LEAST_BYTES and not memory_limit:
            raise DeviceUnavailable(
                f"{self.name} has {free} bytes free, too few for {sharing} executors at once: lower isolation_executors"
            )
        self.limits = Limits(
            memory=limit,
            shared_per_block=attribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin),
            in_flight=IN_FLIGHT,
            threads_per_block=attribute(runtime.cudaDevAttrMaxThreadsPerBlock),
            grid=(
                attribute(runtime.cudaDevAttrMaxGridDimX),
                attribute(runtime.cudaDevAttrMaxGridDimY),
                attribute(runtime.cudaDevAttrMaxGridDimZ),
            ),
            block=(
                attribute(runtime.cudaDevAttrMaxBlockDimX),
                attribute(runtime.cudaDevAttrMaxBlockDimY),
                attribute(runtime.cudaDevAttrMaxBlockDimZ),
            ),
        )
        self._compiler = Compiler(self._capability, CompiledCache(cache_dir))
        self._memory = MemoryPool(self, limit)
        self._pinning = Pinning(index)
        self._large = LargeCopies(index)
        self._workspaces = Workspaces(self.allocate, scratch_bytes, PRODUCT_BYTES)
        self._builtins = Builtins(self, index, self._workspaces)
        cuda = runtime.driverGetVersion()
        self.description = (
            f"{model} ({self._compiler.architecture}, driver for CUDA {cuda // 1000}.{cuda % 1000 // 10}, "
            f"NVRTC {self._compiler.version})"
        )

    def load(self, module: Module, kernels: tuple[str, ...]) -> CudaModule:
        """Compile or take the module and put it on the device. Raises ModuleRejected."""
        started = time.perf_counter()
        try:
            image = self._image(module, kernels)
            compiled = time.perf_counter()
            loaded = self._new_module(image, kernels, self._described(module), self, self.limits.shared_per_block)
        except KaasqError as error:
            log.info("module.rejected", module=module.hash[:16], kind=module.kind, code=error.code)
            raise
        log.debug(
            "module.loaded",
            module=module.hash[:16],
            kind=module.kind,
            compile_us=round((compiled - started) * 1e6),
            load_us=round((time.perf_counter() - compiled) * 1e6),
        )
        return loaded

    def prepare(self, call: Call) -> Operation:
        """Make a built-in ready: kernels compiled and loaded, algorithms chosen. Raises ModuleRejected, OutOfMemory."""
        return self._builtins.prepare(call)

    def allocate(self, nbytes: int) -> CudaMemory:
        """Memory with undefined contents, aligned to 512 bytes. Raises OutOfMemory."""
        return self._memory.allocate(nbytes)

    def pin(self, data: memoryview) -> CudaPinned | None:
        """Register host memory, so that the GPU reads it by itself; None where the system does not let it."""
        return self._pinning.pin(data)

    def stream(self) -> CudaStream:
        """A new stream that runs beside all others.

        Raises OutOfMemory where built-ins need memory on it, KernelFailed where the context is gone.
        """
        try:
            stream = self._new_stream(self, self._large)
        except self._runtime.CUDARuntimeError as error:  # a kernel on another one may have crashed
            raise run_error(error, self, "a new stream") from error
        self._workspaces.add(stream)
        return stream

    def close(self) -> None:
        """Wait for what runs and give the memory back."""
        if self._closed:
            return
        self._closed = True
        try:
            self._runtime.deviceSynchronize()
            self._large.close()
            self._builtins.close()
            self._memory.close()
        except self._runtime.CUDARuntimeError as error:
            if not self.poisoned:  # else this is the same failure once more
                log.warning("device.close_failed", device=self.name, reason=str(error))

    def _described(self, module: Module) -> str:
        """The module, for the message that says it does not load."""
        if module.kind != "fatbin":
            return f"the {module.kind}"
        held = ", ".join(fatbin_architectures(module.code))
        return f"the fatbin (for {held or 'nothing'}; the device is sm_{self._capability[0]}{self._capability[1]})"

    def _image(self, module: Module, kernels: tuple[str, ...]) -> Image:
        match module.kind:
            case "source":
                return self._compiler.compile_source(module.source, module.options, kernels)
            case "ptx":
                return self._compiler.compile_ptx(module.code, kernels)
            case "cubin":
                return cubin_image(module.code, kernels, self._capability)
            case "fatbin":
                return fatbin_image(module.code)
        raise ModuleRejected(f"{self.name} cannot run a module of kind {module.kind!r}")


def _part(free: int, sharing: int) -> int:
    """What each of so many processes may allocate, as the first of them finds the GPU."""
    return int((free * DEFAULT_MEMORY_SHARE - (sharing - 1) * CONTEXT_BYTES) / sharing)
