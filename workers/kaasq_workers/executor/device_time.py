"""Who may use the device now, by the kernel time that each tenant has used. Pure: the caller says what time it is.

A bucket per tenant: it starts full, with a window's allowance, fills evenly, and each request takes out what its
kernels took. How long that will be nobody knows beforehand, so a request may start as long as something is in the
bucket, and may leave it in debt. Forgotten when the executor ends.
"""

from __future__ import annotations

import msgspec

from kaasq.errors import QuotaExceeded
from kaasq.quotas import Limits

MOST_BUCKETS = 10_000


class _Bucket(msgspec.Struct):
    left_s: float
    at: float


class DeviceTime:
    """The buckets of all tenants of one executor."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def check(self, tenant: str, limits: Limits, now: float) -> None:
        """Raises QuotaExceeded for a tenant whose bucket is empty, saying when it no longer will be."""
        if not limits.device_seconds:
            return
        bucket = self._filled(tenant, limits, now)
        if bucket.left_s > 0:
            return
        retry_s = max(0.001, -bucket.left_s * limits.window / limits.device_seconds)
        raise QuotaExceeded(
            f"tenant {tenant!r} has used {limits.device_seconds - bucket.left_s:.3g} s of the device, its quota is "
            f"{limits.device_seconds:g} s in {limits.window:g} s: try again in {retry_s:.3g} s",
            which="device_seconds",
            limit=limits.device_seconds,
            used=round(limits.device_seconds - bucket.left_s, 6),
            retry_after_s=round(retry_s, 3),
        )

    def charge(self, tenant: str, limits: Limits, kernel_s: float, now: float) -> None:
        """A request's kernels took that long."""
        if limits.device_seconds:
            self._filled(tenant, limits, now).left_s -= kernel_s

    def _filled(self, tenant: str, limits: Limits, now: float) -> _Bucket:
        bucket = self._buckets.get(tenant)
        if bucket is None:
            if len(self._buckets) >= MOST_BUCKETS:  # the one that was used longest ago: it is the fullest
                del self._buckets[min(self._buckets, key=lambda each: self._buckets[each].at)]
            bucket = self._buckets[tenant] = _Bucket(limits.device_seconds, now)
        rate = limits.device_seconds / limits.window
        bucket.left_s = min(limits.device_seconds, bucket.left_s + (now - bucket.at) * rate)
        bucket.at = now
        return bucket
