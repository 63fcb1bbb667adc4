"""Compiled code loaded into this process: the runtime, a module, its kernels. Mirrors prelude/kaasq_runtime.h."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
import threading
from _ctypes import dlclose
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from kaasq.errors import KernelFailed, ModuleRejected
from kaasq.model import Dim3
from kaasq_workers.devices.protocol import Parameter
from kaasq_workers.devices.rejections import no_kernel

_MESSAGE_BYTES = 1024
_FAULTED = 2


class _Parameter(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint32), ("size", ctypes.c_uint32), ("is_pointer", ctypes.c_uint32))


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(_Parameter)),
        ("parameter_count", ctypes.c_uint32),
        ("threads_per_block", ctypes.c_uint32),
        ("uses_fibers", ctypes.c_uint32),
        ("prints", ctypes.c_uint32),
        ("run_block", ctypes.c_void_p),
        ("run_thread", ctypes.c_void_p),
        ("run_strided", ctypes.c_void_p),
    )


class Runtime:
    """The runtime library, loaded into this process for good."""

    _loaded: ClassVar[dict[str, Runtime]] = {}  # by name: a second copy would have another pool and other fibers
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, library: ctypes.CDLL) -> None:
        launch = library.kaasq_launch
        launch.restype = ctypes.c_int
        launch.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, *(ctypes.c_uint,) * 6, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int,
            ctypes.POINTER(ctypes.c_uint64), ctypes.c_char_p, ctypes.c_size_t,
        )  # fmt: skip
        self._launch = launch

    @classmethod
    def load(cls, name: str, code: bytes, folder: Path) -> Runtime:
        """The runtime of that name, loaded from ``code`` the first time."""
        with cls._lock:
            if name not in cls._loaded:
                cls._loaded[name] = cls(open_library(code, folder))
            return cls._loaded[name]

    def launch(
        self,
        kernel: CpuKernel,
        grid: Dim3,
        block: Dim3,
        arguments: int,
        shared_bytes: int,
        *,
        threads: int,
        guard: bool = False,
    ) -> None:
        """Run a kernel to its end. Releases the GIL meanwhile.

        Raises KernelFailed; with ``guard`` also for an access to unmapped memory: then the field unmapped is true, and
        address tells where if that is known.
        """
        said = ctypes.create_string_buffer(_MESSAGE_BYTES)
        fault = ctypes.c_uint64()
        result = self._launch(
            kernel.address, arguments, *grid, *block, shared_bytes, threads, guard, fault, said, _MESSAGE_BYTES
        )
        if result:
            reason = said.value.decode(errors="replace")
            raise KernelFailed(
                f"kernel {kernel.name!r} failed: {reason}",
                kernel=kernel.name,
                reason=reason,
                unmapped=True if result == _FAULTED else None,
                address=fault.value or None,
            )


class CpuKernel:
    """A kernel in a loaded module; keeps the module loaded."""

    def __init__(self, entry: _Kernel, name: str, static_shared_bytes: int, module: CpuModule) -> None:
        self.name = name
        self.static_shared_bytes = static_shared_bytes
        self.address = ctypes.addressof(entry)
        self.parameters: tuple[Parameter, ...] | None = tuple(
            Parameter(each.offset, each.size, bool(each.is_pointer))
            for each in entry.parameters[: entry.parameter_count]
        )
        self.threads_per_block = int(entry.threads_per_block)
        self.waits = bool(entry.uses_fibers)
        self.strided = bool(entry.run_strided)
        self._module = module


class CpuModule:
    """A module's library, loaded. Its ``__device__`` variables are its own: loading twice gives two sets of them."""

    stateful = True  # or not: one launch at a time runs here anyway

    def __init__(self, code: bytes, names: tuple[str, ...], folder: Path) -> None:
        self._library: ctypes.CDLL | None = open_library(code, folder)
        self._table = (_Kernel * len(names)).in_dll(self._library, "kaasq_kernels")
        self._index = {name: index for index, name in enumerate(names)}
        self._shared = struct.unpack(f"<{len(names)}I", code[-4 * len(names) :]) if names else ()

    def kernel(self, name: str) -> CpuKernel:
        """The kernel of that name. Raises ModuleRejected naming those there are."""
        if name not in self._index or self._library is None:
            raise no_kernel(name, self._index)
        index = self._index[name]
        return CpuKernel(self._table[index], name, self._shared[index], self)

    def unload(self) -> None:
        """Unmap the code; its kernels must not be launched any more. Idempotent."""
        library, self._library = self._library, None
        if library is not None:
            dlclose(library._handle)

    def __del__(self) -> None:
        if getattr(self, "_library", None) is not None:
            self.unload()


def shared_trailer(nbytes: Iterable[int]) -> bytes:
    """What follows a module's library in its cached code: each kernel's static shared memory. The loader ignores it."""
    return b"".join(struct.pack("<I", each) for each in nbytes)


def open_library(code: bytes, folder: Path) -> ctypes.CDLL:
    """Load a shared library from memory, through a file of its own: the loader takes two loads of one file for one."""
    handle, path = tempfile.mkstemp(suffix=".so", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(code)
        return ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ModuleRejected(f"the compiled module cannot be loaded: {error}".replace(path, "module")) from error
    finally:
        Path(path).unlink()
