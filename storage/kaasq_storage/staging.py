"""Bytes on their way into the store: small ones in memory, large ones in a file that is its own reservation.

A file being staged lies in the store's ``staging`` folder at its full size, under an exclusive flock. So the space
that all processes have reserved is the sum of the sizes there, and a file without a lock belongs to nobody any more:
a killed process leaves nothing that has to be remembered elsewhere.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from blake3 import blake3

from kaasq.errors import BadRequest
from kaasq_storage.records import object_key

if TYPE_CHECKING:
    from kaasq_storage.environment import Environment

Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]

MAPPED_BYTES: Final = 32 << 20
"""From this size on the file itself is mapped for writing; below, filling memory and writing it out is faster."""
_THREADED_BYTES: Final = 4 << 20
_WRITE_BYTES: Final = 64 << 20


def hash_of(data: Bytes) -> str:
    """kaasq.model.content_hash, by all cores where that pays."""
    return blake3(data.data, max_threads=blake3.AUTO if data.nbytes >= _THREADED_BYTES else 1).hexdigest()


class StagingFile:
    """A file of its full size in the staging folder, locked as long as this object is open."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        self.nbytes = nbytes
        self._placed: Path | None = None
        while True:
            self._path = folder / secrets.token_hex(8)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_nlink:
                break
            os.close(self._fd)  # swept away between the two calls
        try:
            # Not ftruncate: writing to a hole of a mapped file on a full disk kills the process.
            os.posix_fallocate(self._fd, 0, nbytes)
        except BaseException:
            self.close()
            raise

    def write(self, data: Bytes) -> None:
        """Fill it."""
        view, at = data.data, 0
        while at < self.nbytes:
            at += os.pwrite(self._fd, view[at : at + _WRITE_BYTES], at)

    def map(self) -> Bytes:
        """Its bytes, writable."""
        return np.frombuffer(mmap.mmap(self._fd, self.nbytes), np.uint8)

    def sync(self) -> None:
        """Survive a power cut."""
        os.fsync(self._fd)

    def place(self, target: Path) -> None:
        """Move to where objects lie; whatever lies there is left over from a crash."""
        self._path.rename(target)
        self._placed = target

    def take_back(self) -> None:
        """Undo place: the transaction did not come about."""
        if self._placed is not None:
            self._placed.rename(self._path)
            self._placed = None

    def close(self) -> None:
        """Remove the file unless it was placed. Idempotent."""
        if self._fd < 0:
            return
        if self._placed is None:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)  # last, for it gives up the lock
        self._fd = -1


class StagedData:
    """A Staged of either kind. Call ``seal`` before the transaction: it hashes, writes and syncs."""

    def __init__(
        self, store: Environment, tenant: str, nbytes: int, given: Bytes | None = None, *, file: bool = True
    ) -> None:
        self.file: StagingFile | None = None
        self._store = store
        self.tenant = tenant
        self.nbytes = nbytes
        self._ref: str | None = None
        self._written = False
        self._given = given is not None
        if file and nbytes > store.inline_bytes:
            self.file = StagingFile(store.staging, nbytes)
        self._mapped = self.file is not None and not self._given and nbytes >= MAPPED_BYTES
        if given is not None:
            self.contents = given
        elif self.file is not None and self._mapped:
            self.contents = self.file.map()
        else:
            self.contents = np.empty(nbytes, np.uint8)
        writable = self.contents.view()
        self._exporter = weakref.ref(writable)  # see kaasq_storage.reading: outlives the view if anything uses it
        self.data = writable.data

    def seal(self, ref: str | None = None) -> str:
        """No more writing; the content hash. Idempotent.

        Raises BufferError while an array made from ``data`` is alive: it could change what the hash stands for.
        """
        if self._ref is not None:
            return self._ref
        self._release()
        self._ref = ref or hash_of(self.contents)
        self.data = self.contents.data.toreadonly()
        if self.file is not None and not self._store.has(object_key(self.tenant, self._ref)):
            self.write_out()
        return self._ref

    def write_out(self) -> None:
        """Bring the bytes to the file, to survive a power cut if the store promises that. Idempotent."""
        if self.file is None or self._written:
            return
        with self._store.faults(self.nbytes):
            if not self._mapped:
                self.file.write(self.contents)
            if self._store.sync:
                self.file.sync()
        self._written = True

    def discard(self) -> None:
        """Give the space back. Does nothing once published."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __del__(self) -> None:
        if not self._store.forked:  # a child's copy is not the owner of the file
            self.discard()

    def _release(self) -> None:
        if self._given:
            return
        try:
            self.data.release()
        except BufferError:
            pass
        if self._exporter() is not None:
            raise BufferError("something still refers to the staged data (an array made from it?): drop it first")


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


def as_bytes(data: bytes | bytearray | memoryview) -> Bytes:
    """Any contiguous buffer as plain bytes, without a copy. Raises BadRequest."""
    view = memoryview(data)
    if not view.nbytes:
        raise BadRequest("an object has at least one byte")
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return np.frombuffer(view, np.uint8)
