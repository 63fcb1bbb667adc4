"""LmdbStore: the BufferStore over one folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from kaasq.errors import BadRequest, NameNotFound, StoreUnavailable
from kaasq.names import NAME_BYTES
from kaasq_storage import collect, notes, registry
from kaasq_storage.admission import admit
from kaasq_storage.environment import INLINE_BYTES, MAX_READERS, Environment, Options
from kaasq_storage.ledger import keep_until
from kaasq_storage.mapping import Bytes
from kaasq_storage.protocol import (
    DEFAULT_TTL_S,
    Collected,
    Labelled,
    Named,
    Noted,
    Object,
    Outcome,
    TenantUsage,
    Usage,
    Wanted,
)
from kaasq_storage.reading import GuardedReading, opened
from kaasq_storage.records import (
    NAME,
    OBJECT,
    ObjectRecord,
    decode_name,
    decode_object,
    decode_outcome,
    described,
    name_key,
    named,
    object_key,
    outcome_key,
    recorded,
    scan,
    scope,
)
from kaasq_storage.staged import StagedData, as_bytes, hash_of
from kaasq_storage.transaction import LmdbTransaction, outcome_of

_PAGE: Final = 256  # entries that an iteration fetches at a time


class LmdbStore:
    """See BufferStore. Made by ``open_store``; several of one process may share one folder."""

    def __init__(self, env: Environment, clock: Callable[[], float]) -> None:
        self.id = env.id
        self.path = env.path
        self._shared = env
        self._clock = clock
        self._closed = False

    @property
    def _env(self) -> Environment:
        if self._closed:
            raise StoreUnavailable("the store is closed", path=str(self.path))
        if self._shared.forked:
            raise StoreUnavailable(registry.forked_message(self.path), path=str(self.path))
        return self._shared

    # ------------------------------------------------------------------------------------------------------ writing

    def put(
        self,
        tenant: str,
        data: bytes | bytearray | memoryview,
        *,
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
        name: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
    ) -> tuple[Object, int | None]:
        """See the protocol. Contents that are there already, for long enough, are not written at all."""
        env, contents = self._env, as_bytes(data)
        ref = hash_of(contents)
        kept_until = keep_until(self._clock(), ttl_s)
        record = self._record(env, object_key(tenant, ref))
        if name is not None:
            name_key(tenant, name)
        elif (
            record is not None and record.kept_until >= kept_until and (dtype, shape) in ((None, None), record.meaning)
        ):
            return described(ref, record), None
        if record is not None or contents.nbytes <= env.inline_bytes:
            # No file, so there is no room to reserve; publishing looks whether there is any.
            staged = StagedData(env, tenant, contents.nbytes, contents, file=False)
        else:
            staged = admit(env, self._clock(), tenant, contents.nbytes, contents)
        try:
            staged.seal(ref)
            with self.transaction() as txn:
                return txn.publish(staged, dtype=dtype, shape=shape, name=name, ttl_s=ttl_s)
        finally:
            staged.discard()

    def stage(self, tenant: str, nbytes: int) -> StagedData:
        """See the protocol. Up to 32 MiB ``data`` is memory, above a mapped file; in shared memory up to 4."""
        if nbytes < 1:
            raise BadRequest(f"an object has at least one byte, not {nbytes}")
        return admit(self._env, self._clock(), tenant, nbytes)

    def transaction(self) -> LmdbTransaction:
        """See the protocol."""
        return LmdbTransaction(self._env, self._clock())

    def delete(self, tenant: str, *, ref: str | None = None, name: str | None = None) -> None:
        """See the protocol."""
        _one(ref, name)
        with self.transaction() as txn:
            txn.delete(tenant, ref=ref, name=name)

    def gc(self) -> Collected:
        """See the protocol."""
        return collect.collect(self._env, self._clock())

    # ------------------------------------------------------------------------------------------------------ reading

    def lookup(self, tenant: str, *, ref: str | None = None, name: str | None = None) -> Object:
        """See the protocol."""
        (found,) = self.lookup_all(tenant, (Wanted(ref, name),))
        if found is not None:
            return found
        if ref is None:
            raise NameNotFound(f"the store has no name {name!r}", name=name)
        object_key(tenant, ref)  # says so if it could not be one
        raise NameNotFound(f"the store has no object {ref}", ref=ref)

    def lookup_all(self, tenant: str, wanted: Sequence[Wanted]) -> list[Object | None]:
        """See the protocol."""
        env, now = self._env, self._clock()
        keys = [_key(tenant, *each) for each in wanted]
        found: list[Object | None] = []
        with env.faults(), env.read() as txn:
            for (ref, _), key in zip(wanted, keys, strict=True):
                raw = txn.get(key) if key is not None else None
                if raw is None:
                    found.append(None)
                elif ref is not None:
                    entry = recorded(ref, raw)
                    found.append(entry if entry.expires is None or entry.expires > now else None)
                else:
                    pointer = decode_name(raw)
                    target = txn.get(scope(OBJECT, tenant) + pointer.digest)
                    assert target is not None
                    found.append(named(pointer.digest.hex(), decode_object(target), pointer))
        return found

    def open(self, tenant: str, ref: str) -> GuardedReading:
        """See the protocol."""
        env, key = self._env, object_key(tenant, ref)
        record = self._record(env, key)
        if record is None:
            raise NameNotFound(f"the store has no object {ref}", ref=ref)
        exporter: Bytes | None
        with env.faults():
            if record.file:
                exporter = opened(env.file_path(key), record.nbytes)
            else:
                exporter = env.snapshots.view(key)
        if exporter is None:
            raise NameNotFound(f"the bytes of object {ref} are gone", ref=ref)
        return GuardedReading(described(ref, record), exporter)

    def outcome(self, tenant: str, request_id: str) -> Outcome | None:
        """See the protocol."""
        env, key = self._env, outcome_key(tenant, request_id)
        with env.faults(), env.read() as txn:
            raw = txn.get(key)
        if raw is None:
            return None
        record = decode_outcome(raw)
        return outcome_of(env, key, record) if record.expires > self._clock() else None

    def note(self, tenant: str, request_id: str, key: bytes) -> bytes | None:
        """See the protocol."""
        env = self._env
        with env.faults(), env.read() as txn:
            return txn.get(notes.note_key(tenant, request_id, key))

    def notes(self, tenant: str, request_id: str) -> dict[bytes, bytes]:
        """See the protocol."""
        env = self._env
        with env.faults(), env.read() as txn:
            return notes.read(txn, tenant, request_id)

    def reminders(self, limit: int, tenants: Collection[str] | None = None) -> list[Noted]:
        """See the protocol."""
        env = self._env
        with env.faults(), env.read() as txn:
            return notes.due(txn, self._clock(), limit, tenants)

    def labelled(
        self, tenant: str, limit: int, *, label: str | None = None, before: tuple[float, str] | None = None
    ) -> tuple[list[Labelled], int]:
        """See the protocol. It looks at all of the tenant's requests with notes, 3 to 4 us for each."""
        env = self._env
        with env.faults(), env.read() as txn:
            return notes.labelled(txn, self._clock(), tenant, limit, label, before)

    def names(self, tenant: str, prefix: str = "") -> Iterator[Named]:
        """See the protocol. Fetched some at a time: what changes meanwhile may or may not be seen."""
        start = scope(NAME, tenant)
        wanted, after, more = start + prefix.encode(errors="surrogatepass"), b"", True
        if len(wanted) > len(start) + NAME_BYTES:
            return  # longer than any name, and than any key
        while more:
            env = self._env
            page: list[Named] = []
            with env.faults(), env.read() as txn:
                for key, raw in scan(txn, wanted, after):
                    entry = decode_name(raw)
                    target = txn.get(scope(OBJECT, tenant) + entry.digest)
                    assert target is not None
                    ref = entry.digest.hex()
                    page.append(
                        Named(
                            name=key[len(start) :].decode(),
                            version=entry.version,
                            object=named(ref, decode_object(target), entry),
                            updated=entry.updated,
                        )
                    )
                    after = key
                    if len(page) == _PAGE:
                        break
                else:
                    more = False
            yield from page

    def objects(self, tenant: str) -> Iterator[Object]:
        """See the protocol. Fetched some at a time, in the order of their hashes."""
        prefix = scope(OBJECT, tenant)
        after, more = b"", True
        while more:
            env, now = self._env, self._clock()
            page: list[tuple[bytes, bytes]] = []
            with env.faults(), env.read() as txn:
                for entry in scan(txn, prefix, after):
                    page.append(entry)
                    if len(page) == _PAGE:
                        break
                else:
                    more = False
            for key, raw in page:
                after, record = key, decode_object(raw)
                if record.alive(now):
                    yield described(key[len(prefix) :].hex(), record)

    def usage(self) -> Usage:
        """See the protocol. ``used`` includes what is being staged in files."""
        env = self._env
        counters, capacity = env.usage()
        return Usage(
            used=counters.used + env.reserved(),
            capacity=capacity,
            objects=counters.objects,
            names=counters.names,
            outcomes=counters.outcomes,
        )

    def usage_of(self, tenant: str) -> TenantUsage:
        """See the protocol."""
        used, quota = self._env.quota(tenant)
        return TenantUsage(used=used, quota=quota or None)

    def set_quotas(self, everybody: int | None, by_tenant: Mapping[str, int]) -> None:
        """See the protocol."""
        self._env.set_quotas(everybody, by_tenant)

    def close(self) -> None:
        """See the protocol. Readings still open stay valid."""
        if not self._closed:
            self._closed = True
            registry.release(self._shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ helpers

    def _record(self, env: Environment, key: bytes) -> ObjectRecord | None:
        """The record of an object that has not expired."""
        with env.faults(), env.read() as txn:
            raw = txn.get(key)
        if raw is None:
            return None
        record = decode_object(raw)
        return record if record.alive(self._clock()) else None


def _one(ref: str | None, name: str | None) -> str | None:
    """The name if that was given, None if it was the ref."""
    if (ref is None) == (name is None):
        raise BadRequest("give either ref or name")
    return name


def _key(tenant: str, ref: str | None, name: str | None) -> bytes | None:
    """Of what is wanted; None if nothing can be there. Raises BadRequest, Forbidden."""
    if _one(ref, name) is not None:
        return name_key(tenant, str(name))
    try:
        return object_key(tenant, str(ref))
    except NameNotFound:
        return None


def open_store(
    path: str | Path,
    *,
    capacity: int | None = None,
    sync: bool = True,
    inline_bytes: int = INLINE_BYTES,
    max_readers: int = MAX_READERS,
    spare_bytes: int | None = None,
    clock: Callable[[], float] = time.time,
) -> LmdbStore:
    """Open the store in that folder; an empty or missing folder becomes one.

    ``capacity`` in bytes is remembered by the store, for all who use it; a new store without one takes half of what
    the disk has free. ``sync``: what was published survives a power cut, not only a crash. ``inline_bytes``: values
    up to that size lie in LMDB, larger ones are files. ``spare_bytes``: of files of objects that are gone, kept to be
    used again; None: up to a gigabyte in shared memory, else none. Raises StoreUnavailable, StoreFull.
    """
    if capacity is not None and capacity < 1:
        raise BadRequest(f"a store's capacity is {capacity} bytes: it needs some")
    env = registry.acquire(
        Path(path), Options(sync=sync, inline_bytes=inline_bytes, max_readers=max_readers, spare_bytes=spare_bytes)
    )
    store = LmdbStore(env, clock)
    try:
        if capacity is not None and env.usage()[1] != capacity:
            env.set_capacity(capacity)
    except BaseException:
        store.close()
        raise
    return store
