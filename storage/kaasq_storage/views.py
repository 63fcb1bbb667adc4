"""Stored records as others see them, and when a lease ends."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import lmdb

from kaasq.errors import BadRequest
from kaasq_storage.protocol import Object
from kaasq_storage.records import NameRecord, ObjectRecord

LEASE_STEP_S: Final = 900.0
_LONG_LEASE_S: Final = 3600.0


def lease_end(now: float, ttl_s: float) -> float:
    """When a lease taken now ends. Raises BadRequest.

    Long ones are rounded up, so that storing the same contents again and again mostly changes nothing.
    """
    if not ttl_s > 0:
        raise BadRequest(f"ttl_s is {ttl_s}: an object needs some time to live")
    end = min(now + ttl_s, 1e12)
    return end if ttl_s < _LONG_LEASE_S else math.ceil(end / LEASE_STEP_S) * LEASE_STEP_S


def described(ref: str, record: ObjectRecord) -> Object:
    """The object as others see it."""
    return Object(
        ref=ref,
        nbytes=record.nbytes,
        dtype=record.dtype,
        shape=record.shape,
        created=record.created,
        expires=None if record.names else record.lease,
    )


def named(ref: str, record: ObjectRecord, name: NameRecord) -> Object:
    """The object as seen through one of its names, which says what the bytes mean there."""
    return Object(ref=ref, nbytes=record.nbytes, dtype=name.dtype, shape=name.shape, created=record.created)


def scan(txn: lmdb.Transaction[bytes], prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """Keys that start so, and their values, in order; ``after`` a key leaves out that one and those before it."""
    with txn.cursor() as cursor:
        if not cursor.set_range(max(prefix, after)):
            return
        for key, value in cursor.iternext():
            if not key.startswith(prefix):
                return
            if key != after:
                yield key, value
