"""A write transaction: the books, the bytes that belong to them, and the order in which both become durable.

The order makes every crash harmless. Bytes come first: values are committed to the blob environment and files are
renamed to their place, and only then the meta transaction makes them objects. Bytes go last, after the meta
transaction that forgot them. What a crash leaves is bytes without a record, which a collection finds. Both happen
under the blob environment's write lock, so that nobody removes what another one is just bringing back.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import lmdb
import msgspec

from kaasq.errors import BadRequest, NameNotFound, QuotaExceeded
from kaasq_storage.environment import Environment
from kaasq_storage.ledger import Ledger, keep_until
from kaasq_storage.notes import LmdbNotes
from kaasq_storage.protocol import DEFAULT_TTL_S, Claim, Object, Outcome, Staged, Wanted
from kaasq_storage.records import (
    CAPACITY,
    ClaimRecord,
    OutcomeRecord,
    claim_key,
    described,
    name_key,
    object_key,
    outcome_key,
)
from kaasq_storage.staged import StagedData

INLINE_REPLY_BYTES: Final = 8 << 10
"""Replies up to this size lie beside their outcome, so that recording them takes one commit and not two."""
SMALL_REPLY_BYTES: Final = 4 << 10
"""A reply up to this size is recorded even in a full store: it may be the one that says so."""
_EXPIRE_BATCH: Final = 256


class LmdbTransaction:
    """The Transaction of an LmdbStore, and what the store itself changes in one."""

    def __init__(self, env: Environment, now: float) -> None:
        self._env = env
        self._now = now
        self._staged: dict[bytes, StagedData] = {}
        self._duplicates: list[StagedData] = []
        self._replies: dict[bytes, bytes] = {}
        self._notes: dict[tuple[str, str], LmdbNotes] = {}
        self._reserved: int | None = None

    def __enter__(self) -> Self:
        self._meta = self._env.begin_write()
        try:
            with self._env.faults():
                self.ledger = Ledger(self._meta, self._now)
        except BaseException:
            self._meta.abort()
            self._env.end_write()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._env.forked:
            return  # the block forked, and this is the child: the transaction is the parent's
        try:
            if error is None:
                with self._env.faults():
                    self._commit()
        finally:
            # After a commit this does nothing.
            self._meta.abort()
            self._env.end_write()

    # ------------------------------------------------------------------------------------------------- Transaction

    def publish(
        self,
        staged: Staged,
        *,
        dtype: str | None = None,
        shape: tuple[int, ...] | None = None,
        name: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
    ) -> tuple[Object, int | None]:
        """See the protocol. Seal beforehand, or the hashing happens while everybody waits."""
        if not isinstance(staged, StagedData):
            raise TypeError("only what this store staged can be published in it")
        # Whatever may be refused comes before the first change: the caller may catch it and commit the rest.
        tenant, ref = staged.tenant, staged.seal()
        key = object_key(tenant, ref)
        kept_until = keep_until(self._now, ttl_s)
        if name is not None:
            name_key(tenant, name)
        with self._env.faults(staged.nbytes):
            if self.ledger.object(key) is None:
                self._check_quota(tenant, staged.nbytes)
                if staged.file is None:
                    self._make_room(staged.nbytes)
            if self.ledger.add(key, staged.nbytes, file=staged.file is not None):
                self._staged[key] = staged
                if staged.file is not None:
                    self._reserved = None
            elif self._staged.get(key) is not staged:
                self._duplicates.append(staged)
            if name is not None:
                return self.ledger.point(tenant, name, ref, dtype, shape)
            record = self.ledger.hold(key, dtype=dtype, shape=shape, kept_until=kept_until)
            return described(ref, record), None

    def outcome(self, tenant: str, request_id: str) -> Outcome | None:
        """See the protocol."""
        key = outcome_key(tenant, request_id)
        with self._env.faults():
            record = self.ledger.requests.outcome(key)
        if record is None:
            return None
        reply = self._replies.get(key)
        return outcome_of(self._env, key, record) if reply is None else _outcome(record, reply)

    def prolong(self, tenant: str, wanted: Wanted, ttl_s: float) -> bool:
        """See the protocol."""
        try:
            with self._env.faults():
                return self.ledger.prolong(tenant, wanted, keep_until(self._now, ttl_s))
        except (NameNotFound, BadRequest):  # what cannot be a reference or a name is not there either
            return False

    def record(self, tenant: str, request_id: str, outcome: Outcome) -> bool:
        """See the protocol. ``created`` or ``expires`` left at 0 become now, and a day later."""
        key = outcome_key(tenant, request_id)
        nbytes = len(outcome.reply)
        requests = self.ledger.requests
        with self._env.faults(nbytes):
            if nbytes > SMALL_REPLY_BYTES:
                if self.outcome(tenant, request_id) is not None:
                    return False
                self._check_quota(tenant, nbytes)
                self._make_room(nbytes)
            inline = nbytes <= INLINE_REPLY_BYTES
            record = OutcomeRecord(
                body=outcome.body,
                reply=outcome.reply if inline else None,
                nbytes=nbytes,
                created=outcome.created or self._now,
                expires=min(outcome.expires or self._now + DEFAULT_TTL_S, 1e12),
            )
            if not requests.add_outcome(key, record):  # one that expired, or lost its bytes, counts as none
                if self.outcome(tenant, request_id) is not None:
                    return False
                requests.replace_outcome(key, record)
            requests.drop_claim(claim_key(tenant, request_id))
            if not inline:
                self._replies[key] = outcome.reply
            return True

    def prolong_outcome(self, tenant: str, request_id: str, ttl_s: float) -> bool:
        """See the protocol."""
        key = outcome_key(tenant, request_id)
        with self._env.faults():
            return self.ledger.requests.prolong(key, keep_until(self._now, ttl_s))

    def claim(self, tenant: str, request_id: str) -> Claim | None:
        """See the protocol."""
        key = claim_key(tenant, request_id)
        with self._env.faults():
            record = self.ledger.requests.claim(key)
        return None if record is None else Claim(**msgspec.structs.asdict(record))

    def stake(self, tenant: str, request_id: str, claim: Claim) -> None:
        """See the protocol. ``since`` or ``expires`` left at 0 become now, and a day later."""
        key = claim_key(tenant, request_id)
        since, expires = claim.since or self._now, min(claim.expires or self._now + DEFAULT_TTL_S, 1e12)
        whole = msgspec.structs.replace(claim, since=since, expires=expires)
        with self._env.faults():
            self.ledger.requests.stake(key, ClaimRecord(**msgspec.structs.asdict(whole)))

    def release(self, tenant: str, request_id: str) -> None:
        """See the protocol."""
        key = claim_key(tenant, request_id)
        with self._env.faults():
            self.ledger.requests.drop_claim(key)

    def notes(self, tenant: str, request_id: str) -> LmdbNotes:
        """See the protocol."""
        key = (tenant, request_id)
        if key not in self._notes:
            with self._env.faults():
                self._notes[key] = LmdbNotes(self._meta, self.ledger.accounts, tenant, request_id)
        return self._notes[key]

    # ------------------------------------------------------------------------------------------------- the store's

    def delete(self, tenant: str, *, ref: str | None = None, name: str | None = None) -> None:
        """See the store's."""
        with self._env.faults():
            if name is not None:
                self.ledger.drop_name(tenant, name)
            elif ref is not None:
                self.ledger.drop_object(tenant, ref)

    def expire(self, limit: int = _EXPIRE_BATCH) -> int:
        """Remove what has expired, at most so many: how many there were."""
        return self.ledger.expire(limit)

    def _check_quota(self, tenant: str, nbytes: int) -> None:
        """Whether the tenant may have that many bytes more, if need be after removing what has expired."""
        while True:
            try:
                self.ledger.accounts.check_quota(tenant, nbytes)
                return
            except QuotaExceeded:
                if not self.expire():
                    raise

    def _make_room(self, nbytes: int) -> None:
        """Whether that many bytes fit, if need be after removing what has expired. Raises StoreFull."""
        capacity = int.from_bytes(self._meta.get(CAPACITY) or b"", "big")
        if self._reserved is None:
            self._reserved = self._env.reserved()
        # A file published in this transaction is counted already, and still lies in the staging folder.
        counted = sum(each.nbytes for each in self._staged.values() if each.file is not None)
        while (used := self.ledger.accounts.counters.used + self._reserved - counted) + nbytes > capacity:
            if not self.expire():
                raise self._env.full(nbytes, used, capacity)

    def _commit(self) -> None:
        self.ledger.accounts.close()
        doomed = self.ledger.doomed
        if self._staged or self._replies or doomed:
            self._commit_with_bytes(doomed)
        else:
            self._meta.commit()
        for staged in (*self._staged.values(), *self._duplicates):
            staged.discard()

    def _commit_with_bytes(self, doomed: dict[bytes, bool]) -> None:
        files = [(key, each) for key, each in self._staged.items() if each.file is not None]
        for _, staged in files:
            staged.write_out()  # nearly always done by seal
        blobs = self._env.begin_blobs()
        try:
            for key, each in self._staged.items():
                if each.file is None:
                    blobs.put(key, each.contents.data)
            for key, reply in self._replies.items():
                blobs.put(key, reply)
            self._place(files)
            blobs.commit()
            blobs = self._env.begin_blobs()
            for key, file in doomed.items():
                if not file:
                    blobs.delete(key)
            self._meta.commit()
        except BaseException:
            for key, staged in files:
                # An interrupt may come just after the commit: then they are objects, and stay.
                if staged.file is not None and not self._env.has(key):
                    staged.file.take_back()
            blobs.abort()
            raise
        self._remove(doomed, blobs)

    def _place(self, files: list[tuple[bytes, StagedData]]) -> None:
        touched: dict[Path, None] = {}
        for key, staged in files:
            assert staged.file is not None
            target = Path(self._env.file_path(key))
            if not target.parent.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                touched.update({target.parent.parent: None, target.parent.parent.parent: None})
            staged.file.place(target)
            touched[target.parent] = None
        if self._env.sync:
            # One after the other: the first brings the file system's journal to the disk, the rest find it there.
            for folder in touched:
                sync_folder(folder)

    def _remove(self, doomed: dict[bytes, bool], blobs: lmdb.Transaction[bytes]) -> None:
        # The records are gone for good: if this fails, a collection finds the bytes later.
        try:
            for key, file in doomed.items():
                if file:
                    self._env.remove_file(key)
            if all(doomed.values()):
                blobs.abort()  # nothing removed there: it was the lock
            else:
                blobs.commit()
        except (OSError, lmdb.Error):
            blobs.abort()


def outcome_of(env: Environment, key: bytes, record: OutcomeRecord) -> Outcome | None:
    """The outcome with its reply, from wherever that lies; None if it went meanwhile."""
    reply = record.reply if record.reply is not None else env.value(key)
    return _outcome(record, reply) if reply is not None else None


def _outcome(record: OutcomeRecord, reply: bytes) -> Outcome:
    return Outcome(body=record.body, reply=reply, created=record.created, expires=record.expires)


def sync_folder(path: Path) -> None:
    """Make a folder's entries survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
