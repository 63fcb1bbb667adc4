"""Properties with headers that no AMQP library would send, but anybody may: RabbitMQ passes them on as they are."""

from __future__ import annotations

import struct
from typing import Any

from pika import BasicProperties

_U32 = struct.Struct(">I")
_NO_HEADERS = _U32.pack(0)


class OddProperties(BasicProperties):
    """``table``: the headers, encoded. Text beside them must have no NUL."""

    def __init__(self, table: bytes, **properties: Any) -> None:
        super().__init__(headers={}, **properties)
        self.table = table

    def encode(self) -> list[bytes]:
        before, _, after = b"".join(super().encode()).partition(_NO_HEADERS)
        return [before, _U32.pack(len(self.table)), self.table, after]


def header(kind: bytes, value: bytes, name: bytes = b"odd") -> bytes:
    """A header of that kind."""
    return bytes([len(name)]) + name + kind + value


def counted(value: bytes) -> bytes:
    """With its length before it."""
    return _U32.pack(len(value)) + value


def tables(depth: int) -> bytes:
    """Tables in each other."""
    made = b""
    for _ in range(depth):
        made = header(b"F", counted(made))
    return made


ODD = {
    "a time": header(b"T", struct.pack(">Q", 10**6)),
    "a time after all calendars": header(b"T", struct.pack(">Q", 2**63 - 1)),
    "a time after the year 9999": header(b"T", struct.pack(">Q", 10**12)),
    "a decimal": header(b"D", b"\x02\x00\x00\x00\x05"),
    "unsigned": header(b"i", b"\xff" * 4) + header(b"L", b"\xff" * 8, b"odder"),
    "nothing": header(b"V", b""),
    "bytes": header(b"x", counted(b"\xff\x00")),
    "text that is none": header(b"S", counted(b"\xff\x00")),
    "a name that is none": header(b"S", counted(b"x"), b"\xff\xfe"),
    "tables in tables": tables(150),
    "too many tables in tables": tables(1500),
    "control characters": header(b"S", counted(b"\x1b]0;mine\x07"), b"\x1b[31m"),
}
"""By what is odd about them."""
