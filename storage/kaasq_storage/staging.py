"""The staging folder: files on their way into the store, each its own reservation.

A file being staged lies in the store's ``staging`` folder at its full size, under an exclusive flock. So the space
that all processes have reserved is the sum of the sizes there, and a file without a lock belongs to nobody any more:
a killed process leaves nothing that has to be remembered elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from kaasq_storage.mapping import Bytes, mapped
from kaasq_storage.pages import FROM_BYTES as HUGE_FROM_BYTES
from kaasq_storage.pages import allocate
from kaasq_storage.spares import Spares

_WRITE_BYTES: Final = 64 << 20


class StagingFile:
    """A file of its full size in the staging folder, locked as long as this object is open."""

    def __init__(self, folder: Path, nbytes: int, tenant: str, spares: Spares, *, memory: bool) -> None:
        """What it holds at first is undefined: it may have been another file of the tenant's.

        ``memory``: the folder lies in shared memory.
        """
        self.nbytes = nbytes
        self.huge = memory and nbytes >= HUGE_FROM_BYTES
        """Whether it lies in huge pages, if there are any: then a mapping is the fastest way to fill it."""
        self._tenant = tenant
        self._spares = spares
        self._placed: Path | None = None
        self._path = folder / secrets.token_hex(8)
        spare = spares.take(tenant, nbytes, self._path)
        self._fd = spare if spare is not None else self._make(folder)
        try:
            there = 0
            if spare is not None:
                there = min(os.fstat(spare).st_size, nbytes)
                os.ftruncate(spare, there)
            if there < nbytes:
                allocate(self._fd, there, nbytes, memory=memory)
        except BaseException:
            self.close(reuse=False)
            raise

    def _make(self, folder: Path) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
            os.close(fd)  # swept away between the two calls
            self._path = folder / secrets.token_hex(8)

    def write(self, data: Bytes) -> None:
        """Fill it."""
        if self.huge:
            self.map()[:] = data
            return
        view, at = data.data, 0
        while at < self.nbytes:
            at += os.pwrite(self._fd, view[at : at + _WRITE_BYTES], at)

    def map(self) -> Bytes:
        """Its bytes, writable."""
        return mapped(self._fd, self.nbytes, writable=True)

    def sync(self) -> None:
        """Survive a power cut."""
        os.fsync(self._fd)

    def place(self, target: Path) -> None:
        """Move to where objects lie; whatever lies there is left over from a crash."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)  # as all who map it, which goes on for as long as what ``map`` gave lives
        self._path.rename(target)
        self._placed = target

    def take_back(self) -> None:
        """Undo place: the transaction did not come about."""
        if self._placed is not None:
            self._placed.rename(self._path)
            self._placed = None
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def close(self, *, reuse: bool = True) -> None:
        """Give the file up unless it was placed, to be used again or at once. Idempotent."""
        if self._fd < 0:
            return
        if self._placed is None:
            fcntl.flock(self._fd, fcntl.LOCK_SH)  # if somebody still has it mapped, the lock goes on with the mapping
            if not reuse or not self._spares.keep(self._path, self._tenant, self.nbytes):
                self._path.unlink(missing_ok=True)
        os.close(self._fd)  # last, for it gives up the lock
        self._fd = -1


def sweep(folder: Path) -> tuple[int, int]:
    """Remove what died with its process: how many files, and their bytes."""
    count = nbytes = 0
    for entry in os.scandir(folder):
        try:
            fd = os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(fd).st_size
            Path(entry.path).unlink()
        except (BlockingIOError, FileNotFoundError):
            continue  # alive, or just gone
        finally:
            os.close(fd)
        if size:  # else its owner had no time to lock it; if it is alive, it makes another one
            count, nbytes = count + 1, nbytes + size
    return count, nbytes


def reserved(folder: Path) -> int:
    """Bytes being staged now, by all processes."""
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:
            pass
    return total
