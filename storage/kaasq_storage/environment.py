"""One store's open folder: its two LMDB environments, its capacity and its identity."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from kaasq.errors import StoreFull
from kaasq.log import get_logger
from kaasq_storage import staging
from kaasq_storage.accounts import quota_of
from kaasq_storage.errors import REMEDY, Faults
from kaasq_storage.identity import identify, make_folder
from kaasq_storage.mounts import MEMORY, file_system, network_file_system
from kaasq_storage.reading import Snapshots
from kaasq_storage.records import CAPACITY, QUOTA, USED, Counters, scan, scope, split
from kaasq_storage.spares import Spares

META_MAP_BYTES: Final = 64 << 30
BLOB_MAP_BYTES: Final = 1 << 40
# Address space, not disk: LMDB's files grow as they are written. The same in every process, so that no process ever
# has to follow another's resizing.

INLINE_BYTES: Final = 64 << 10
"""Values up to this size lie in the blob environment, larger ones are files (measured: docs/store.md)."""
MAX_READERS: Final = 512
SPARE_BYTES: Final = 1 << 30
SPARE_SHARE: Final = 16
"""Of files kept to be used again, in a store in shared memory at most so many bytes, and such a part of that memory;
elsewhere none, since the disk takes longer anyway."""

log = get_logger()


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How this process uses a store; the same for all who open it here."""

    sync: bool = True
    inline_bytes: int = INLINE_BYTES
    max_readers: int = MAX_READERS
    spare_bytes: int | None = None


class Environment:
    """Made by kaasq_storage.registry. ``idle`` is called when the last reading ends."""

    def __init__(self, path: Path, options: Options, idle: Callable[[Environment], None]) -> None:
        self.path = path
        self.sync = options.sync
        self.inline_bytes = options.inline_bytes
        self.options = options
        self.staging = path / "staging"
        self.memory = file_system(path) in MEMORY
        """Whether it lies in shared memory."""
        self._objects = str(path / "objects")
        spare = path / "spare"
        self.users = 0
        self.forked = False
        self._write_lock = threading.Lock()
        self._writer = 0
        with self.faults():
            make_folder(path)
            self.staging.mkdir(exist_ok=True)
            (path / "objects").mkdir(exist_ok=True)
            spare.mkdir(exist_ok=True)
            self.spares = Spares(spare, _spare_bytes(path) if options.spare_bytes is None else options.spare_bytes)
            self.meta = _open(path / "meta", META_MAP_BYTES, options)
            try:
                self.blobs = _open(path / "blobs", BLOB_MAP_BYTES, options)
                try:
                    self.id = identify(path, self.meta, self.blobs)
                    self.reader_check()
                except BaseException:
                    self.blobs.close()
                    raise
            except BaseException:
                self.meta.close()
                raise
        self.snapshots = Snapshots(self._begin_views, lambda: idle(self))
        kind = network_file_system(path)
        if kind is not None:
            log.warning("store.network_file_system", path=str(path), kind=kind)

    def faults(self, needed: int | None = None) -> Faults:
        """Translate foreign errors in a with block."""
        return Faults(self.path, needed)

    def reader_check(self) -> int:
        """Free the reader slots of processes that died: how many."""
        return self.meta.reader_check() + self.blobs.reader_check()

    def close(self) -> None:
        """Close both environments; nothing may refer to their memory any more."""
        self.meta.close()
        self.blobs.close()

    def abandon(self) -> None:
        """In a forked child: never touch LMDB again, not even when the interpreter ends."""
        self.forked = self.snapshots.forked = True
        for env in (self.meta, self.blobs):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(env))

    # ----------------------------------------------------------------------------------------------------- reading

    def read(self) -> lmdb.Transaction[bytes]:
        """A read transaction of the meta environment, to be used in a with block at once."""
        return self._begin(self.meta)

    def has(self, key: bytes) -> bool:
        """Whether there is a record under that key, expired or not."""
        with self.faults(), self.read() as txn:
            return txn.get(key) is not None

    def value(self, key: bytes) -> bytes | None:
        """A copy of a value of the blob environment."""
        with self.faults(), self._begin(self.blobs) as txn:
            return txn.get(key)

    def file_path(self, key: bytes) -> str:
        """Where an object's file lies. Text, for a Path takes longer to make than the file to open."""
        tenant, digest = split(key)
        ref = digest.hex()
        return f"{self._objects}/{tenant}/{ref[:2]}/{ref}"

    # ----------------------------------------------------------------------------------------------------- writing

    def remove_file(self, key: bytes) -> None:
        """Remove an object's file, or keep it for the tenant's next one. Under the blob environment's write lock."""
        path = Path(self.file_path(key))
        with contextlib.suppress(FileNotFoundError):
            if not self.spares.keep(path, split(key)[0], path.stat().st_size):
                path.unlink()

    def begin_write(self) -> lmdb.Transaction[bytes]:
        """Take the write lock of the store. Only ``end_write`` gives it back to this process's threads."""
        if self._writer == threading.get_ident():
            raise RuntimeError("this thread is in a transaction of this store already: finish that one first")
        self._write_lock.acquire()
        try:
            with self.faults():
                txn = self._begin(self.meta, write=True)
        except BaseException:
            self._write_lock.release()
            raise
        self._writer = threading.get_ident()
        return txn

    def end_write(self) -> None:
        """After commit or abort of what begin_write returned."""
        self._writer = 0
        self._write_lock.release()

    def begin_blobs(self) -> lmdb.Transaction[bytes]:
        """Write to the blob environment, and the lock under which files come and go. Only inside begin_write."""
        return self._begin(self.blobs, write=True)

    @property
    def writing(self) -> bool:
        """Whether this thread is in a transaction."""
        return self._writer == threading.get_ident()

    def _begin(self, env: lmdb.Environment, *, write: bool = False) -> lmdb.Transaction[bytes]:
        try:
            return env.begin(write=write)
        except (lmdb.MapResizedError, lmdb.ReadersFullError) as error:
            _mend(env, error)
            return env.begin(write=write)

    def _begin_views(self) -> lmdb.Transaction[memoryview]:
        try:
            return self.blobs.begin(buffers=True)
        except (lmdb.MapResizedError, lmdb.ReadersFullError) as error:
            _mend(self.blobs, error)
            return self.blobs.begin(buffers=True)

    # ---------------------------------------------------------------------------------------------------- capacity

    def usage(self) -> tuple[Counters, int]:
        """The totals, and the capacity in bytes."""
        with self.faults(), self.read() as txn:
            return Counters.load(txn), int.from_bytes(txn.get(CAPACITY) or b"", "big")

    def reserved(self) -> int:
        """Bytes of the files being staged, by all processes."""
        with self.faults():
            return staging.reserved(self.staging)

    def full(self, needed: int, used: int, capacity: int) -> StoreFull:
        """The error for a store without room."""
        return StoreFull(
            f"the store {self.path} has no room for {needed} bytes: {used} of its {capacity} bytes are used; "
            f"{REMEDY}, or raise the store's capacity",
            needed=needed,
            used=used,
            capacity=capacity,
            path=str(self.path),
        )

    def quota(self, tenant: str) -> tuple[int, int]:
        """The tenant's bytes, and how many it may have; 0 for any."""
        with self.faults(), self.read() as txn:
            return int.from_bytes(txn.get(scope(USED, tenant)) or b"", "big"), quota_of(txn, tenant)

    def set_quotas(self, everybody: int | None, by_tenant: Mapping[str, int]) -> None:
        """Change the quotas, for all processes. ``everybody`` None: as it is; who is not named has everybody's."""
        wanted = {scope(QUOTA, tenant): nbytes for tenant, nbytes in by_tenant.items()}
        txn = self.begin_write()
        try:
            with self.faults(), txn:
                for key in [key for key, _ in scan(txn, QUOTA) if key != QUOTA and key not in wanted]:
                    txn.delete(key)
                for key, nbytes in (wanted if everybody is None else {QUOTA: everybody, **wanted}).items():
                    txn.put(key, nbytes.to_bytes(8, "big"))
        finally:
            self.end_write()

    def set_capacity(self, capacity: int) -> None:
        """Change the capacity, for all processes."""
        txn = self.begin_write()
        try:
            with self.faults(), txn:
                txn.put(CAPACITY, capacity.to_bytes(8, "big"))
        finally:
            self.end_write()


def _spare_bytes(path: Path) -> int:
    """How much may be kept of files that are no objects any more, where nobody has said."""
    if file_system(path) not in MEMORY:
        return 0
    whole = os.statvfs(path)
    return min(SPARE_BYTES, whole.f_blocks * whole.f_frsize // SPARE_SHARE)


def _mend(env: lmdb.Environment, error: lmdb.Error) -> None:
    """Make the next attempt to begin a transaction succeed, or raise."""
    if isinstance(error, lmdb.MapResizedError):
        env.set_mapsize(0)  # adopt the size that another program gave it; fails if a reading is open
    elif not env.reader_check():
        raise error


def _open(path: Path, map_size: int, options: Options) -> lmdb.Environment:
    path.mkdir(exist_ok=True)
    return lmdb.open(
        str(path),
        map_size=map_size,
        sync=options.sync,
        max_readers=options.max_readers,
        meminit=False,
        mode=0o660,
        max_spare_txns=4,
    )
