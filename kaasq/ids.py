"""Ids of requests and clients: UUIDv7, so that they sort by time; and ids that follow from what caused a request."""

from __future__ import annotations

import uuid

import uuid_utils

_DERIVED = uuid.UUID("6b616173-7100-5000-8000-000000000001")  # the namespace; changing it repeats what was done


def new_id() -> str:
    """A new id, 32 hexadecimal digits: also a word of a routing key."""
    return uuid_utils.uuid7().hex


def derived_id(parent: str, *path: str) -> str:
    """The id of what follows from ``parent`` along that path, 32 hexadecimal digits (a UUIDv5).

    The same arguments give the same id in every process, so whoever does a step again sends the request that it sent
    before; others give another.
    """
    # Length-prefixed: ("ab", "c") and ("a", "bc") are different causes.
    text = "".join(f"{len(each)}:{each}" for each in (parent, *path))
    return uuid.uuid5(_DERIVED, text).hex
