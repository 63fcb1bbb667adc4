"""A Message as pika's properties, and back: for what encoding.py does not do by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pika import BasicProperties

from kaasq.broker import Message
from kaasq.errors import BrokerRefused
from kaasq.rabbit.tables import sane

TIMESTAMP_MS = "timestamp_in_ms"
"""AMQP's timestamp has seconds; RabbitMQ's own interceptor puts the milliseconds into this header."""

FRAME_MAX_BYTES: Final = 131_072
"""RabbitMQ's default: what a frame may have, and with it all properties of a message together."""

_FRAME_BYTES: Final = 20  # of a header frame, besides the properties: 7 + 12 before them, 1 after
MAX_TIMESTAMP_MS: Final = 2**53
_MAX_EXPIRATION_MS: Final = 2**32
PERSISTENT: Final = 2
TRANSIENT: Final = 1


class _OneFrame(BasicProperties):
    """Properties that refuse to be encoded into a frame larger than the broker takes: it would close the connection
    over it, and every other publish on it would be lost. Looked at here so that they are encoded only once.
    """

    frame_max = FRAME_MAX_BYTES

    def encode(self) -> list[bytes]:
        pieces = super().encode()
        size = sum(map(len, pieces)) + _FRAME_BYTES
        if size > self.frame_max:
            raise _too_large(self.headers or {}, size, self.frame_max)
        return pieces


def _too_large(headers: Mapping[str, Any], size: int, limit: int) -> BrokerRefused:
    # Every other property has at most 255 bytes.
    sizes = {name: sum(map(len, BasicProperties(headers={name: each}).encode())) for name, each in headers.items()}
    largest = max(sizes, key=sizes.__getitem__, default="")
    return BrokerRefused(
        f"the message's properties need a frame of {size} bytes, the broker takes {limit} (frame_max in "
        f"rabbitmq.conf); of {len(sizes)} headers the largest is {largest!r} with {sizes.get(largest, 0)} bytes: "
        f"put large values into the body",
        size=size,
        limit=limit,
        header=largest,
    )


def to_properties(message: Message, frame_max: int = FRAME_MAX_BYTES) -> BasicProperties:
    """The AMQP properties of a message. Raises ValueError for what the broker would close the channel over; encoding
    them raises BrokerRefused if they are larger than a frame may be.
    """
    headers: dict[str, Any] | None = dict(message.headers) or None
    timestamp = message.timestamp_ms
    if timestamp is not None:
        headers = {**(headers or {}), TIMESTAMP_MS: timestamp}
        timestamp //= 1000
    expiration = message.expiration_ms
    if expiration is not None and expiration >= _MAX_EXPIRATION_MS:
        expiration = None  # 49 days are as far as the broker counts; a worker keeps the deadline in the body
    elif expiration is not None and expiration < 0:
        raise ValueError(f"expiration_ms is {expiration}; the broker takes 0 and more")
    properties = _OneFrame(
        content_type=message.content_type,
        headers=headers,
        delivery_mode=PERSISTENT if message.persistent else TRANSIENT,
        priority=message.priority,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration=None if expiration is None else str(expiration),
        message_id=message.message_id,
        timestamp=timestamp,
        type=message.type,
        user_id=message.user_id,
    )
    properties.frame_max = frame_max
    return properties


def to_message(properties: BasicProperties, body: bytes) -> Message:
    """The message in a delivery. Anybody may have sent it: odd values are passed over, not believed."""
    headers = sane(properties.headers or {})
    timestamp = bounded(headers.pop(TIMESTAMP_MS, None) if headers else None, MAX_TIMESTAMP_MS)
    if timestamp is None and properties.timestamp is not None:
        timestamp = bounded(properties.timestamp * 1000, MAX_TIMESTAMP_MS)
    return Message(
        body=body,
        content_type=_text(properties.content_type),
        message_id=_text(properties.message_id),
        correlation_id=_text(properties.correlation_id),
        user_id=_text(properties.user_id),
        reply_to=_text(properties.reply_to),
        priority=properties.priority,
        expiration_ms=expiration_ms(_text(properties.expiration)),
        timestamp_ms=timestamp,
        type=_text(properties.type),
        headers=headers,
        persistent=properties.delivery_mode == PERSISTENT,
    )


def expiration_ms(text: str | None) -> int | None:
    """A message's expiration, if that is what it is."""
    return bounded(int(text), _MAX_EXPIRATION_MS) if text and text.isdecimal() else None


def bounded(value: object, below: int) -> int | None:
    """The number, if it is one that can be believed."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        return None
    return int(value)  # pika has its own kind of int, which msgpack does not know


def _text(value: str | bytes | None) -> str | None:
    # pika leaves bytes that are no UTF-8 as they are
    return value if isinstance(value, str) else None
