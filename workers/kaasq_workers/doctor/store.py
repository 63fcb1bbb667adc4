"""Whether the store can be written and read, and has room."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from kaasq.errors import KaasqError
from kaasq.ids import new_id
from kaasq.units import size
from kaasq_storage import BufferStore
from kaasq_workers.doctor.finding import Finding

LOW_DISK_BYTES = 1 << 30


def check_store(store: BufferStore) -> Iterator[Finding]:
    """Write, read, room."""
    try:
        started = time.perf_counter()
        stored, _ = store.put("doctor", new_id().encode(), ttl_s=1.0)
        store.delete("doctor", ref=stored.ref)
        took_ms = (time.perf_counter() - started) * 1e3
    except KaasqError as error:
        yield Finding("store", "broken", error.message, "See --store; 'kaasq gc' and 'kaasq rm' make room.")
        return
    usage = store.usage()
    free = shutil.disk_usage(store.path).free
    found = (
        f"{store.path} (id {store.id}): {size(usage.used)} of {size(usage.capacity)} in {usage.objects} objects, "
        f"written in {took_ms:.1f} ms"
    )
    if free < LOW_DISK_BYTES:
        yield Finding("store", "warning", f"{found}; only {size(free)} left on the disk", "Make room on that disk.")
    elif free < usage.capacity - usage.used:
        yield Finding(
            "store",
            "warning",
            f"{found}; the disk has {size(free)} left, less than the store may take",
            "Lower store_capacity, or use a larger disk, so that the store and not the disk is the limit.",
        )
    else:
        yield Finding("store", "ok", found)
