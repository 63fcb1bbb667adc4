"""What a library's bytes are: source, PTX, cubin or fatbin, by suffix or by content. Pure."""

from __future__ import annotations

import re
import struct

from kaasq.errors import ModuleRejected
from kaasq.model import MODULE_SUFFIXES, Module, ModuleKind

PTX_PREAMBLE = 64 << 10  # bytes of comments that may stand before a PTX file's first directive

_ELF = b"\x7fELF"
_ELF_MACHINE = struct.Struct("<16xHH")  # identification, type, machine
_CUDA = 190  # EM_CUDA
_FATBIN = struct.pack("<I", 0xBA55ED50)
_PTX = re.compile(rb"(?:\s|//[^\n]*+|/\*(?s:.*?)\*/)*+\.version\s")


def module_of(code: bytes, library: Module, *, suffix: str) -> Module:
    """The module in those bytes, with the library's options. Raises ModuleRejected for what is no device code."""
    if not code:
        raise _rejected(library, "is empty")
    if code.startswith(_ELF) and (len(code) < _ELF_MACHINE.size or _ELF_MACHINE.unpack_from(code)[1] != _CUDA):
        raise _rejected(
            library,
            "is a program or library for the host, and kaasq runs device code only: give it the kernels' source (.cu), "
            "PTX, cubin or fatbin (nvcc makes the latter with --ptx, --cubin, --fatbin)",
        )
    kind = MODULE_SUFFIXES.get(suffix.lower()) or _kind(code)
    if kind != "source":
        return Module(kind=kind, code=code)
    try:
        source = code.decode()
    except UnicodeDecodeError:
        source = "\0"
    if "\0" in source or not source.strip():
        raise _rejected(library, "is neither a cubin, a fatbin, PTX nor source text in UTF-8")
    return Module(source=source, options=library.options)


def _kind(code: bytes) -> ModuleKind:
    if code.startswith(_ELF):
        return "cubin"
    if code.startswith(_FATBIN):
        return "fatbin"
    return "ptx" if _PTX.match(code[:PTX_PREAMBLE]) else "source"


def _rejected(library: Module, what: str) -> ModuleRejected:
    return ModuleRejected(f"library {library.path!r} {what}", library=library.path)
