"""Notes: small records beside a request that lives for many transactions, such as how a workflow stands.

All notes of one request lie together, expire together and count as its tenant's bytes. Whoever writes them can ask to
be reminded: ``due`` finds the requests that somebody should look at.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Collection
from typing import Final

import lmdb
import msgspec

from kaasq.names import check_request_id
from kaasq_storage.accounts import Accounts
from kaasq_storage.protocol import Labelled, Noted
from kaasq_storage.records import NOTE, NOTED, REMINDER, encode, expiry_key, scan, scope, split

_TIME = struct.Struct(">Q")
_ENTRY_BYTES: Final = 64  # about what LMDB needs for each besides the value


class NotedRecord(msgspec.Struct, array_like=True):
    """Of all notes of a request: until when they are kept, their bytes, when to look at it (0: never), its label."""

    expires: float = 0.0
    nbytes: int = 0
    remind: float = 0.0
    label: str = ""
    since: float = 0.0


decode_noted = msgspec.msgpack.Decoder(NotedRecord).decode


class LmdbNotes:
    """The notes of one request inside a write transaction. See the protocol."""

    def __init__(self, txn: lmdb.Transaction[bytes], accounts: Accounts, tenant: str, request_id: str) -> None:
        self._txn = txn
        self._accounts = accounts
        self._key = _noted_key(tenant, request_id)
        self._prefix = _prefix(tenant, request_id)
        raw = txn.get(self._key)
        self._record = NotedRecord() if raw is None else decode_noted(raw)

    def get(self, key: bytes) -> bytes | None:
        """See the protocol."""
        return self._txn.get(self._prefix + key)

    def put(self, key: bytes, value: bytes) -> None:
        """See the protocol."""
        whole = self._prefix + key
        before = self._txn.get(whole)
        self._txn.put(whole, value)
        grown = len(value) - len(before) if before is not None else len(whole) + len(value) + _ENTRY_BYTES
        if grown:
            self._record.nbytes += grown
            self._accounts.charge(self._key, grown)
            self._save()

    def keep(self, until: float) -> None:
        """See the protocol."""
        until = min(until, 1e12)
        if self._record.expires:
            self._txn.delete(expiry_key(self._record.expires, self._key))
        self._record.expires = until
        self._txn.put(expiry_key(until, self._key), b"")
        self._save()

    def label(self, label: str, since: float) -> None:
        """See the protocol."""
        self._record.label, self._record.since = label, since
        self._save()

    def remind(self, at: float | None) -> None:
        """See the protocol."""
        if self._record.remind:
            self._txn.delete(_reminder_key(self._record.remind, self._key))
        self._record.remind = at or 0.0
        if at:
            self._txn.put(_reminder_key(at, self._key), b"")
        self._save()

    def _save(self) -> None:
        self._txn.put(self._key, encode(self._record))


def drop(txn: lmdb.Transaction[bytes], accounts: Accounts, key: bytes) -> None:
    """Remove all notes of the request whose ``NOTED`` key this is."""
    raw = txn.get(key)
    if raw is None:
        return
    record = decode_noted(raw)
    tenant, request_id = split(key)
    for each in [found for found, _ in scan(txn, _prefix(tenant, request_id.decode(errors="surrogatepass")))]:
        txn.delete(each)
    txn.delete(expiry_key(record.expires, key))
    if record.remind:
        txn.delete(_reminder_key(record.remind, key))
    txn.delete(key)
    accounts.charge(key, -record.nbytes)


def read(txn: lmdb.Transaction[bytes], tenant: str, request_id: str) -> dict[bytes, bytes]:
    """All notes of a request, as of one moment; none if it has none."""
    prefix = _prefix(tenant, request_id)
    return {key[len(prefix) :]: value for key, value in scan(txn, prefix)}


def note_key(tenant: str, request_id: str, key: bytes) -> bytes:
    """Under which a note lies."""
    return _prefix(tenant, request_id) + key


def due(txn: lmdb.Transaction[bytes], now: float, limit: int, tenants: Collection[str] | None = None) -> list[Noted]:
    """Requests whose reminder is for now or earlier, the earliest first. ``tenants``: only theirs."""
    found: list[Noted] = []
    for index, _ in scan(txn, REMINDER):
        if index[1 : 1 + _TIME.size] > _time(now) or len(found) == limit:
            break
        tenant, request_id = split(index[1 + _TIME.size :])
        if tenants is None or tenant in tenants:
            found.append(Noted(tenant, request_id.decode(errors="surrogatepass")))
    return found


def labelled(
    txn: lmdb.Transaction[bytes],
    now: float,
    tenant: str,
    limit: int,
    label: str | None = None,
    before: tuple[float, str] | None = None,
) -> tuple[list[Labelled], int]:
    """The tenant's requests with that label, or any, the latest first; and how many there are. See the protocol.

    It looks at all that the tenant has, also for a page of them: 3 to 4 us for each.
    """
    prefix, total = scope(NOTED, tenant), 0
    found: list[tuple[float, str, str]] = []
    for key, raw in scan(txn, prefix):
        record = decode_noted(raw)
        if not record.label or label not in {None, record.label} or 0 < record.expires <= now:
            continue
        total += 1
        place = (record.since, key[len(prefix) :].decode(errors="surrogatepass"))
        if before is None or place < before:
            found.append((*place, record.label))
    return [Labelled(name, word, since) for since, name, word in heapq.nlargest(limit, found)], total


def _noted_key(tenant: str, request_id: str) -> bytes:
    return scope(NOTED, tenant) + check_request_id(request_id)


def _prefix(tenant: str, request_id: str) -> bytes:
    encoded = check_request_id(request_id)
    return scope(NOTE, tenant) + bytes([len(encoded)]) + encoded  # no id is the beginning of another


def _reminder_key(when: float, key: bytes) -> bytes:
    return REMINDER + _time(when) + key


def _time(when: float) -> bytes:
    return _TIME.pack(max(0, min(int(when * 1e6), 2**63)))
