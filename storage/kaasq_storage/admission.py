"""Lets bytes in if there is room for them in the store and on the disk under it."""

from __future__ import annotations

import errno

from kaasq.errors import KaasqError
from kaasq_storage import collect, staging
from kaasq_storage.accounts import quota_exceeded
from kaasq_storage.environment import Environment
from kaasq_storage.errors import translated
from kaasq_storage.mapping import Bytes
from kaasq_storage.records import OBJECT, scope
from kaasq_storage.staged import StagedData


def admit(env: Environment, now: float, tenant: str, nbytes: int, contents: Bytes | None = None) -> StagedData:
    """Room for that many bytes, given ``contents`` or to be filled. Raises StoreFull, QuotaExceeded, Forbidden."""
    scope(OBJECT, tenant)
    for attempt in ("first", "last"):
        staged: StagedData | None = None
        error: KaasqError
        try:
            staged = StagedData(env, tenant, nbytes, contents)
            # Reserved first and counted then, itself included: two at once may both be refused, never both let in.
            tenants, quota = env.quota(tenant)
            counters, capacity = env.usage()
            used = counters.used + env.reserved() - (nbytes if staged.file is not None else 0)
            if quota and tenants + nbytes > quota:  # looked at again as it is published; this saves the writing
                error = quota_exceeded(tenant, nbytes, tenants, quota)
            elif used + nbytes <= capacity:
                return staged
            else:
                error = env.full(nbytes, used, capacity)
        except OSError as failed:
            if failed.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise translated(failed, env.path, nbytes) from failed
            error = translated(failed, env.path, nbytes)
        if staged is not None:
            staged.discard(reuse=False)
        if attempt == "last" or env.writing:
            raise error
        env.spares.drop()
        collect.expire(env, now)
        with env.faults():
            staging.sweep(env.staging)
    raise AssertionError("unreachable")
