"""A message's headers as far as they can be read: what nobody can read in one of them costs that one, not the message.

Any tenant writes headers, and RabbitMQ passes them on as they are: to workers, and with dead letters to operators.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from pika import data

DEEP: Final = 16
"""Lists and tables in each other; RabbitMQ's own ``x-death`` has three. Whoever goes through them may recurse."""

_U32 = struct.Struct(">I")
_FIXED: Final = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"sUu", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"lLdT", 8),
    ord("D"): 5,
    ord("V"): 0,
}
"""Bytes of a value by its kind; the others say their length first."""
_COUNTED: Final = frozenset(b"SxAF")


def readable_headers(encoded: bytes, at: int) -> tuple[dict[str, Any], int]:
    """The headers in the table there that can be read, and where it ends. Raises struct.error, IndexError."""
    end = at + 4 + _U32.unpack_from(encoded, at)[0]
    at += 4
    found: dict[str, Any] = {}
    while at < end:
        name = encoded[at + 1 : at + 1 + encoded[at]]
        at += 1 + len(name)
        kind = encoded[at]
        size = _FIXED.get(kind)
        if kind in _COUNTED:
            size = 4 + _U32.unpack_from(encoded, at + 1)[0]
        if size is None:
            break  # nobody knows where the next one begins
        try:
            found[name.decode()], _ = data.decode_value(encoded[at : at + 1 + size], 0)
        except Exception:  # noqa: BLE001, S110  # struct.error, ValueError, OverflowError, RecursionError, pika's own
            pass
        at += 1 + size
    return sane(found), end


def sane(headers: Mapping[Any, Any]) -> dict[str, Any]:
    """Those with a name that is text (pika leaves bytes that are no UTF-8 as they are), and not too deep a value."""
    return {name: value for name, value in headers.items() if isinstance(name, str) and not _deeper(value, DEEP)}


def _deeper(value: object, most: int) -> bool:
    if isinstance(value, dict):
        return not most or any(_deeper(each, most - 1) for each in value.values())
    if isinstance(value, list):
        return not most or any(_deeper(each, most - 1) for each in value)
    return False
