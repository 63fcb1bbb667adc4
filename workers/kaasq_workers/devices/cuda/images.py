"""What a module's code says of itself: architectures, kernels, and which symbol a kernel's name means. Pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from kaasq.errors import ModuleRejected
from kaasq_workers.devices.cuda.parameters import Cubin, read_cubin
from kaasq_workers.devices.rejections import no_kernel

_FATBIN_MAGIC = 0xBA55ED50
_FATBIN = struct.Struct("<IHHQ")  # magic, version, header's size, size of what follows
_ENTRY = struct.Struct("<HHIQ")  # kind, version, header's size, size of what follows
_ENTRY_ARCH_AT = 28
_ENTRY_KINDS = {1: "compute", 2: "sm"}  # PTX and cubin

_PTX_TARGET = re.compile(rb"^[ \t]*\.target[ \t]+(\w+)", re.MULTILINE)
_PTX_ENTRY = re.compile(rb"\.entry\s+([\w$]{1,4096})")
_TOKEN = re.compile(r"\w+|[^\s\w]")
_DECLARATIONS = 1000  # as many are looked at
_DECLARATION_LENGTH = 2000  # how far from __global__ its kernel's name is looked for


class Image(NamedTuple):
    """Code that the driver can load. ``symbols``: what each kernel asked for is called in it, None if not yet known."""

    code: bytes
    symbols: Mapping[str, str] | None
    cubin: Cubin | None = None


def cubin_image(code: bytes, kernels: tuple[str, ...], capability: tuple[int, int]) -> Image:
    """A cubin, if it fits the device. Raises ModuleRejected."""
    cubin = read_cubin(code)
    major, minor = capability
    if cubin.arch // 10 != major or cubin.arch % 10 > minor:
        raise ModuleRejected(
            f"the cubin is for sm_{cubin.arch}, the device is sm_{major}{minor}: compile it for that, "
            "or send source or PTX",
            architecture=f"sm_{cubin.arch}",
            device=f"sm_{major}{minor}",
        )
    return Image(code, resolve(kernels, cubin.kernels), cubin)


def fatbin_image(code: bytes) -> Image:
    """A fat binary: whole, as far as its headers say. Only the driver reads inside. Raises ModuleRejected."""
    fatbin_architectures(code)
    return Image(code, None)


def fatbin_architectures(code: bytes) -> list[str]:
    """What a fat binary holds: ``sm_90`` for machine code, ``compute_90`` for PTX. Raises ModuleRejected."""
    try:
        magic, _, header, size = _FATBIN.unpack_from(code)
        if magic != _FATBIN_MAGIC or header < _FATBIN.size:
            raise ModuleRejected("the fatbin is none: it does not begin like one")
        at, end = header, header + size
        if end > len(code):
            raise ModuleRejected(f"the fatbin is damaged: {end} bytes by its header, {len(code)} given")
        held = []
        while at < end:
            kind, _, header, size = _ENTRY.unpack_from(code, at)
            (arch,) = struct.unpack_from("<I", code, at + _ENTRY_ARCH_AT)
            if header < _ENTRY_ARCH_AT + 4 or at + header + size > end:
                raise ModuleRejected("the fatbin is damaged: an entry reaches past its end")
            held.append(f"{_ENTRY_KINDS.get(kind, 'kind')}_{arch}")
            at += header + size
    except struct.error as error:
        raise ModuleRejected("the fatbin is damaged: its headers point outside it; was it cut short?") from error
    return sorted(set(held))


def ptx_target(code: bytes) -> str:
    """The architecture that PTX is written for, as in ``sm_90``; "" if it does not say."""
    found = _PTX_TARGET.search(code)
    return found.group(1).decode() if found else ""


def ptx_kernels(code: bytes) -> list[str]:
    """The kernels that PTX defines."""
    return [name.decode() for name in _PTX_ENTRY.findall(code)]


def source_kernels(source: str) -> list[str]:
    """The ``__global__`` functions of CUDA C++, by looking only: for messages, not for decisions."""
    found: list[str] = []
    for match in islice(re.finditer("__global__", source), _DECLARATIONS):
        name = _declared(source[match.end() : match.end() + _DECLARATION_LENGTH])
        if name and name not in found:
            found.append(name)
    return found


def _declared(text: str) -> str:
    """The name before the first parameter list that is not an attribute's (``__launch_bounds__(128)``)."""
    word = ""
    depth = 0
    for piece in _TOKEN.findall(text):
        if piece == "(":
            if not depth and not word.startswith("__"):
                return word if word.isidentifier() else ""
            depth += 1
        elif piece == ")":
            depth -= 1
        elif not depth:
            if piece in "{};":
                return ""
            word = piece
    return ""


def resolve(kernels: Iterable[str], symbols: Iterable[str]) -> dict[str, str]:
    """Each kernel's symbol: its own name, or the one C++ symbol that mangles it. Raises ModuleRejected.

    ``scale`` finds ``_Z5scalePfi`` if no other overload or instance of ``scale`` is there; a full symbol always works.
    """
    present = list(symbols)
    resolved = {}
    for kernel in kernels:
        mangled = f"_Z{len(kernel)}{kernel}"
        if kernel in present:
            resolved[kernel] = kernel
            continue
        matches = [each for each in present if each.startswith(mangled)]
        if len(matches) != 1:
            raise no_kernel(kernel, present, "which overload is meant is not clear" if matches else "")
        resolved[kernel] = matches[0]
    return resolved
