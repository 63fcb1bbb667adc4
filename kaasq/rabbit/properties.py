"""A Message as AMQP properties, and back."""

from __future__ import annotations

from typing import Any, Final, cast

from pika import BasicProperties

from kaasq.broker import Message

TIMESTAMP_MS = "timestamp_in_ms"
"""AMQP's timestamp has seconds; RabbitMQ's own interceptor puts the milliseconds into this header."""

_PERSISTENT: Final = 2
_TRANSIENT: Final = 1


def to_properties(message: Message) -> BasicProperties:
    """The AMQP properties of a message. Raises ValueError for what the broker would close the channel over."""
    headers: dict[str, Any] | None = dict(message.headers) or None
    timestamp = message.timestamp_ms
    if timestamp is not None:
        headers = {**(headers or {}), TIMESTAMP_MS: timestamp}
        timestamp //= 1000
    expiration = message.expiration_ms
    if expiration is not None and not 0 <= expiration < 2**32:
        raise ValueError(f"expiration_ms is {expiration}; the broker takes 0 to 2**32 - 1")
    return BasicProperties(
        content_type=message.content_type,
        headers=headers,
        delivery_mode=_PERSISTENT if message.persistent else _TRANSIENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=None if expiration is None else str(expiration),
        message_id=message.message_id,
        timestamp=timestamp,
        type=message.type,
        user_id=message.user_id,
    )


def to_message(properties: BasicProperties, body: bytes) -> Message:
    """The message in a delivery. Anybody may have sent it: odd values are passed over, not believed."""
    headers = cast(dict[str, Any], properties.headers or {})
    timestamp = headers.pop(TIMESTAMP_MS, None) if headers else None
    if not isinstance(timestamp, int):
        timestamp = None if properties.timestamp is None else properties.timestamp * 1000
    timestamp = None if timestamp is None else int(timestamp)  # pika's own kind of int, which msgpack does not know
    expiration = properties.expiration
    return Message(
        body=body,
        content_type=_text(properties.content_type),
        message_id=_text(properties.message_id),
        correlation_id=_text(properties.correlation_id),
        user_id=_text(properties.user_id),
        reply_to=_text(properties.reply_to),
        priority=properties.priority,
        expiration_ms=int(expiration) if expiration and expiration.isdecimal() else None,
        timestamp_ms=timestamp,
        type=_text(properties.type),
        headers=headers,
        persistent=properties.delivery_mode == _PERSISTENT,
    )


def _text(value: str | bytes | None) -> str | None:
    # pika leaves bytes that are no UTF-8 as they are
    return value if isinstance(value, str) else None
