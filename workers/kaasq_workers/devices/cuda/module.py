"""Modules on the GPU: loads an image through the driver and asks it for each kernel's parameter table."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver

from kaasq.errors import KernelFailed, ModuleRejected
from kaasq_workers.devices.cuda.errors import DriverCallFailed, Poisonable, done, load_error, run_error
from kaasq_workers.devices.cuda.images import Image, resolve
from kaasq_workers.devices.protocol import Parameter
from kaasq_workers.devices.rejections import no_kernel

# A launch may ask for this much shared memory, static included, without more ado.
SHARED_WITHOUT_CONSENT_BYTES = 48 << 10

_MAX_PARAMETERS = 8192  # 32 KiB of them at most, by any CUDA so far
_ATTRIBUTE = driver.CUfunction_attribute


class _Library:
    """A loaded image. Unloaded when nothing refers to it any more: kernels keep it, as does their module."""

    def __init__(self, image: Image) -> None:
        # Kept, because at the interpreter's end the module that it comes from may be gone before this object.
        self._unload = driver.cuLibraryUnload
        self.handle = None
        self.handle = done(driver.cuLibraryLoadData(image.code, None, None, 0, None, None, 0))

    def unload(self) -> None:
        handle, self.handle = self.handle, None
        if handle is not None:
            self._unload(handle)  # fails only where the context is gone, and the library with it

    __del__ = unload


class CudaKernel:
    """A kernel ready to launch. ``function`` and ``handle`` are the driver's CUfunction and CUkernel, as numbers.

    A CUDA graph's node takes the same: ``cuda.core.Kernel.from_handle(kernel.handle)``.
    """

    def __init__(self, name: str, library: _Library, symbol: str, image: Image, shared_per_block: int) -> None:
        self._library = library
        kernel = done(driver.cuLibraryGetKernel(library.handle, symbol.encode()))
        self._function = done(driver.cuKernelGetFunction(kernel))  # loads the code into the context, now
        self.name = name
        self.handle = int(kernel)
        self.function = int(self._function)
        known = image.cubin.kernels[symbol] if image.cubin is not None else None
        self.threads_per_block = self._attribute(_ATTRIBUTE.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)
        # The cubin's own figure leaves out what the system reserves in every block.
        self.static_shared_bytes = (
            known.static_shared_bytes
            if known is not None
            else self._attribute(_ATTRIBUTE.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
        )
        self._shared_most = shared_per_block - self.static_shared_bytes
        self.shared_allowed = SHARED_WITHOUT_CONSENT_BYTES - self.static_shared_bytes
        self.parameters = _parameters(self._function)
        if self.parameters is None and known is not None:
            self.parameters = known.parameters

    def allow_shared(self, nbytes: int, device: Poisonable) -> None:
        """Let launches use that much dynamic shared memory. Raises KernelFailed."""
        if nbytes > self._shared_most:
            raise KernelFailed(
                f"kernel {self.name!r} was to run with {nbytes} bytes of shared memory; {device.name} has "
                f"{self._shared_most} for it beside its own {self.static_shared_bytes}",
                kernel=self.name,
            )
        attribute = _ATTRIBUTE.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        try:
            done(driver.cuFuncSetAttribute(self._function, attribute, self._shared_most))
        except DriverCallFailed as error:
            raise run_error(error, device, f"{nbytes} bytes of shared memory", (self.name,)) from error
        self.shared_allowed = self._shared_most

    def _attribute(self, attribute: Any) -> int:
        return int(done(driver.cuFuncGetAttribute(attribute, self._function)))


class CudaModule:
    """A module on the device, with the kernels that it was loaded for."""

    def __init__(self, image: Image, kernels: tuple[str, ...], what: str, device: Poisonable, shared: int) -> None:
        self.stateful = image.cubin is None or image.cubin.variables
        try:
            self._library = _Library(image)
            symbols = image.symbols
            if symbols is None:  # a fat binary: which code counts, and so what it holds, only the driver knows
                present = _kernel_names(self._library)
                if present == []:  # the driver loads a fat binary without a word that has nothing for the device
                    raise ModuleRejected(f"{what} holds no code that the device can run")
                symbols = {each: each for each in kernels} if present is None else resolve(kernels, present)
            self._kernels: dict[str, CudaKernel] = {}
            for name in kernels:
                self._kernels[name] = CudaKernel(name, self._library, symbols[name], image, shared)
        except DriverCallFailed as error:
            raise load_error(error, device, what) from error

    def kernel(self, name: str) -> CudaKernel:
        """The kernel of that name, one of those that the module was loaded for."""
        try:
            return self._kernels[name]
        except KeyError:
            raise no_kernel(name, self._kernels) from None

    def unload(self) -> None:
        """Give the code's memory back. Its kernels can no longer be launched."""
        self._kernels.clear()
        self._library.unload()


def _parameters(function: Any) -> tuple[Parameter, ...] | None:
    """The kernel's parameters; None where the driver is too old (before 12.4) to tell."""
    table: list[Parameter] = []
    while len(table) < _MAX_PARAMETERS:
        try:
            offset, size = done(driver.cuFuncGetParamInfo(function, len(table)))
        except DriverCallFailed:  # past the last one
            break
        except RuntimeError:  # how cuda.bindings says that the driver has no such call
            return None
        table.append(Parameter(offset, size))
    return tuple(table)


def _kernel_names(library: _Library) -> list[str] | None:
    """The symbols of the library's kernels; None where the driver is too old (before 12.4) to tell."""
    try:
        count = done(driver.cuLibraryGetKernelCount(library.handle))
        handles = done(driver.cuLibraryEnumerateKernels(count, library.handle)) if count else []
        return [done(driver.cuKernelGetName(each)).decode() for each in handles]
    except RuntimeError:
        return None
