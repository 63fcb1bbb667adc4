"""The client's side of the buffer store: opened on first use, arrays in and out of it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kaasq import codec
from kaasq.dtypes import BUFFER_DTYPES, canonical
from kaasq.errors import BadRequest, BufferMissing, KaasqError, StoreUnavailable
from kaasq.messages import Reply
from kaasq.model import Buffer, content_hash
from kaasq.names import is_ref
from kaasq_producers.references import BufferRef
from kaasq_producers.values import RAW_FORMATS, flat
from kaasq_storage import open_store
from kaasq_storage.protocol import DEFAULT_TTL_S, BufferStore, Collected, Named, Object, Staged, Usage, Wanted

Array = npt.NDArray[Any]

MANY = 8  # objects from which on those that are small are put together,
SMALL_BYTES = 256 << 10  # for copying them takes less time than making each durable,
BATCH = 256  # so many in one transaction


class Buffers:
    """One tenant's arrays in a store. Thread-safe.

    The store is opened when it is first needed, so a client of small messages never touches the disk; and again for
    a single read after ``close``, so that a result may be looked at after the client's ``with`` block.
    """

    def __init__(
        self,
        store: BufferStore | Path,
        tenant: str,
        *,
        capacity: int | None,
        sync: bool,
        spare_bytes: int | None = None,
    ) -> None:
        self._given = store
        self.tenant = tenant
        self._capacity, self._sync, self._spare_bytes = capacity, sync, spare_bytes
        self._opened: BufferStore | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def id(self) -> str | None:
        """The store's id, if it has been needed so far."""
        return None if self._opened is None else self._opened.id

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self._given if isinstance(self._given, Path) else self._given.path

    def put(
        self, value: Any, *, name: str | None = None, ttl_s: float = DEFAULT_TTL_S, dtype: Any = None, shape: Any = None
    ) -> BufferRef:
        """Store an array with its dtype and shape, or bytes (with ``dtype`` and ``shape`` if they are given)."""
        if isinstance(value, (bytes, bytearray)) or (isinstance(value, memoryview) and value.format in RAW_FORMATS):
            data, kind, dims = _described_bytes(value, dtype, shape)
        else:
            if dtype is not None or shape is not None:
                raise BadRequest("dtype and shape are for bytes; an array says dtype and shape itself", at="put")
            array = np.asarray(value)
            named = canonical(array.dtype)
            if named is None:
                native = array.dtype.newbyteorder("=")
                advice = f"array.astype({native.str!r})" if canonical(native) else "array.tobytes() or a view as uint8"
                raise BadRequest(f"an array of {array.dtype} cannot be stored as such; store {advice}", at="put")
            data, kind, dims = flat(array), named, array.shape
        if not data.nbytes:
            raise BadRequest("there is nothing to store: the data has 0 bytes", at="put")
        with self._store() as store:
            made, version = store.put(self.tenant, data, dtype=kind, shape=dims, name=name, ttl_s=ttl_s)
        return reference(made, name, version)

    def put_all(self, values: Sequence[tuple[memoryview, Buffer]], *, ttl_s: float) -> list[str]:
        """Store the bytes of several inputs, each with its buffer's dtype and shape; their refs.

        Where they are many and small, what is written is made durable once for a batch of them.
        """
        small = [index for index, (data, _) in enumerate(values) if data.nbytes <= SMALL_BYTES]
        refs: dict[int, str] = {}
        for start in range(0, len(small) if len(small) >= MANY else 0, BATCH):
            batch = small[start : start + BATCH]
            refs |= zip(batch, self._put_batch([values[index] for index in batch], ttl_s), strict=True)
        for index, (data, buffer) in enumerate(values):
            if index not in refs:  # neither copied nor, if the store has it already, written
                refs[index] = self.put(data, ttl_s=ttl_s, dtype=buffer.dtype, shape=buffer.shape).ref
        return [refs[index] for index in range(len(values))]

    def get(self, key: str | BufferRef) -> Array:
        """A copy of a stored array, with its dtype and shape (uint8 if it has none). Raises NameNotFound."""
        with self._store() as store:
            found = store.lookup(self.tenant, **which(key))
            return self._read(store, found.ref, found.dtype, found.shape)

    def read(self, ref: str, dtype: str | None, shape: tuple[int, ...] | None) -> Array:
        """A copy of an object's bytes as that dtype and shape. Raises NameNotFound."""
        with self._store() as store:
            return self._read(store, ref, dtype, shape)

    def delete(self, key: str | BufferRef) -> None:
        """Remove a name, or an unnamed object by its ref. Raises NameNotFound."""
        with self._store() as store:
            store.delete(self.tenant, **which(key))

    def names(self, prefix: str = "") -> list[Named]:
        """The names that start so, in order."""
        with self._store() as store:
            return list(store.names(self.tenant, prefix))

    def outcome(self, request_id: str) -> Reply | None:
        """How one of the tenant's requests ended, its small outputs inline; None if the store does not know (any
        more).
        """
        with self._store() as store:
            found = store.outcome(self.tenant, request_id)
        return None if found is None else codec.decode_reply(found.reply, codec.MSGPACK)

    def objects(self) -> list[Object]:
        """All objects, named or not."""
        with self._store() as store:
            return list(store.objects(self.tenant))

    def gc(self) -> Collected:
        """Remove what has expired."""
        with self._store() as store:
            return store.gc()

    def damaged(self) -> Iterator[tuple[Object, str]]:
        """The objects whose bytes are not what was stored, and what is wrong with each. Reads all of them."""
        with self._store() as store:
            for each in store.objects(self.tenant):
                try:
                    with store.open(self.tenant, each.ref) as reading:
                        wrong = None if content_hash(reading.data) == each.ref else "its bytes have changed"
                except KaasqError as error:
                    wrong = error.message
                if wrong is not None and any(store.lookup_all(self.tenant, [Wanted(ref=each.ref)])):
                    yield each, wrong  # else it was deleted meanwhile

    def usage(self) -> Usage:
        """How full the store is."""
        with self._store() as store:
            return store.usage()

    def close(self) -> None:
        """Close the store, if this opened it. Idempotent."""
        with self._lock:
            self._closed = True
            if self._opened is not None and isinstance(self._given, Path):
                self._opened.close()
                self._opened = None

    @contextmanager
    def _store(self) -> Iterator[BufferStore]:
        if not isinstance(self._given, Path):
            self._opened = self._given
            yield self._given
            return
        with self._lock:
            if not self._closed and self._opened is None:
                self._opened = self._open(self._given)
            store = self._opened
        if store is not None:
            yield store
            return
        if not self._given.is_dir():  # opening it would make a new one
            raise StoreUnavailable(
                f"the client is closed, and its store in {self._given} is gone with it: look at results before it is "
                f"closed, or give kaasq.local a folder (store=...), which stays",
                store=str(self._given),
            )
        store = self._open(self._given)
        try:
            yield store
        finally:
            store.close()

    def _open(self, path: Path) -> BufferStore:
        return open_store(path, capacity=self._capacity, sync=self._sync, spare_bytes=self._spare_bytes)

    def _put_batch(self, batch: Sequence[tuple[memoryview, Buffer]], ttl_s: float) -> list[str]:
        refs: list[str] = []
        with self._store() as store, ExitStack() as staging:
            staged: list[tuple[Staged, Buffer]] = []
            for data, buffer in batch:
                each = store.stage(self.tenant, data.nbytes)
                staging.callback(each.discard)  # does nothing once it is published
                each.data[:] = data
                each.seal()  # before the transaction, which holds up all other writers
                staged.append((each, buffer))
            with store.transaction() as transaction:
                for each, buffer in staged:
                    made, _ = transaction.publish(each, dtype=buffer.dtype, shape=buffer.shape, ttl_s=ttl_s)
                    refs.append(made.ref)
        return refs

    def _read(self, store: BufferStore, ref: str, dtype: str | None, shape: tuple[int, ...] | None) -> Array:
        with store.open(self.tenant, ref) as reading:
            return owned(reading.data, dtype, shape)


def which(key: str | BufferRef) -> dict[str, str]:
    """A key as the store's keyword: 64 hexadecimal digits are a ref, everything else is a name."""
    if isinstance(key, BufferRef):
        return {"ref": key.ref}
    if not isinstance(key, str):
        raise BadRequest(f"expected a name, a ref or a BufferRef, given a {type(key).__name__}")
    return {"ref": key} if is_ref(key) else {"name": key}


def reference(made: Object, name: str | None = None, version: int | None = None) -> BufferRef:
    """The store's object as a user holds it."""
    return BufferRef(ref=made.ref, nbytes=made.nbytes, dtype=made.dtype, shape=made.shape, name=name, version=version)


def owned(data: bytes | memoryview, dtype: str | None, shape: tuple[int, ...] | None) -> Array:
    """The bytes as a writable array with memory of its own. Raises ValueError if they do not fit dtype and shape."""
    kind = np.dtype(np.uint8 if dtype is None else dtype)
    array = np.frombuffer(data, kind)
    if shape is not None:
        array = array.reshape(shape)
    return array.copy()


def missing(error: BufferMissing, ours: Buffers, theirs: str) -> BufferMissing:
    """The same error, saying so if the worker uses another store than the one that this client uses."""
    if not theirs or ours.id is None or ours.id == theirs:
        return error
    return type(error)(
        f"{error.message}. The worker uses store {theirs}, but this client uses store {ours.id} in {ours.path}: give "
        f"both the same folder (--store, KAASQ_STORE, Client(store=...))",
        **{**error.detail, "worker_store": theirs, "client_store": ours.id},
    )


def _described_bytes(
    value: bytes | bytearray | memoryview, dtype: Any, shape: Any
) -> tuple[memoryview, str | None, tuple[int, ...] | None]:
    data = memoryview(value)
    data = data.cast("B") if data.c_contiguous else memoryview(data.tobytes())
    if dtype is None:
        if shape is not None:
            raise BadRequest("a shape needs a dtype", at="put")
        return data, None, None
    kind = canonical(dtype)
    if kind is None:
        raise BadRequest(f"{dtype!r} is no dtype; known are {', '.join(BUFFER_DTYPES)}", at="put")
    size = np.dtype(kind).itemsize
    if shape is None and data.nbytes % size:
        raise BadRequest(f"{data.nbytes} bytes were given: no whole number of {kind}, of {size} bytes each", at="put")
    dims = (data.nbytes // size,) if shape is None else tuple(int(each) for each in shape)
    expected = math.prod(dims) * size
    if expected != data.nbytes or min(dims, default=0) < 0:
        raise BadRequest(f"{data.nbytes} bytes were given, but {kind} {dims} takes {expected}", at="put")
    return data, kind, dims
