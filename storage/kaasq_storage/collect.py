"""Garbage collection: what has expired, what a crash left behind, and readers that died.

Looking for leftovers compares the records with the bytes present, piece by piece and without any lock; so a change
under way looks like a leftover too. Whatever is found is therefore looked at again under the locks that everybody
who changes bytes holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lmdb

from kaasq.names import is_ref, is_word
from kaasq_storage.environment import Environment
from kaasq_storage.ledger import Ledger
from kaasq_storage.protocol import Collected
from kaasq_storage.records import OBJECT, OUTCOME, decode_object, decode_outcome, scan, scope
from kaasq_storage.spares import KEPT_S
from kaasq_storage.staging import sweep
from kaasq_storage.transaction import LmdbTransaction


def collect(env: Environment, now: float) -> Collected:
    """Everything a collection does."""
    objects, nbytes, outcomes = expire(env, now)
    with env.faults():
        staged, staged_bytes = sweep(env.staging)
        env.spares.drop(KEPT_S)
        stale = env.reader_check()
        orphans, orphan_bytes, lost = _leftovers(env, now)
    return Collected(
        objects=objects + lost,
        nbytes=nbytes + staged_bytes + orphan_bytes,
        outcomes=outcomes,
        orphans=staged + orphans,
        stale_readers=stale,
    )


def expire(env: Environment, now: float) -> tuple[int, int, int]:
    """Remove all that has expired, in transactions of bounded length: objects, bytes, outcomes."""
    objects = nbytes = outcomes = 0
    more = True
    while more:
        with LmdbTransaction(env, now) as txn:
            counters = txn.ledger.accounts.counters
            before = counters.objects, counters.used, counters.outcomes
            more = txn.expire() > 0
            objects += before[0] - counters.objects
            nbytes += before[1] - counters.used
            outcomes += before[2] - counters.outcomes
    return objects, nbytes, outcomes


def _leftovers(env: Environment, now: float) -> tuple[int, int, int]:
    """Remove bytes without a record, and objects without bytes: orphans, their bytes, objects."""
    orphans = nbytes = lost = 0
    for tenant in _tenants(env):
        for prefix in _pieces(tenant):
            if _in_order(env, prefix):
                continue
            with _locked(env, now) as (ledger, present):
                recorded, blobs, files = _recorded(ledger.txn, prefix), _keys(present, prefix), _files(env, prefix)
                for key in blobs:
                    if recorded.get(key) is not False:
                        nbytes += len(present.pop(key) or b"")
                        orphans += 1
                for key in files:
                    if recorded.get(key) is not True:
                        path = Path(env.file_path(key))
                        nbytes += path.stat().st_size
                        path.unlink()
                        orphans += 1
                for key, file in recorded.items():
                    if key[:1] == OBJECT and key not in (files if file else blobs):
                        ledger.lose(key)
                        lost += 1
    return orphans, nbytes, lost


def _in_order(env: Environment, prefix: bytes) -> bool:
    """Whether bytes and records match at a first look, for which the records are not decoded."""
    with env.blobs.begin() as txn:
        blobs = _keys(txn, prefix)
    if prefix[:1] == OUTCOME:  # most replies lie in their records: ask only for those that do not
        with env.read() as txn:
            return all((raw := txn.get(key)) is not None and decode_outcome(raw).reply is None for key in blobs)
    files = _files(env, prefix)
    with env.read() as txn:
        return blobs.isdisjoint(files) and blobs | files == _keys(txn, prefix)


@contextlib.contextmanager
def _locked(env: Environment, now: float) -> Iterator[tuple[Ledger, lmdb.Transaction[bytes]]]:
    meta = env.begin_write()
    try:
        with meta, env.begin_blobs() as blobs:
            ledger = Ledger(meta, now)
            yield ledger, blobs
            ledger.accounts.close()
    finally:
        env.end_write()


def _tenants(env: Environment) -> list[str]:
    """All who have a record with bytes elsewhere, or bytes."""
    found = {
        each.name for each in (env.path / "objects").iterdir() if is_word(each.name)
    }  # a disk's lost+found is none
    for lmdb_env in (env.meta, env.blobs):
        for kind in (OBJECT, OUTCOME):
            with lmdb_env.begin() as txn, txn.cursor() as cursor:
                more = cursor.set_range(kind)
                while more and cursor.key()[:1] == kind:
                    tenant = cursor.key()[1:].split(b"\0", 1)[0]
                    found.add(tenant.decode())
                    more = cursor.set_range(kind + tenant + b"\1")  # past the last key of this tenant
    return sorted(found)


def _pieces(tenant: str) -> Iterator[bytes]:
    """Key prefixes that together cover a tenant, each for a bounded amount of work; objects by their folder."""
    for first in range(256):
        yield scope(OBJECT, tenant) + bytes([first])
    yield scope(OUTCOME, tenant)


def _recorded(txn: lmdb.Transaction[bytes], prefix: bytes) -> dict[bytes, bool]:
    """Keys of the records whose bytes lie elsewhere; True where they are a file."""
    if prefix[:1] == OBJECT:
        return {key: decode_object(raw).file for key, raw in scan(txn, prefix)}
    return {key: False for key, raw in scan(txn, prefix) if decode_outcome(raw).reply is None}


def _keys(txn: lmdb.Transaction[bytes], prefix: bytes) -> set[bytes]:
    found = set()
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            for key in cursor.iternext(keys=True, values=False):
                if not key.startswith(prefix):
                    break
                found.add(key)
    return found


def _files(env: Environment, prefix: bytes) -> set[bytes]:
    if prefix[:1] != OBJECT:
        return set()
    tenant, first = prefix[1:-1].rstrip(b"\0").decode(), prefix[-1:]
    folder: Path = env.path / "objects" / tenant / first.hex()
    try:
        names = [each.name for each in folder.iterdir()]
    except FileNotFoundError:
        return set()
    return {prefix[:-1] + bytes.fromhex(name) for name in names if is_ref(name) and name.startswith(first.hex())}
