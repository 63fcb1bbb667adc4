"""Modules that lie with the worker: files below its module folders, objects in its store. Noticed when they change."""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kaasq.errors import BadRequest, Forbidden, ModuleRejected, NameNotFound
from kaasq.model import Module
from kaasq_storage import BufferStore
from kaasq_workers.executor.library_code import module_of

REMEMBERED = 1024
REMEMBERED_BYTES = 256 << 20
LISTED = 20  # files named in a message
VISITED = 1000  # entries looked at to find them
# A file that changed twice within a tick of its file system's clock may look the same, so a young one is read again.
SETTLED_NS = 2_000_000_000

Signature = tuple[int, int, int, int, int]


class _Known(NamedTuple):
    module: Module
    version: Signature | str
    """What it was made from: how the file looked, or the hash of the object."""
    settled: bool
    nbytes: int
    candidates: tuple[str, ...] = ()
    """Where the file may lie, links and all."""


class Libraries:
    """Resolves modules of kind ``library`` for one executor. Used from one thread.

    ``folders`` are what requests may name files in, separated as in PATH; empty: they may name objects only. Raises
    BadRequest for a folder that is none. ``limit``: the largest module, in bytes.
    """

    def __init__(self, folders: str, store: BufferStore, *, limit: int) -> None:
        self._folders = [_folder(each) for each in folders.split(os.pathsep) if each]
        self._store = store
        self._limit = limit
        self._known: OrderedDict[tuple[str, Module], _Known] = OrderedDict()
        self._bytes = 0

    def resolve(self, tenant: str, library: Module) -> Module:
        """The module that the library is now: the same one as long as it does not change.

        Raises Forbidden for a path outside of the folders, ModuleRejected for what is not there or no device code.
        """
        if library.path.startswith("@"):
            return self._stored(tenant, library)
        return self._file(library)

    def _stored(self, tenant: str, library: Module) -> Module:
        name = library.path[1:]
        key = (tenant, library)
        try:
            ref = self._store.lookup(tenant, name=name).ref
            known = self._known.get(key)
            if known is not None and known.version == ref:
                self._known.move_to_end(key)
                return known.module
            with self._store.open(tenant, ref) as reading:
                self._check_size(library, reading.data.nbytes)
                code = bytes(reading.data)
        except NameNotFound:
            raise ModuleRejected(
                f"library {library.path!r}: the worker's store has no object of that name (`kaasq put` stores one)",
                library=library.path,
            ) from None
        module = module_of(code, library, suffix="")
        return self._remember(key, _Known(module, ref, settled=True, nbytes=len(code)))

    def _file(self, library: Module) -> Module:
        if not self._folders:
            raise Forbidden(
                f"library {library.path!r}: this worker has no module folder (`kaasq worker --modules DIR`); send the "
                "module in the request, or store it and name it with an '@'",
                library=library.path,
            )
        key = ("", library)
        known = self._known.get(key)
        if known is not None and known.settled and known.version == _look(known.candidates):
            self._known.move_to_end(key)
            return known.module
        path = self._find(library)
        code, signature, settled = self._read(library, path)
        module = module_of(code, library, suffix=path.suffix)
        candidates = tuple(str(folder / library.path) for folder in self._folders)
        return self._remember(key, _Known(module, signature, settled, len(code), candidates))

    def _find(self, library: Module) -> Path:
        inside: list[Path] = []
        for folder in self._folders:
            path = Path(os.path.realpath(folder / library.path))  # whether it exists or not
            if any(path.is_relative_to(each) for each in self._folders):
                inside.append(path)
        if not inside:  # said before looking for it: whether it is there is nobody's business
            raise Forbidden(f"library {library.path!r} is not below the worker's module folders", library=library.path)
        for path in inside:
            if _status(path) is not None:
                return path
        held = sorted(islice(_files(self._folders), LISTED))
        raise ModuleRejected(
            f"the worker's module folders have no {library.path!r}; they hold {', '.join(held) or 'nothing'}",
            library=library.path,
            files=held,
        )

    def _read(self, library: Module, path: Path) -> tuple[bytes, Signature, bool]:
        """The file's bytes, how it looked meanwhile, and whether that will tell the next change."""
        try:
            with open(path, "rb", opener=_unwaiting) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ModuleRejected(f"library {library.path!r} is no file", library=library.path)
                self._check_size(library, before.st_size)
                code = file.read(self._limit + 1)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise ModuleRejected(
                f"library {library.path!r} cannot be read: {error.strerror}", library=library.path
            ) from None
        self._check_size(library, len(code))
        unchanged = _signature(before) == _signature(after)
        settled = unchanged and time.time_ns() - after.st_ctime_ns > SETTLED_NS
        return code, _signature(after), settled

    def _check_size(self, library: Module, nbytes: int) -> None:
        if nbytes > self._limit:
            raise ModuleRejected(
                f"library {library.path!r} has {nbytes} bytes, the limit is {self._limit} (graph_limits.module_bytes)",
                library=library.path,
            )

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


def _folder(given: str) -> Path:
    path = Path(os.path.realpath(Path(given).expanduser()))
    if not path.is_dir():
        raise BadRequest(f"{given!r} is no folder", at="modules")
    return path


def _signature(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _look(candidates: tuple[str, ...]) -> Signature | None:
    """How the file looks now, links followed: a link that now leads elsewhere looks different."""
    for path in candidates:
        try:
            return _signature(os.stat(path))  # noqa: PTH116 - for every request, and a Path takes twice as long
        except OSError:
            continue
    return None


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):  # the latter for what cannot be a path
        return None


def _unwaiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for a writer


def _files(folders: list[Path]) -> Iterator[str]:
    """Some of the files in the folders, as a request would name them."""
    visited = 0
    for folder in folders:
        waiting = [folder]
        while waiting:
            with suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    visited += 1
                    if visited > VISITED:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        yield Path(entry.path).relative_to(folder).as_posix()
