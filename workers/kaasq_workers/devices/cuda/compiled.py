"""What the CUDA compilers make, machine code and its symbols, and how it is kept in the cache of compiled code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from kaasq_workers.devices.code_cache import CodeCache


class Compiled(msgspec.Struct, frozen=True):
    """Machine code, and the symbol in it of each kernel that was asked for."""

    code: bytes
    symbols: dict[str, str]


class CompiledCache:
    """``Compiled`` by key in a folder; None: nothing is kept. Raises BadRequest for a folder others can write to."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._cache = None if folder is None else CodeCache(folder)

    def get_or_make(self, key: str, make: Callable[[], Compiled]) -> Compiled:
        """What is kept under the key, else what ``make`` compiles."""
        if self._cache is None:
            return make()
        data = self._cache.get_or_make(key, lambda: msgspec.msgpack.encode(make()))
        return msgspec.msgpack.decode(data, type=Compiled)
