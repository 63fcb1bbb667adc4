"""Reads a cubin's kernels from its ELF bytes: parameters, static shared memory. Needs no CUDA. Pure.

The driver answers the same questions about a loaded kernel; this answers them anywhere, and looks at an image before
the driver does, which takes it on trust and without its length. Whatever the bytes are, the outcome is a Cubin or
ModuleRejected. The layout is that of CUDA 11 to 13, as their compilers write it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.protocol import Parameter

ELF_MAGIC = b"\x7fELF"

_HEADER = struct.Struct("<HHIQQQIHHHHHH")  # what follows the 16 bytes of e_ident
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PARAMETER = struct.Struct("<IHHI")
_PARAMETER_WIDE = struct.Struct("<IHHHH")

_CLASS_64, _LITTLE_ENDIAN, _MACHINE_CUDA = 2, 1, 190
_TYPE_EXECUTABLE = 2
_SHT_SYMTAB, _SHT_NOBITS = 2, 8
_STT_FUNC, _STO_CUDA_ENTRY = 2, 0x10
# Attributes of a .nv.info section; format 4 carries its own length, the others two bytes.
_SIZED = 4
_KPARAM_INFO, _KPARAM_INFO_WIDE = 0x17, 0x45
_ABI_WITH_ARCH_IN_BYTE_1 = 8  # CUDA 13 moved the architecture within e_flags
_ARCH_RESERVING_SHARED, _RESERVED_SHARED_BYTES = 90, 1024  # counted in the section, not against the kernel

_NAME_BYTES = 1 << 16
_INFO = ".nv.info."
_SHARED = ".nv.shared."
_VARIABLES = ".nv.global"  # and .nv.global.init: what kernels can write to between launches


class CubinKernel(NamedTuple):
    """What a cubin says of a kernel."""

    parameters: tuple[Parameter, ...]
    static_shared_bytes: int


class Cubin(NamedTuple):
    """A cubin's architecture, as in ``sm_90``: 90, its kernels by symbol, and whether it has variables."""

    arch: int
    kernels: dict[str, CubinKernel]
    variables: bool = False


class _Section(NamedTuple):
    name: str
    kind: int
    offset: int
    size: int
    link: int


def read_cubin(code: bytes) -> Cubin:
    """The cubin's architecture and kernels. Raises ModuleRejected if it is damaged or no cubin."""
    try:
        return _read(code)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise _damaged("its headers point outside it; was it cut short?") from error


def _read(code: bytes) -> Cubin:
    if code[:4] != ELF_MAGIC:
        raise ModuleRejected("the cubin is none: it does not begin like an ELF file")
    (
        kind,
        machine,
        _,
        _,
        segments_at,
        sections_at,
        flags,
        _,
        segment_size,
        segments,
        section_size,
        count,
        names_in,
    ) = _HEADER.unpack_from(code, 16)
    if (code[4], code[5], machine) != (_CLASS_64, _LITTLE_ENDIAN, _MACHINE_CUDA):
        raise ModuleRejected(f"the cubin is none: an ELF file for machine {machine}, not for a GPU")
    if segments and segment_size != _SEGMENT.size:
        raise _damaged(f"segment headers of {segment_size} bytes")
    for index in range(segments):
        _, _, offset, _, _, size, _, _ = _SEGMENT.unpack_from(code, segments_at + index * segment_size)
        _inside(code, offset, size)
    sections = _sections(code, sections_at, section_size, count, names_in)
    arch = (flags >> 8 if code[8] >= _ABI_WITH_ARCH_IN_BYTE_1 else flags) & 0xFF
    infos = {each.name: each for each in sections if each.name.startswith(_INFO)}
    shared = {each.name: each.size for each in sections if each.name.startswith(_SHARED)}
    reserved = _RESERVED_SHARED_BYTES if arch >= _ARCH_RESERVING_SHARED and kind == _TYPE_EXECUTABLE else 0
    kernels: dict[str, CubinKernel] = {}
    for symbol in dict.fromkeys(_entries(code, sections)):
        info = infos.get(_INFO + symbol)
        if info is None:
            raise _damaged(f"kernel {symbol[:80]!r} has no parameter table")
        table = _parameters(code[info.offset : info.offset + info.size])
        kernels[symbol] = CubinKernel(table, max(0, shared.get(_SHARED + symbol, 0) - reserved))
    variables = any(each.size and each.name.startswith(_VARIABLES) for each in sections)
    return Cubin(arch, kernels, variables)


def _sections(code: bytes, at: int, entry_size: int, count: int, names_in: int) -> list[_Section]:
    if entry_size != _SECTION.size:
        raise _damaged(f"section headers of {entry_size} bytes")
    raw = [_SECTION.unpack_from(code, at + index * entry_size) for index in range(count)]
    names_at, names_size = raw[names_in][4], raw[names_in][5]
    _inside(code, names_at, names_size)
    sections = []
    budget = 2 * len(code)  # sections of a sound file do not overlap; a hostile one must not cost more than its size
    for name, kind, _, _, offset, size, link, _, _, _ in raw:
        if kind != _SHT_NOBITS:
            _inside(code, offset, size)
            budget -= size
        text = _name(code, names_at + name)
        budget -= len(text)
        if budget < 0:
            raise _damaged("its sections overlap")
        sections.append(_Section(text, kind, offset, size, link))
    return sections


def _entries(code: bytes, sections: list[_Section]) -> list[str]:
    """The symbols that are kernels (device functions are symbols too)."""
    symbols: list[str] = []
    budget = 2 * len(code)
    for table in sections:
        if table.kind != _SHT_SYMTAB:
            continue
        names_at = sections[table.link].offset
        for offset in range(table.offset, table.offset + table.size - _SYMBOL.size + 1, _SYMBOL.size):
            name, info, other, section, _, _ = _SYMBOL.unpack_from(code, offset)
            if info & 0xF == _STT_FUNC and other & _STO_CUDA_ENTRY and section:
                symbol = _name(code, names_at + name)
                budget -= len(symbol)
                if budget < 0:
                    raise _damaged("its symbols overlap")
                symbols.append(symbol)
    return symbols


def _parameters(data: bytes) -> tuple[Parameter, ...]:
    """The parameter table in a kernel's .nv.info section."""
    found: dict[int, Parameter] = {}
    at = 0
    while at < len(data):
        form, attribute = data[at], data[at + 1]
        if form != _SIZED:
            at += 4
            continue
        (size,) = struct.unpack_from("<H", data, at + 2)
        value = data[at + 4 : at + 4 + size]
        at += 4 + size
        if attribute == _KPARAM_INFO:
            _, ordinal, offset, packed = _PARAMETER.unpack(value)
            found[ordinal] = Parameter(offset, packed >> 18)
        elif attribute == _KPARAM_INFO_WIDE:  # in kernels whose parameters exceed what 14 bits can say
            _, ordinal, offset, width, _ = _PARAMETER_WIDE.unpack(value)
            found[ordinal] = Parameter(offset, width)
    if sorted(found) != list(range(len(found))):
        raise _damaged("a parameter table has gaps")
    return tuple(found[ordinal] for ordinal in range(len(found)))


def _name(code: bytes, at: int) -> str:
    end = code.find(b"\0", at, at + _NAME_BYTES)
    if end < 0:
        raise _damaged("a name has no end")
    return code[at:end].decode("utf-8", "replace")


def _inside(code: bytes, offset: int, size: int) -> None:
    if offset + size > len(code):
        raise _damaged(f"its headers point at byte {offset + size} of {len(code)}; was it cut short?")


def _damaged(why: str) -> ModuleRejected:
    return ModuleRejected(f"the cubin is damaged: {why}")
