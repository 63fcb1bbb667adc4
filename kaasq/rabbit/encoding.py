"""A message's properties as AMQP's bytes, and back.

By hand for what kaasq's own messages have, which takes a fifth of pika's time; pika does the rest (see properties.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from pika import BasicProperties

from kaasq.broker import Message
from kaasq.rabbit.properties import (
    MAX_TIMESTAMP_MS,
    PERSISTENT,
    TIMESTAMP_MS,
    TRANSIENT,
    bounded,
    expiration_ms,
    to_message,
    to_properties,
)
from kaasq.rabbit.tables import readable_headers

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")

# Which properties there are, in the order in which they come: AMQP 0-9-1, 4.2.6.1 and class basic.
_CONTENT_TYPE: Final = 1 << 15
_CONTENT_ENCODING: Final = 1 << 14
_HEADERS: Final = 1 << 13
_DELIVERY_MODE: Final = 1 << 12
_PRIORITY: Final = 1 << 11
_CORRELATION_ID: Final = 1 << 10
_REPLY_TO: Final = 1 << 9
_EXPIRATION: Final = 1 << 8
_MESSAGE_ID: Final = 1 << 7
_TIMESTAMP: Final = 1 << 6
_TYPE: Final = 1 << 5
_USER_ID: Final = 1 << 4
_APP_ID: Final = 1 << 3
_UNUSUAL: Final = 0b111  # they are not AMQP's


_ReadHeaders = Callable[[bytes, int], tuple[dict[str, Any], int]]


class _Unusual(Exception):
    """Left to pika."""


def encode_properties(message: Message, frame_max: int) -> bytes:
    """The payload of a header frame after the body's size.

    Raises BrokerRefused if it is larger than a frame may be, and what pika raises for what it cannot encode.
    """
    try:
        encoded = _encoded(message)
    except (_Unusual, AttributeError, TypeError, ValueError, struct.error):
        encoded = None
    if encoded is None or len(encoded) + 20 > frame_max:
        return b"".join(to_properties(message, frame_max).encode())
    return encoded


def decode_properties(encoded: bytes, body: bytes) -> Message:
    """The message with these properties. Anybody may have sent it: what cannot be read is left out."""
    try:
        return _decoded(encoded, body, _headers)
    except (_Unusual, IndexError, struct.error):
        pass
    properties = BasicProperties()
    try:
        properties.decode(encoded)
    except Exception:  # noqa: BLE001  # struct.error, ValueError, OverflowError, RecursionError, pika's own
        return salvaged(encoded, body)
    return to_message(properties, body)


def salvaged(encoded: bytes, body: bytes) -> Message:
    """The message with those properties that can be read, of some that pika cannot read."""
    try:
        return _decoded(encoded, body, readable_headers)
    except (_Unusual, IndexError, struct.error):
        return to_message(BasicProperties(), body)


def _encoded(message: Message) -> bytes:
    flags = _DELIVERY_MODE
    parts = [b""]
    if message.content_type is not None:
        flags |= _CONTENT_TYPE
        parts.append(repeated(message.content_type))
    timestamp_ms = message.timestamp_ms
    if message.headers or timestamp_ms is not None:
        flags |= _HEADERS
        parts.append(_table(message, timestamp_ms))
    parts.append(_PERSISTENT_BYTE if message.persistent else _TRANSIENT_BYTE)
    if message.priority is not None:
        raise _Unusual
    if message.correlation_id is not None:
        flags |= _CORRELATION_ID
        parts.append(short(message.correlation_id))
    if message.reply_to is not None:
        flags |= _REPLY_TO
        parts.append(repeated(message.reply_to))
    if message.expiration_ms is not None:
        if not 0 <= message.expiration_ms < 1 << 32:
            raise _Unusual
        flags |= _EXPIRATION
        parts.append(short(str(message.expiration_ms)))
    if message.message_id is not None:
        flags |= _MESSAGE_ID
        parts.append(short(message.message_id))
    if timestamp_ms is not None:
        flags |= _TIMESTAMP
        parts.append(_U64.pack(timestamp_ms // 1000))
    if message.type is not None:
        flags |= _TYPE
        parts.append(repeated(message.type))
    if message.user_id is not None:
        flags |= _USER_ID
        parts.append(repeated(message.user_id))
    parts[0] = _U16.pack(flags)
    return b"".join(parts)


_PERSISTENT_BYTE = bytes([PERSISTENT])
_TRANSIENT_BYTE = bytes([TRANSIENT])


def short(text: str) -> bytes:
    """A short string: its length in one byte, then so many. Raises ValueError, AttributeError."""
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"{text[:32]!r}... has {len(data)} bytes, 255 are the most")
    return _LENGTHS[len(data)] + data


_LENGTHS: Final = [bytes([each]) for each in range(256)]

repeated: Final = lru_cache(maxsize=1024)(short)
"""The same for what is in many messages: names of headers and exchanges, keys. Most of an event is that."""


def _table(message: Message, timestamp_ms: int | None) -> bytes:
    parts = [b""]
    for name, value in message.headers.items():
        parts.append(repeated(name))
        parts.append(_value(value))
    if timestamp_ms is not None:
        if TIMESTAMP_MS in message.headers:
            raise _Unusual
        parts.append(_TIMESTAMP_NAME)
        parts.append(_value(timestamp_ms))
    parts[0] = _U32.pack(sum(map(len, parts)))
    return b"".join(parts)


_TIMESTAMP_NAME = short(TIMESTAMP_MS)


def _value(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        data: bytes = value.encode()
        return b"S" + _U32.pack(len(data)) + data
    if kind is bool:
        return b"t\x01" if value else b"t\x00"
    if kind is int:
        return b"I" + _I32.pack(value) if -(1 << 31) <= value < 1 << 31 else b"l" + _I64.pack(value)
    raise _Unusual


def _decoded(encoded: bytes, body: bytes, read_headers: _ReadHeaders) -> Message:
    (flags,) = _U16.unpack_from(encoded, 0)
    if flags & _UNUSUAL:
        raise _Unusual
    at = 2
    content_type = correlation_id = reply_to = expiration = message_id = kind = user_id = None
    headers: dict[str, Any] = {}
    mode = priority = seconds = None
    if flags & _CONTENT_TYPE:
        content_type, at = _text(encoded, at)
    at = _passed_over(encoded, at, flags & _CONTENT_ENCODING)
    if flags & _HEADERS:
        headers, at = read_headers(encoded, at)
    if flags & _DELIVERY_MODE:
        mode, at = encoded[at], at + 1
    if flags & _PRIORITY:
        priority, at = encoded[at], at + 1
    if flags & _CORRELATION_ID:
        correlation_id, at = _text(encoded, at)
    if flags & _REPLY_TO:
        reply_to, at = _text(encoded, at)
    if flags & _EXPIRATION:
        expiration, at = _text(encoded, at)
    if flags & _MESSAGE_ID:
        message_id, at = _text(encoded, at)
    if flags & _TIMESTAMP:
        (seconds,) = _U64.unpack_from(encoded, at)
        at += 8
    if flags & _TYPE:
        kind, at = _text(encoded, at)
    if flags & _USER_ID:
        user_id, at = _text(encoded, at)
    at = _passed_over(encoded, at, flags & _APP_ID)
    if at > len(encoded):
        raise _Unusual
    timestamp_ms = bounded(headers.pop(TIMESTAMP_MS, None), MAX_TIMESTAMP_MS) if headers else None
    if timestamp_ms is None and seconds is not None:
        timestamp_ms = bounded(seconds * 1000, MAX_TIMESTAMP_MS)
    return Message(
        body=body,
        content_type=content_type,
        message_id=message_id,
        correlation_id=correlation_id,
        user_id=user_id,
        reply_to=reply_to,
        priority=priority,
        expiration_ms=expiration_ms(expiration),
        timestamp_ms=timestamp_ms,
        type=kind,
        headers=headers,
        persistent=mode == PERSISTENT,
    )


def _passed_over(encoded: bytes, at: int, there: int) -> int:
    """Behind a text that nobody here looks at, if it is there."""
    return at + 1 + encoded[at] if there else at


def _text(encoded: bytes, at: int) -> tuple[str | None, int]:
    """None for what is no text."""
    start = at + 1
    end = start + encoded[at]
    try:
        return encoded[start:end].decode(), end
    except UnicodeDecodeError:
        return None, end


def _headers(encoded: bytes, at: int) -> tuple[dict[str, Any], int]:
    (size,) = _U32.unpack_from(encoded, at)
    at += 4
    end = at + size
    headers: dict[str, Any] = {}
    while at < end:
        name, at = _text(encoded, at)
        if name is None:
            raise _Unusual
        kind = encoded[at]
        at += 1
        if kind == 83:  # S
            (length,) = _U32.unpack_from(encoded, at)
            at += 4
            try:
                headers[name] = encoded[at : at + length].decode()
            except UnicodeDecodeError:
                headers[name] = encoded[at : at + length]
            at += length
        elif kind == 108:  # l
            (headers[name],) = _I64.unpack_from(encoded, at)
            at += 8
        elif kind == 73:  # I
            (headers[name],) = _I32.unpack_from(encoded, at)
            at += 4
        elif kind == 116:  # t
            headers[name] = bool(encoded[at])
            at += 1
        else:
            raise _Unusual
    if at != end:
        raise _Unusual
    return headers, at
