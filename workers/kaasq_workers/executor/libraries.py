"""Modules that lie with the worker: files in its module folders, objects in its store. Noticed when they change."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from kaasq.errors import ModuleRejected, NameNotFound
from kaasq.model import Module
from kaasq_storage import BufferStore
from kaasq_workers.executor.library_code import module_of
from kaasq_workers.executor.module_folders import ModuleFolders, Signature, look, too_large

REMEMBERED = 1024
REMEMBERED_BYTES = 256 << 20


class _Known(NamedTuple):
    module: Module
    version: Signature | str | None
    """What it was made from: how the file looked, or the object's hash. None: that would not show a change."""
    nbytes: int
    candidates: tuple[str, ...] = ()


class Libraries:
    """Resolves modules of kind ``library`` for one executor. Used from one thread.

    ``folders`` are what requests may name files in, separated as in PATH; empty: they may name objects only. Raises
    BadRequest for a folder that is none. ``limit``: the largest module, in bytes.
    """

    def __init__(self, folders: str, store: BufferStore, *, limit: int) -> None:
        self._folders = ModuleFolders(folders, limit=limit)
        self._store = store
        self._limit = limit
        self._known: OrderedDict[tuple[str, Module], _Known] = OrderedDict()
        self._bytes = 0

    def resolve(self, tenant: str, library: Module) -> Module:
        """The module that the library is now: the same one as long as it does not change.

        Raises Forbidden for a path outside of the folders, ModuleRejected for what is not there or no device code.
        """
        return self._stored(tenant, library) if library.path.startswith("@") else self._file(library)

    def _stored(self, tenant: str, library: Module) -> Module:
        key = (tenant, library)
        try:
            ref = self._store.lookup(tenant, name=library.path[1:]).ref
            known = self._known.get(key)
            if known is not None and known.version == ref:
                return self._again(key, known)
            with self._store.open(tenant, ref) as reading:
                if reading.data.nbytes > self._limit:
                    raise too_large(library.path, reading.data.nbytes, self._limit)
                code = bytes(reading.data)
        except NameNotFound:
            raise ModuleRejected(
                f"library {library.path!r}: the worker's store has no object of that name (`kaasq put` stores one)",
                library=library.path,
            ) from None
        return self._remember(key, _Known(module_of(code, library, suffix=""), ref, len(code)))

    def _file(self, library: Module) -> Module:
        key = ("", library)
        known = self._known.get(key)
        if known is not None and known.version is not None and known.version == look(known.candidates):
            return self._again(key, known)
        code, path, looks, settled = self._folders.read(library.path)
        module = module_of(code, library, suffix=path.suffix)
        version = looks if settled else None
        return self._remember(key, _Known(module, version, len(code), self._folders.candidates(library.path)))

    def _again(self, key: tuple[str, Module], known: _Known) -> Module:
        self._known.move_to_end(key)
        return known.module

    def _remember(self, key: tuple[str, Module], found: _Known) -> Module:
        before = self._known.pop(key, None)
        if before is not None:
            self._bytes -= before.nbytes
        self._known[key] = found
        self._bytes += found.nbytes
        while len(self._known) > 1 and (len(self._known) > REMEMBERED or self._bytes > REMEMBERED_BYTES):
            _, dropped = self._known.popitem(last=False)
            self._bytes -= dropped.nbytes
        return found.module
