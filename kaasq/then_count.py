"""Counts continuations while they are read: decoded, a tiny one takes thirty times its bytes.

Only how they are nested is decoded here, and no further than there may be continuations.
"""

from __future__ import annotations

import threading

import msgspec

from kaasq.errors import BadRequest


class _Left(threading.local):
    count = 0


_left = _Left()


class _Each(msgspec.Struct, gc=False):
    then: tuple[_Each, ...] = ()

    def __post_init__(self) -> None:
        _left.count -= 1
        if _left.count < 0:
            raise ValueError


_json = msgspec.json.Decoder(tuple[_Each, ...])
_msgpack = msgspec.msgpack.Decoder(tuple[_Each, ...])


def check_count(then: msgspec.Raw, most: int, *, json: bool) -> None:
    """Raises BadRequest for more than ``most`` of them. What else may be wrong is for who decodes them to tell."""
    _left.count = most
    try:
        (_json if json else _msgpack).decode(then)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if _left.count < 0:
            raise BadRequest(f"more than {most} continuations, which is the limit", at="then") from None
