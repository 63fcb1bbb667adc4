"""What lies in the store by whom: the bytes of each tenant, the totals, and the quotas that they are held against."""

from __future__ import annotations

import lmdb

from kaasq.errors import QuotaExceeded
from kaasq_storage.records import (
    COUNTED,
    COUNTERS,
    OBJECT,
    OUTCOME,
    QUOTA,
    USED,
    Counters,
    decode_object,
    decode_outcome,
    scan,
    scope,
    split,
)


class Accounts:
    """Reads and changes them through one write transaction; ``close`` writes them."""

    def __init__(self, txn: lmdb.Transaction[bytes]) -> None:
        self.counters = Counters.load(txn)
        self._txn = txn
        self._before = self.counters.encode()
        self._used: dict[str, int] = {}  # by tenants, changed here
        if txn.get(COUNTED) is None:
            self._count_all()

    def close(self) -> None:
        """Write them."""
        after = self.counters.encode()
        if after != self._before:
            self._txn.put(COUNTERS, after)
        for tenant, used in self._used.items():
            self._txn.put(scope(USED, tenant), used.to_bytes(8, "big"))

    def used_by(self, tenant: str) -> int:
        """Bytes of a tenant's objects and replies."""
        used = self._used.get(tenant)
        return int.from_bytes(self._txn.get(scope(USED, tenant)) or b"", "big") if used is None else used

    def check_quota(self, tenant: str, nbytes: int) -> None:
        """Raises QuotaExceeded if the tenant may not have that many bytes more."""
        quota, used = quota_of(self._txn, tenant), self.used_by(tenant)
        if quota and used + nbytes > quota:
            raise quota_exceeded(tenant, nbytes, used, quota)

    def charge(self, key: bytes, nbytes: int) -> None:
        """The owner of the key has so many bytes more, or fewer."""
        tenant, _ = split(key)
        self._used[tenant] = self.used_by(tenant) + nbytes
        self.counters.used += nbytes

    def _count_all(self) -> None:
        """For a store from before tenants' bytes were counted."""
        for kind, decode in ((OBJECT, decode_object), (OUTCOME, decode_outcome)):
            for key, raw in scan(self._txn, kind):
                tenant, _ = split(key)
                self._used[tenant] = self._used.get(tenant, 0) + decode(raw).nbytes
        self._txn.put(COUNTED, b"")


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
