"""Translates what LMDB and the file system raise into kaasq's errors: the only place that knows both."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from types import TracebackType

import lmdb

from kaasq.errors import KaasqError, StoreFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PROBE_BYTES = 1 << 20
REMEDY = "remove something (kaasq rm), collect what has expired (kaasq gc)"


class Faults:
    """``with Faults(folder):`` raises StoreFull or StoreUnavailable for foreign errors inside.

    A class and not a generator: it guards paths that take microseconds.
    """

    __slots__ = ("_folder", "_needed")

    def __init__(self, folder: Path, needed: int | None = None) -> None:
        self._folder = folder
        self._needed = needed

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (lmdb.Error, OSError)):
            raise translated(error, self._folder, self._needed) from error


def translated(error: lmdb.Error | OSError, folder: Path, needed: int | None = None) -> KaasqError:
    """The kaasq error for a foreign one, with what a person can do about it."""
    number = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
    at = str(folder)
    if isinstance(error, lmdb.MapFullError):
        return StoreFull(f"the store {at} has reached the size its database can map: {REMEDY}", needed=needed, path=at)
    if number in _FULL or isinstance(error, lmdb.DiskError):
        return _disk_full(folder, needed)
    # LMDB reports a write cut short by a full disk as an input/output error.
    if number == errno.EIO and _is_full(folder):
        return _disk_full(folder, needed)
    if isinstance(error, lmdb.ReadersFullError):
        return StoreUnavailable(
            f"the store {at} has no free reader slot: too many processes use it, or processes that "
            "died hold slots; kaasq gc frees those",
            path=at,
        )
    if isinstance(error, lmdb.MapResizedError):
        return StoreUnavailable(
            f"another program enlarged the database of {at}: close the store and open it again", path=at
        )
    if isinstance(error, lmdb.MemoryError) or number == errno.ENOMEM:
        return StoreUnavailable(
            f"no address space to map the store {at}: raise the limit on virtual memory (ulimit -v)", path=at
        )
    if isinstance(error, (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)):
        return StoreUnavailable(f"{at} is no kaasq store, or is damaged ({error})", path=at)
    if isinstance(error, (lmdb.ReadonlyError, PermissionError)) or number in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return StoreUnavailable(
            f"the store {at} cannot be written ({error}): user {os.getuid()} needs read and write permission "
            "to the folder and everything in it",
            path=at,
        )
    if number in {errno.ENOTDIR, errno.EEXIST}:
        return StoreUnavailable(f"{at} is no folder ({error}): give a folder for the store", path=at)
    if isinstance(error, lmdb.LockError):
        return StoreUnavailable(
            f"the lock file of the store {at} cannot be used ({error}): a store needs a local file system", path=at
        )
    return StoreUnavailable(f"the store {at} does not work: {error}", path=at)


def _disk_full(folder: Path, needed: int | None) -> StoreFull:
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    return StoreFull(
        f"the disk under the store {folder} is full ({free} bytes free, or a quota or file size limit is reached): "
        f"{REMEDY}, or make room on the disk",
        needed=needed,
        used=(disk.f_blocks - disk.f_bfree) * disk.f_frsize,
        capacity=disk.f_blocks * disk.f_frsize,
        path=str(folder),
    )


def _is_full(folder: Path) -> bool:
    """Whether the disk refuses a little more, be it for lack of space, for a quota or for a limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft != resource.RLIM_INFINITY:
        return True
    probe = folder / f"probe-{os.getpid()}"
    try:
        fd = os.open(probe, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _PROBE_BYTES)
        finally:
            os.close(fd)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return error.errno in _FULL
    return False
