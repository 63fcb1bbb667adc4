"""The folders whose files a request may name as libraries: only what lies inside is read, links and all resolved."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kaasq.errors import BadRequest, Forbidden, ModuleRejected

LISTED = 20  # files named in a message
VISITED = 1000  # entries looked at to find them
# A file that changed twice within a tick of its file system's clock may look the same, so a young one is read again.
SETTLED_NS = 2_000_000_000

Signature = tuple[int, int, int, int, int]


class Found(NamedTuple):
    """A file's bytes, where it lies, and how it looked. ``settled``: its next change will show in how it looks."""

    code: bytes
    path: Path
    looks: Signature
    settled: bool


class ModuleFolders:
    """``folders`` are separated as in PATH; empty: none. ``limit``: the largest file that is read, in bytes.

    Raises BadRequest for a folder that is none.
    """

    def __init__(self, folders: str, *, limit: int) -> None:
        self._folders = [_folder(each) for each in folders.split(os.pathsep) if each]
        self._limit = limit

    def candidates(self, name: str) -> tuple[str, ...]:
        """Where the file of that name may lie, for ``look``."""
        return tuple(str(folder / name) for folder in self._folders)

    def read(self, name: str) -> Found:
        """The file of that name. Raises Forbidden for one outside of the folders, ModuleRejected for none."""
        if not self._folders:
            raise Forbidden(
                f"library {name!r}: this worker has no module folder (`kaasq worker --modules DIR`); send the module "
                "in the request, or store it and name it with an '@'",
                library=name,
            )
        try:
            path = self._find(name)
            with open(path, "rb", opener=_unwaiting) as file:
                before = os.fstat(file.fileno())
                if not stat.S_ISREG(before.st_mode):
                    raise ModuleRejected(f"library {name!r} is no regular file", library=name)
                # Again, of what is open: a link may have taken the place of what was found.
                if not self._holds(Path(f"/proc/self/fd/{file.fileno()}").readlink()):
                    raise _outside(name)
                code = file.read(self._limit + 1)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise ModuleRejected(f"library {name!r} cannot be read: {error.strerror}", library=name) from None
        if len(code) > self._limit:
            raise too_large(name, max(len(code), after.st_size), self._limit)
        unchanged = _signature(before) == _signature(after)
        return Found(code, path, _signature(after), unchanged and time.time_ns() - after.st_ctime_ns > SETTLED_NS)

    def _find(self, name: str) -> Path:
        paths = [Path(os.path.realpath(folder / name)) for folder in self._folders]  # whether they exist or not
        inside = [path for path in paths if self._holds(path)]
        if not inside:  # said before looking for it: whether it is there is nobody's business
            raise _outside(name)
        for path in inside:
            if look((str(path),)) is not None:
                return path
        held = sorted(islice(_files(self._folders), LISTED))
        raise ModuleRejected(
            f"the worker's module folders have no {name!r}; they hold {', '.join(held) or 'nothing'}",
            library=name,
            files=held,
        )

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(each) for each in self._folders)


def look(candidates: tuple[str, ...]) -> Signature | None:
    """How the first of them that exists looks, links followed: one that now leads elsewhere looks different."""
    for path in candidates:
        try:
            return _signature(os.stat(path))  # noqa: PTH116 - for every request, and a Path takes twice as long
        except OSError:
            continue
    return None


def too_large(name: str, nbytes: int, limit: int) -> ModuleRejected:
    """The error for a library above the limit of a module."""
    return ModuleRejected(
        f"library {name!r} has {nbytes} bytes, the limit is {limit} (graph_limits.module_bytes)", library=name
    )


def _outside(name: str) -> Forbidden:
    return Forbidden(f"library {name!r} is not below the worker's module folders", library=name)


def _folder(given: str) -> Path:
    path = Path(os.path.realpath(Path(given).expanduser()))
    if not path.is_dir():
        raise BadRequest(f"{given!r} is no folder", at="modules")
    return path


def _signature(found: os.stat_result) -> Signature:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
                        yield _shown(Path(entry.path).relative_to(folder))


def _shown(path: Path) -> str:
    """For a message, whose text is UTF-8, which a file's name need not be."""
    return path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace")
