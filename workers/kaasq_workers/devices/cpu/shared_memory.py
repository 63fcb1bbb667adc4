"""How much static shared memory a kernel has, as the symbols of its compiled library tell. Pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

_SYMTAB = 2  # SHT_SYMTAB
_TLS = 6  # STT_TLS
_OURS = frozenset({"threadIdx", "blockIdx", "blockDim", "gridDim", "kaasq_thread", "kaasq_shared"})
_LENGTH = re.compile(r"L?(\d+)")


def static_shared(library: bytes, reachable: frozenset[str]) -> int:
    """Bytes of the ``__shared__`` variables in a 64-bit ELF library that belong to the functions named.

    Of a template's instances the largest counts: symbols do not tell which of them a kernel calls.
    """
    largest: dict[tuple[str, str], int] = {}
    for symbol, nbytes in _thread_locals(library):
        owner, variable = _owner(symbol)
        if owner in reachable and owner not in _OURS:
            largest[owner, variable] = max(nbytes, largest.get((owner, variable), 0))
    return sum(largest.values())


def _thread_locals(library: bytes) -> Iterator[tuple[str, int]]:
    """Thread-local variables, which is what shared memory is here: their symbols and sizes in bytes."""
    (table,) = struct.unpack_from("<Q", library, 40)
    entry_size, count = struct.unpack_from("<HH", library, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", library, table + index * entry_size) for index in range(count)]
    for _, kind, _, _, start, nbytes, link, _, _, each in sections:
        if kind != _SYMTAB:
            continue
        strings = sections[link][4]
        for at in range(start, start + nbytes, each):
            name, info, _, _, _, size = struct.unpack_from("<IBBHQQ", library, at)
            if info & 15 == _TLS and size:
                first = strings + name
                yield library[first : library.index(b"\0", first)].decode(), size


def _owner(symbol: str) -> tuple[str, str]:
    """Whose variable it is: the function's name, or its own at file scope; and what tells it from the owner's others.

    A local of a function is ``_ZZ <function> E <name>``, in the Itanium C++ ABI; names carry their length.
    """
    if not symbol.startswith("_Z"):
        return symbol, ""
    at = len("_ZZ" if symbol.startswith("_ZZ") else "_Z")
    at += symbol.startswith("N", at)
    owner = ""
    while length := _LENGTH.match(symbol, at):
        at = length.end() + int(length[1])
        owner = symbol[length.end() : at]
    return owner, symbol[symbol.rfind("E") :] if symbol.startswith("_ZZ") else ""
