"""What a tenant may use: the settings, and the limits that follow for one tenant. Pure."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from kaasq.errors import QuotaExceeded
from kaasq.setting_values import Bytes

INLINE_BYTES = 16 << 20  # RabbitMQ's own limit for a message, from 4.0 on

Count = Annotated[int, msgspec.Meta(ge=0)]
Span = Annotated[float, msgspec.Meta(ge=0)]


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits; 0 is none, and what is left out is said elsewhere."""

    stored_bytes: Bytes | UnsetType = UNSET
    """Bytes of objects and replies in the store."""
    queued: Count | UnsetType = UNSET
    """Requests that one worker holds."""
    device_seconds: Span | UnsetType = UNSET
    """Kernel time on one worker's device, in ``window`` seconds."""
    window: Annotated[float, msgspec.Meta(gt=0)] | UnsetType = UNSET
    inline_bytes: Bytes | UnsetType = UNSET
    """Inputs inside one request."""


class Quotas(Quota, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those of every tenant, and of some by name."""

    tenants: dict[str, Quota] = {}


class Limits(NamedTuple):
    """One tenant's; 0 is none."""

    queued: int = 0
    device_seconds: float = 0.0
    window: float = 60.0
    inline_bytes: int = INLINE_BYTES


class LimitsByTenant:
    """Each tenant's limits: its own, else everybody's, else the defaults."""

    def __init__(self, quotas: Quotas) -> None:
        self._everybody = _limits(quotas, "")
        self._special = {name: _limits(quotas, name) for name in quotas.tenants}

    def of(self, tenant: str) -> Limits:
        """That tenant's."""
        return self._special.get(tenant, self._everybody)


def stored_limits(quotas: Quotas) -> tuple[int | None, dict[str, int]]:
    """Bytes in the store: everybody's, None if nothing is said, and those of tenants for whom something is."""
    everybody = None if quotas.stored_bytes is UNSET else quotas.stored_bytes
    by_tenant = {
        name: each.stored_bytes for name, each in quotas.tenants.items() if not isinstance(each.stored_bytes, UnsetType)
    }
    return everybody, by_tenant


def check_inline(limits: Limits, nbytes: int) -> None:
    """Raises QuotaExceeded for a request with more inputs in it than may be."""
    if limits.inline_bytes and nbytes > limits.inline_bytes:
        raise QuotaExceeded(
            f"the request carries {nbytes} bytes of inputs, a tenant's may carry {limits.inline_bytes}: put large ones "
            "into the store",
            which="inline_bytes",
            limit=limits.inline_bytes,
            used=nbytes,
        )


def _limits(quotas: Quotas, tenant: str) -> Limits:
    said: dict[str, float] = {}
    for quota in (quotas, quotas.tenants.get(tenant)):
        for name in Limits._fields:
            value = UNSET if quota is None else getattr(quota, name)
            if value is not UNSET:
                said[name] = value
    return Limits(**said)  # type: ignore[arg-type]  # by name, each of its own type
