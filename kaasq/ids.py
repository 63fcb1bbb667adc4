"""Ids of requests and clients: UUIDv7, so that they sort by time."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """A new id, 32 hexadecimal digits: also a word of a routing key."""
    return uuid_utils.uuid7().hex
