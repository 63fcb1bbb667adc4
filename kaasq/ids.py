"""Ids of requests and clients: UUIDv7, so that they sort by time; and ids that follow from what caused a request."""

from __future__ import annotations

import uuid

import uuid_utils

_DERIVED = uuid.UUID("6b616173-7100-5000-8000-000000000001")  # the namespace; changing it repeats what was done
_PLUS = "+"


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


def following_id(request_id: str, number: int) -> str:
    """The id of the continuation with that number of a request.

    >>> following_id("0193", 2), following_id("0193+2", 1)
    ('0193+2', '0193+3')

    Unlike ``derived_id`` it shows with what it began, which is how all that follows a request is cancelled; and any
    program can write it. A continuation's own continuations count on from its number, so ids do not grow along a chain.
    """
    first, after = split_id(request_id)
    return f"{first}{_PLUS}{after + number}"


def chain_id(request_id: str) -> str:
    """What stands for all continuations of a request together; the id of none of them."""
    return request_id + _PLUS


def split_id(request_id: str) -> tuple[str, int]:
    """The id of the request with which a chain began, and the number in it: 0 for that request itself."""
    first, plus, number = request_id.rpartition(_PLUS)
    if plus and first and number.isascii() and number.isdecimal() and len(number) <= 9:
        return first, int(number)
    return request_id, 0


def concerns(request_id: str, cancelled: str) -> bool:
    """Whether cancelling the one id cancels a request: it is that request, or follows it in its chain."""
    return request_id == cancelled or (request_id.startswith(cancelled) and split_id(request_id)[0] == cancelled)
