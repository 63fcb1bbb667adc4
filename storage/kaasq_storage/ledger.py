"""The books of the store inside one write transaction: objects and names, what expires, and the others' books.

Knows nothing of where bytes lie; what has to be removed once the transaction is durable gathers in ``doomed``.
"""

from __future__ import annotations

import math
from typing import Final

import lmdb

from kaasq.errors import BadRequest, NameNotFound
from kaasq_storage.accounts import Accounts
from kaasq_storage.notes import drop as drop_notes
from kaasq_storage.protocol import Object, Wanted
from kaasq_storage.records import (
    CLAIM,
    EXPIRY,
    FLOOR,
    NAME,
    NOTED,
    OBJECT,
    NameRecord,
    ObjectRecord,
    decode_name,
    decode_object,
    decode_outcome,
    encode,
    expiring,
    expiry_key,
    name_key,
    named,
    object_key,
    scan,
    scope,
    split,
)
from kaasq_storage.requests import Requests

GRACE_S: Final = 600.0
"""How long an object outlives the name that moved on: requests in flight may have resolved the name already."""
_LONG_S: Final = 3600.0
_STEP_S: Final = 900.0


class Ledger:
    """Reads and changes the books through one write transaction of the meta environment."""

    def __init__(self, txn: lmdb.Transaction[bytes], now: float) -> None:
        self.txn = txn
        self.now = now
        self.accounts = Accounts(txn)
        self.doomed: dict[bytes, bool] = {}
        """Keys whose bytes go once this is durable; True where they are a file."""
        self.requests = Requests(txn, now, self.accounts, self.doomed)

    # ------------------------------------------------------------------------------------------------------- objects

    def object(self, key: bytes) -> ObjectRecord | None:
        """The record, expired or not."""
        raw = self.txn.get(key)
        return decode_object(raw) if raw is not None else None

    def add(self, key: bytes, nbytes: int, *, file: bool) -> bool:
        """Make the object known if it is not. True if its bytes have to be brought."""
        if self.txn.get(key) is not None:
            return False
        kept = self.doomed.pop(key, None)  # removed in this very transaction: the bytes are still there
        self._save(key, ObjectRecord(nbytes, self.now, file if kept is None else kept), None)
        self.accounts.charge(key, nbytes)
        self.accounts.counters.objects += 1
        return kept is None

    def hold(
        self,
        key: bytes,
        *,
        dtype: str | None,
        shape: tuple[int, ...] | None,
        kept_until: float = 0.0,
        names: int = 0,
    ) -> ObjectRecord:
        """Prolong an object's life: kept for longer, or by one more name."""
        record = self._known(key)
        due = _due(record)
        record.kept_until = max(record.kept_until, kept_until)
        record.names += names
        if dtype is not None or shape is not None:
            record.dtype, record.shape = dtype, shape
        self._save(key, record, due)
        return record

    def prolong(self, tenant: str, wanted: Wanted, kept_until: float) -> bool:
        """Keep an object until then at least; False if there is none. Raises NameNotFound, BadRequest."""
        if wanted.name is not None:
            raw = self.txn.get(name_key(tenant, wanted.name))
            if raw is None:
                return False
            key = scope(OBJECT, tenant) + decode_name(raw).digest
        else:
            key = object_key(tenant, wanted.ref or "")
        record = self.object(key)
        if record is None or not record.alive(self.now):
            return False
        self.hold(key, dtype=None, shape=None, kept_until=kept_until)
        return True

    def release(self, key: bytes, *, grace_s: float) -> None:
        """One name fewer; the last one gone, the object stays as long as it was stored for, or for the grace."""
        record = self._known(key)
        record.names -= 1
        if grace_s:
            record.kept_until = max(record.kept_until, self.now + grace_s)
        if record.alive(self.now):
            self._save(key, record, None)
        else:
            self._remove(key, record, None)

    def drop_object(self, tenant: str, ref: str) -> None:
        """Remove an unnamed object. Raises NameNotFound, BadRequest."""
        key = object_key(tenant, ref)
        record = self.object(key)
        if record is None or not record.alive(self.now):
            raise NameNotFound(f"the store has no object {ref}", ref=ref)
        if record.names:
            names = [name for name, _ in self._names_of(key)]
            raise BadRequest(f"object {ref} has a name ({', '.join(map(repr, names))}): delete that", ref=ref)
        self._remove(key, record, _due(record))

    def lose(self, key: bytes) -> None:
        """Forget an object whose bytes are gone, and the names that pointed to it."""
        record = self._known(key)
        for name, found in self._names_of(key):
            self._forget_name(split(key)[0], name, found)
        self._remove(key, record, _due(record))

    # --------------------------------------------------------------------------------------------------------- names

    def point(
        self, tenant: str, name: str, ref: str, dtype: str | None, shape: tuple[int, ...] | None
    ) -> tuple[Object, int]:
        """Let the name point to the object from now on: the object, and the name's new version."""
        key, target = name_key(tenant, name), object_key(tenant, ref)
        raw = self.txn.get(key)
        before = decode_name(raw) if raw is not None else None
        digest = target[-32:]
        moved = before is None or before.digest != digest
        record = self.hold(target, dtype=dtype, shape=shape, names=1 if moved else 0)
        if before is None:
            self.accounts.counters.names += 1
        elif moved:
            self.release(scope(OBJECT, tenant) + before.digest, grace_s=GRACE_S)
        version = (before.version if before is not None else self._floor(tenant)) + 1
        entry = NameRecord(version, digest, self.now, dtype, shape)
        self.txn.put(key, encode(entry))
        return named(ref, record, entry), version

    def drop_name(self, tenant: str, name: str) -> None:
        """Remove a name, and its object unless something else holds it. Raises NameNotFound."""
        raw = self.txn.get(name_key(tenant, name))
        if raw is None:
            raise NameNotFound(f"the store has no name {name!r}", name=name)
        record = decode_name(raw)
        self._forget_name(tenant, name, record)
        self.release(scope(OBJECT, tenant) + record.digest, grace_s=0.0)

    def _forget_name(self, tenant: str, name: str, record: NameRecord) -> None:
        self.txn.delete(name_key(tenant, name))
        self.accounts.counters.names -= 1
        # A name made later starts above every version that a deleted one had, so that no version of a name ever
        # means two things, and no trace of each deleted name has to be kept.
        if record.version > self._floor(tenant):
            self.txn.put(scope(FLOOR, tenant), record.version.to_bytes(8, "big"))

    def _floor(self, tenant: str) -> int:
        return int.from_bytes(self.txn.get(scope(FLOOR, tenant)) or b"", "big")

    def _names_of(self, key: bytes) -> list[tuple[str, NameRecord]]:
        tenant, digest = split(key)
        prefix = scope(NAME, tenant)
        found = ((name[len(prefix) :].decode(), decode_name(raw)) for name, raw in scan(self.txn, prefix))
        return [(name, record) for name, record in found if record.digest == digest]

    # -------------------------------------------------------------------------------------------------------- expiry

    def expire(self, limit: int) -> int:
        """Remove what has expired, at most so many entries: how many there were."""
        due: list[bytes] = []
        end = expiry_key(self.now, b"")
        for index, _ in scan(self.txn, EXPIRY):
            if index[: len(end)] > end or len(due) == limit:
                break
            due.append(index)
        for index in due:
            key = expiring(index)
            raw = self.txn.get(key)
            if raw is not None and key[:1] == OBJECT:
                self._remove(key, decode_object(raw), None)
            elif raw is not None and key[:1] == CLAIM:
                self.requests.drop_claim(key)
            elif raw is not None and key[:1] == NOTED:
                drop_notes(self.txn, self.accounts, key)
            elif raw is not None:
                self.requests.drop_outcome(key, decode_outcome(raw))
            self.txn.delete(index)
        return len(due)

    # ------------------------------------------------------------------------------------------------------- records

    def _known(self, key: bytes) -> ObjectRecord:
        record = self.object(key)
        assert record is not None, "a name or a publish holds what is not there"
        return record

    def _save(self, key: bytes, record: ObjectRecord, due: float | None) -> None:
        """Write the record, and keep the expiry index in step: ``due`` is when it was to expire before."""
        after = _due(record)
        if due != after:
            if due is not None:
                self.txn.delete(expiry_key(due, key))
            if after is not None:
                self.txn.put(expiry_key(after, key), b"")
        raw = encode(record)
        if raw != self.txn.get(key):
            self.txn.put(key, raw)

    def _remove(self, key: bytes, record: ObjectRecord, due: float | None) -> None:
        if due is not None:
            self.txn.delete(expiry_key(due, key))
        self.txn.delete(key)
        self.accounts.charge(key, -record.nbytes)
        self.accounts.counters.objects -= 1
        self.doomed[key] = record.file


def _due(record: ObjectRecord) -> float | None:
    """When the expiry index lists the object; None for one with a name, and for one just made."""
    return record.kept_until if not record.names and record.kept_until else None


def keep_until(now: float, ttl_s: float) -> float:
    """Until when an object stored now is kept without a name. Raises BadRequest.

    Long times are rounded up, so that storing the same contents again and again mostly changes nothing.
    """
    if not ttl_s > 0:
        raise BadRequest(f"ttl_s is {ttl_s}: an object needs some time to live")
    end = min(now + ttl_s, 1e12)
    return end if ttl_s < _LONG_S else math.ceil(end / _STEP_S) * _STEP_S
