"""The books of requests inside one write transaction: their outcomes, and claims on those that have none yet."""

from __future__ import annotations

import lmdb
import msgspec

from kaasq_storage.accounts import Accounts
from kaasq_storage.records import ClaimRecord, OutcomeRecord, decode_claim, decode_outcome, encode, expiry_key


class Requests:
    """Reads and changes them. ``doomed`` gathers the keys of replies whose bytes go once this is durable."""

    def __init__(self, txn: lmdb.Transaction[bytes], now: float, accounts: Accounts, doomed: dict[bytes, bool]) -> None:
        self._txn = txn
        self._now = now
        self._accounts = accounts
        self._doomed = doomed

    def outcome(self, key: bytes) -> OutcomeRecord | None:
        """The record, unless it has expired."""
        raw = self._txn.get(key)
        record = decode_outcome(raw) if raw is not None else None
        return record if record is not None and record.expires > self._now else None

    def add_outcome(self, key: bytes, record: OutcomeRecord) -> bool:
        """Record an outcome, unless there is a record under that key, whatever it is worth."""
        if not self._txn.put(key, encode(record), overwrite=False):
            return False
        self._count(key, record)
        return True

    def replace_outcome(self, key: bytes, record: OutcomeRecord) -> None:
        """Record an outcome where there is one that has expired, or lost its bytes."""
        raw = self._txn.get(key)
        assert raw is not None
        self.drop_outcome(key, decode_outcome(raw))
        self._txn.put(key, encode(record))
        self._count(key, record)

    def _count(self, key: bytes, record: OutcomeRecord) -> None:
        if record.reply is None:
            self._doomed.pop(key, None)  # the new reply's bytes take the place of old ones
        self._txn.put(expiry_key(record.expires, key), b"")
        self._accounts.charge(key, record.nbytes)
        self._accounts.counters.outcomes += 1

    def prolong(self, key: bytes, kept_until: float) -> bool:
        """Keep an outcome until then at least; False if there is none."""
        record = self.outcome(key)
        if record is None:
            return False
        if kept_until > record.expires:
            self._txn.delete(expiry_key(record.expires, key))
            self._txn.put(key, encode(msgspec.structs.replace(record, expires=kept_until)))
            self._txn.put(expiry_key(kept_until, key), b"")
        return True

    def drop_outcome(self, key: bytes, record: OutcomeRecord) -> None:
        """Remove an outcome."""
        self._txn.delete(key)
        self._txn.delete(expiry_key(record.expires, key))
        self._accounts.charge(key, -record.nbytes)
        self._accounts.counters.outcomes -= 1
        if record.reply is None:
            self._doomed[key] = False

    def claim(self, key: bytes) -> ClaimRecord | None:
        """The record, unless it has expired."""
        raw = self._txn.get(key)
        record = decode_claim(raw) if raw is not None else None
        return record if record is not None and record.expires > self._now else None

    def stake(self, key: bytes, record: ClaimRecord) -> None:
        """Put it in place of the one that there is."""
        self.drop_claim(key)
        self._txn.put(key, encode(record))
        self._txn.put(expiry_key(record.expires, key), b"")

    def drop_claim(self, key: bytes) -> None:
        """Remove it, if there is one."""
        raw = self._txn.get(key)
        if raw is not None:
            self._txn.delete(key)
            self._txn.delete(expiry_key(decode_claim(raw).expires, key))
