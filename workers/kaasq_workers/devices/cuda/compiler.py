"""Compiles CUDA C++ (NVRTC) and PTX (nvJitLink) to a cubin for one architecture. Needs no GPU and no driver.

To a cubin, not to PTX: the driver then has nothing left to compile, an older driver of the same major version can run
it, and the result can be kept on disk.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from cuda.bindings import nvjitlink, nvrtc

from kaasq.checks import MODULE_OPTION
from kaasq.errors import DeviceUnavailable, ModuleRejected, WorkerFailed
from kaasq.extras import install
from kaasq.log import get_logger
from kaasq_workers.devices.code_cache import code_key
from kaasq_workers.devices.cuda.compiled import Compiled, CompiledCache
from kaasq_workers.devices.cuda.headers import Headers, find_headers
from kaasq_workers.devices.cuda.images import Image, ptx_kernels, ptx_target, resolve, source_kernels
from kaasq_workers.devices.cuda.parameters import read_cubin
from kaasq_workers.devices.kernel_names import is_kernel_name
from kaasq_workers.devices.rejections import LOG_CHARS, does_not_compile, no_kernel

log = get_logger()

CACHE_VERSION = "1"  # to be raised when the same source would compile to something else, or Compiled changes
DEFAULT_STANDARD = "-std=c++17"
SHOWN_ERRORS = 5
SHOWN_CHARACTERS = 200  # of each

_FILE = b"kernel.cu"
# 47: a macro defined twice, as CUDA's C++ library does with those of our stand-ins.
_ALWAYS = ("-diag-suppress=47",)
_ERROR = re.compile(r"^\S+\(\d+\): (?:catastrophic )?error\b.*", re.MULTILINE | re.IGNORECASE)
# NVRTC complains of a kernel that it was asked for and does not find in a file of its own.
_NAME_ERROR = re.compile(r"^__nv_name_map\(\d+\): error: (.*)\n\s*#pragma nv_mangled_name (.*)$", re.MULTILINE)
_SPECIFIC_FROM = 90  # sm_90a and later: the variant with all that the chip can do (wgmma, setmaxnreg)


def architecture(capability: tuple[int, int]) -> str:
    """The architecture to compile for, as compilers name it: (8, 6) is ``sm_86``, (9, 0) ``sm_90a``."""
    number = capability[0] * 10 + capability[1]
    return f"sm_{number}{'a' if number >= _SPECIFIC_FROM else ''}"


class Compiler:
    """NVRTC and nvJitLink for one architecture, behind a cache on disk. Raises DeviceUnavailable without NVRTC."""

    def __init__(self, capability: tuple[int, int], cache: CompiledCache) -> None:
        self.architecture = architecture(capability)
        self._cache = cache
        try:
            major, minor = _done(nvrtc.nvrtcVersion())
            supported = _done(nvrtc.nvrtcGetSupportedArchs())
        except RuntimeError as error:  # the bindings are there, the library is not
            raise DeviceUnavailable(f"NVRTC is missing: {install('cuda13', 'cuda12')} ({_first(error)})") from error
        self.version = f"{major}.{minor}"
        number = capability[0] * 10 + capability[1]
        if number not in supported:
            raise DeviceUnavailable(
                f"NVRTC {self.version} does not know the device's architecture sm_{number}; "
                f"it knows sm_{supported[0]} to sm_{supported[-1]}: install another nvidia-cuda-nvrtc"
            )

    @cached_property
    def headers(self) -> Headers:
        """What sources may include; looked for when first needed."""
        cache = self._cache.folder
        return find_headers(nvrtc, None if cache is None else cache / f"headers-{self.version}")

    def compile_source(self, source: str, options: tuple[str, ...], kernels: tuple[str, ...]) -> Image:
        """CUDA C++ as a cubin that holds those kernels, templates instantiated. Raises ModuleRejected."""
        for option in options:
            if not MODULE_OPTION.fullmatch(option):
                raise ModuleRejected(f"compiler option {option[:64]!r} is not allowed")
        for kernel in kernels:
            if not is_kernel_name(kernel):  # NVRTC puts it into a line of source, and compiles what it says
                raise ModuleRejected(f"{kernel[:64]!r} is no name of a kernel")
        arguments = [f"-arch={self.architecture}", *_ALWAYS, *options]
        if not any(each.lstrip("-").startswith("std=") for each in options):
            arguments.append(DEFAULT_STANDARD)
        arguments += [f"-I{each}" for each in self.headers.folders]
        texts = self.headers.texts
        key = code_key(CACHE_VERSION, "source", self.version, source, *arguments, "", *sorted(kernels))
        compiled = self._cache.get_or_make(key, lambda: _compile(source, arguments, texts, kernels))
        return Image(compiled.code, compiled.symbols, read_cubin(compiled.code))

    def compile_ptx(self, ptx: bytes, kernels: tuple[str, ...]) -> Image:
        """PTX as a cubin. Raises ModuleRejected."""
        try:
            version = ".".join(str(each) for each in nvjitlink.version())
        except RuntimeError as error:  # no nvJitLink here: leave it to the driver, which sees older PTX only
            log.info("compiler.no_nvjitlink", reason=_first(error))
            return Image(ptx + b"\0", resolve(kernels, ptx_kernels(ptx)))
        key = code_key(CACHE_VERSION, "ptx", version, self.architecture, ptx)
        compiled = self._cache.get_or_make(key, lambda: Compiled(self._assemble(ptx), {}))
        cubin = read_cubin(compiled.code)
        return Image(compiled.code, resolve(kernels, cubin.kernels), cubin)

    def _assemble(self, ptx: bytes) -> bytes:
        data = ptx.rstrip(b"\0") + b"\0"
        handle = nvjitlink.create(1, [f"-arch={self.architecture}"])
        try:
            try:
                nvjitlink.add_data(handle, int(nvjitlink.InputType.PTX), data, len(data), "kernel.ptx")
                nvjitlink.complete(handle)
            except nvjitlink.nvJitLinkError as error:
                text = _text(nvjitlink.get_error_log_size(handle), lambda to: nvjitlink.get_error_log(handle, to))
                told = [each for each in text.splitlines() if "error" in each.lower() or "fatal" in each]
                raise ModuleRejected(
                    f"the PTX (for {ptx_target(ptx) or 'no architecture'}) does not assemble for "
                    f"{self.architecture}: {_shown(told) or _first(error)}",
                    log=text[:LOG_CHARS],
                    device=self.architecture,
                ) from error
            cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
            nvjitlink.get_linked_cubin(handle, cubin)
            return bytes(cubin)
        finally:
            nvjitlink.destroy(handle)


def _compile(source: str, arguments: list[str], headers: dict[str, str], kernels: tuple[str, ...]) -> Compiled:
    program = _done(
        nvrtc.nvrtcCreateProgram(
            source.encode(),
            _FILE,
            len(headers),
            [each.encode() for each in headers.values()],
            [each.encode() for each in headers],
        )
    )
    try:
        for kernel in kernels:
            _done(nvrtc.nvrtcAddNameExpression(program, kernel.encode()))
        (status,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [each.encode() for each in arguments])
        if status.value:
            size = _done(nvrtc.nvrtcGetProgramLogSize(program))
            raise _rejected(_text(size, lambda to: nvrtc.nvrtcGetProgramLog(program, to)) or status.name, source)
        symbols = {each: _done(nvrtc.nvrtcGetLoweredName(program, each.encode())).decode() for each in kernels}
        cubin = bytearray(_done(nvrtc.nvrtcGetCUBINSize(program)))
        _done(nvrtc.nvrtcGetCUBIN(program, cubin))
        return Compiled(bytes(cubin), symbols)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _rejected(text: str, source: str) -> ModuleRejected:
    """The error for a compilation that failed: of the source itself, else of a kernel's name."""
    errors = [each for each in _ERROR.findall(text) if not each.startswith("__nv_name_map")]
    missing = _NAME_ERROR.search(text)
    if missing is not None and not errors:
        reason, kernel = missing.groups()
        return no_kernel(kernel, source_kernels(source), reason)
    return does_not_compile(_shown(errors or text.strip().splitlines()), text)


def _shown(errors: list[str]) -> str:
    """The first few, for a message; the log has them all."""
    more = f" (and {len(errors) - SHOWN_ERRORS} more)" if len(errors) > SHOWN_ERRORS else ""
    return "; ".join(each[:SHOWN_CHARACTERS] for each in errors[:SHOWN_ERRORS]) + more


def _done(result: tuple[Any, ...]) -> Any:
    """What an NVRTC call gave, less its status. Raises WorkerFailed: such a call fails through us, not the user."""
    status, *values = result
    if status.value:
        raise WorkerFailed(f"NVRTC failed with {status.name}")
    return values[0] if len(values) == 1 else values


def _text(size: int, read: Any) -> str:
    """A log that the library writes into a buffer of ours; a bytearray, since it must not write into a bytes object."""
    if size <= 1:
        return ""
    buffer = bytearray(size)
    read(buffer)
    return buffer.rstrip(b"\0").decode("utf-8", "replace")


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0]
