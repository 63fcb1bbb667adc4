"""Zero-copy reading with a guard: bytes stay mapped until the last thing that refers to them is gone.

LMDB hands out bare addresses that go stale when their transaction ends. So every view is exported by a NumPy array
that exists for this purpose alone: whatever is made from the view keeps that array alive, and its end, seen through a
weak reference, is what gives the transaction back. For a file the array keeps the mapping, which needs no more care.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, Self

import lmdb
import numpy as np

from kaasq_storage.mapping import Bytes, mapped
from kaasq_storage.protocol import Object

_ATTEMPTS: Final = 5
SNAPSHOT_S: Final = 0.05
"""For how long views opened one after the other share a snapshot: it keeps pages from being used again."""


class GuardedReading:
    """A Reading of either kind: a view of ``exporter``, which nothing but views may refer to."""

    __slots__ = ("_exporter", "data", "object")

    def __init__(self, entry: Object, exporter: Bytes) -> None:
        self.object = entry
        self.data = exporter.data
        self._exporter = weakref.ref(exporter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.data.release()  # fails where an array was made from the view itself
        except BufferError:
            self.data = memoryview(b"")  # not ours any more: it lives as long as what refers to it
        if self._exporter() is None:
            return
        # Something made from a part of the view is not seen by release(), but it keeps the exporter.
        if exc[0] is None:
            raise BufferError(
                f"something still refers to the bytes of object {self.object.ref[:12]} (an array made from its "
                "data?): copy them or drop it inside the with block; the bytes stay mapped until it is gone"
            )


class Snapshot:
    """A read transaction of the blob environment, shared by the views opened while it was new."""

    __slots__ = ("born", "guards", "txn")

    def __init__(self, txn: lmdb.Transaction[memoryview]) -> None:
        self.txn = txn
        self.born = time.monotonic()
        self.guards: dict[int, weakref.ref[object]] = {}


class Snapshots:
    """The open snapshots of one environment. ``idle`` is called each time the last view is gone."""

    def __init__(self, begin: Callable[[], lmdb.Transaction[memoryview]], idle: Callable[[], None]) -> None:
        self._begin = begin
        self._idle = idle
        self._lock = threading.Lock()
        self._current: Snapshot | None = None
        self._ended: deque[tuple[Snapshot, int]] = deque()
        self._open = 0
        self.forked = False

    def view(self, key: bytes) -> Bytes | None:
        """The stored value as an array that guards it, or None."""
        with self._lock:
            self._drain()
            snapshot = self._current
            raw = None
            if snapshot is not None and time.monotonic() - snapshot.born < SNAPSHOT_S:
                raw = snapshot.txn.get(key)
            if raw is None:  # no snapshot, an old one, or one from before this value
                snapshot = Snapshot(self._begin())
                raw = snapshot.txn.get(key)
                if raw is None:
                    snapshot.txn.abort()
                    return None
                self._current = snapshot
                self._open += 1
            assert snapshot is not None
            exporter = np.frombuffer(raw, np.uint8)
            self._guard(snapshot, exporter)
            return exporter

    @property
    def open(self) -> int:
        """How many snapshots have views."""
        return self._open

    def _guard(self, snapshot: Snapshot, exporter: Bytes) -> None:
        ended = self._ended
        settle = self._settle

        def gone(guard: weakref.ref[object]) -> None:
            # Runs wherever the last reference goes, perhaps inside this very module: so nothing here may block.
            ended.append((snapshot, id(guard)))
            settle()

        guard: weakref.ref[object] = weakref.ref(exporter, gone)
        snapshot.guards[id(guard)] = guard

    def _settle(self) -> None:
        # Whoever holds the lock looks again after letting it go, so that nothing stays behind.
        while self._ended and not self.forked and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()
        if not self._open:
            self._idle()

    def _drain(self) -> None:
        while self._ended and not self.forked:  # a child's copy shares its reader slots with the parent
            snapshot, guard = self._ended.popleft()
            del snapshot.guards[guard]
            if not snapshot.guards:
                snapshot.txn.abort()
                self._open -= 1
                if self._current is snapshot:
                    self._current = None


def opened(path: str, nbytes: int) -> Bytes | None:
    """The file as an array that keeps it mapped, though the file be removed; None if there is no such file.

    The shared lock lives with the mapping, which has the file open for itself: nobody else uses the file's pages until
    then (see kaasq_storage.spares).
    """
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(fd)
            if status.st_size != nbytes:
                return None  # cut short by a power failure; reading on would end in SIGBUS
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.stat(path).st_ino == status.st_ino:  # noqa: PTH116 - a Path takes longer
                return mapped(fd, nbytes)
        except (BlockingIOError, FileNotFoundError):
            pass  # it is just being taken away
        finally:
            os.close(fd)
    return None
