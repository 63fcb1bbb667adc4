"""The books of the store inside one write transaction: objects, names, outcomes, expiry index, totals.

Knows nothing of where bytes lie; what has to be removed once the transaction is durable gathers in ``doomed``.
"""

from __future__ import annotations

import math
from typing import Final

import lmdb

from kaasq.errors import BadRequest, NameNotFound, QuotaExceeded
from kaasq_storage.protocol import Object, Wanted
from kaasq_storage.records import (
    CLAIM,
    COUNTED,
    COUNTERS,
    EXPIRY,
    FLOOR,
    NAME,
    OBJECT,
    OUTCOME,
    QUOTA,
    USED,
    ClaimRecord,
    Counters,
    NameRecord,
    ObjectRecord,
    OutcomeRecord,
    decode_claim,
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

GRACE_S: Final = 600.0
"""How long an object outlives the name that moved on: requests in flight may have resolved the name already."""
_LONG_S: Final = 3600.0
_STEP_S: Final = 900.0


class Ledger:
    """Reads and changes the books through one write transaction of the meta environment."""

    def __init__(self, txn: lmdb.Transaction[bytes], now: float) -> None:
        self.txn = txn
        self.now = now
        self.counters = Counters.load(txn)
        self._before = self.counters.encode()
        self._used: dict[str, int] = {}  # by tenants, changed here
        if txn.get(COUNTED) is None:
            self._count_all()
        self.doomed: dict[bytes, bool] = {}
        """Keys whose bytes go once this is durable; True where they are a file."""

    def close(self) -> None:
        """Write the totals."""
        after = self.counters.encode()
        if after != self._before:
            self.txn.put(COUNTERS, after)
        for tenant, used in self._used.items():
            self.txn.put(scope(USED, tenant), used.to_bytes(8, "big"))

    # -------------------------------------------------------------------------------------------------------- quotas

    def used_by(self, tenant: str) -> int:
        """Bytes of a tenant's objects and replies."""
        used = self._used.get(tenant)
        return int.from_bytes(self.txn.get(scope(USED, tenant)) or b"", "big") if used is None else used

    def check_quota(self, tenant: str, nbytes: int) -> None:
        """Raises QuotaExceeded if the tenant may not have that many bytes more."""
        quota, used = quota_of(self.txn, tenant), self.used_by(tenant)
        if quota and used + nbytes > quota:
            raise quota_exceeded(tenant, nbytes, used, quota)

    def _charge(self, key: bytes, nbytes: int) -> None:
        """The owner of the key has so many bytes more, or fewer."""
        tenant, _ = split(key)
        self._used[tenant] = self.used_by(tenant) + nbytes
        self.counters.used += nbytes

    def _count_all(self) -> None:
        """For a store from before tenants' bytes were counted."""
        for kind, decode in ((OBJECT, decode_object), (OUTCOME, decode_outcome)):
            for key, raw in scan(self.txn, kind):
                tenant, _ = split(key)
                self._used[tenant] = self._used.get(tenant, 0) + decode(raw).nbytes
        self.txn.put(COUNTED, b"")

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
        self._charge(key, nbytes)
        self.counters.objects += 1
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
            self.counters.names += 1
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
        self.counters.names -= 1
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

    # ------------------------------------------------------------------------------------------------------ outcomes

    def outcome(self, key: bytes) -> OutcomeRecord | None:
        """The record, unless it has expired."""
        raw = self.txn.get(key)
        record = decode_outcome(raw) if raw is not None else None
        return record if record is not None and record.expires > self.now else None

    def add_outcome(self, key: bytes, record: OutcomeRecord) -> None:
        """Record an outcome; one that has expired, or lost its bytes, makes way."""
        raw = self.txn.get(key)
        if raw is not None:
            self.drop_outcome(key, decode_outcome(raw))
        if record.reply is None:
            self.doomed.pop(key, None)  # the new reply's bytes take the place of the old ones
        self.txn.put(key, encode(record))
        self.txn.put(expiry_key(record.expires, key), b"")
        self._charge(key, record.nbytes)
        self.counters.outcomes += 1

    def drop_outcome(self, key: bytes, record: OutcomeRecord) -> None:
        """Remove an outcome."""
        self.txn.delete(key)
        self.txn.delete(expiry_key(record.expires, key))
        self._charge(key, -record.nbytes)
        self.counters.outcomes -= 1
        if record.reply is None:
            self.doomed[key] = False

    # -------------------------------------------------------------------------------------------------------- claims

    def claim(self, key: bytes) -> ClaimRecord | None:
        """The record, unless it has expired."""
        raw = self.txn.get(key)
        record = decode_claim(raw) if raw is not None else None
        return record if record is not None and record.expires > self.now else None

    def stake(self, key: bytes, record: ClaimRecord) -> None:
        """Put it in place of the one that there is."""
        self.drop_claim(key)
        self.txn.put(key, encode(record))
        self.txn.put(expiry_key(record.expires, key), b"")

    def drop_claim(self, key: bytes) -> None:
        """Remove it, if there is one."""
        raw = self.txn.get(key)
        if raw is not None:
            self.txn.delete(key)
            self.txn.delete(expiry_key(decode_claim(raw).expires, key))

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
                self.drop_claim(key)
            elif raw is not None:
                self.drop_outcome(key, decode_outcome(raw))
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
        self._charge(key, -record.nbytes)
        self.counters.objects -= 1
        self.doomed[key] = record.file


def quota_of(txn: lmdb.Transaction[bytes], tenant: str) -> int:
    """The bytes that a tenant may use; 0 for any."""
    own = txn.get(scope(QUOTA, tenant))
    return int.from_bytes(txn.get(QUOTA) or b"" if own is None else own, "big")


def quota_exceeded(tenant: str, nbytes: int, used: int, quota: int) -> QuotaExceeded:
    """The error for a tenant whose bytes are used up."""
    return QuotaExceeded(
        f"tenant {tenant!r} has {used} bytes in the store, its quota is {quota}: there is no room for {nbytes} more; "
        "delete names and objects (kaasq rm), or wait until unnamed ones expire",
        which="stored_bytes",
        limit=quota,
        used=used,
        needed=nbytes,
    )


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
