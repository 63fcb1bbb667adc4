"""How many bytes a message's properties would have on the wire: RabbitMQ takes no more than fit into one frame.

What AMQP has no bytes for is refused here too, so that nobody finds out only in front of a real broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kaasq.broker import Message
from kaasq.errors import BrokerRefused

FRAME_MAX_BYTES: Final = 128 * 1024
"""RabbitMQ's default."""

_FIXED_BYTES: Final = 7 + 12 + 2 + 1 + 1  # the frame, the header, which properties there are, the mode, the frame's end
_TIMESTAMP_BYTES: Final = 8 + 1 + len("timestamp_in_ms") + 9  # kaasq.rabbit sends it twice, in s and in ms


def refusal(message: Message) -> BrokerRefused | None:
    """Why RabbitMQ would not take a message with these properties."""
    try:
        size = header_frame_bytes(message)
    except (TypeError, ValueError, RecursionError) as error:
        return BrokerRefused(f"the message cannot be sent: {error}")
    if size <= FRAME_MAX_BYTES:
        return None
    sizes = {name: _table({name: value}) for name, value in message.headers.items()}
    largest = max(sizes, key=sizes.__getitem__, default="")
    return BrokerRefused(
        f"the message's properties need a frame of {size} bytes, the broker takes {FRAME_MAX_BYTES}; of {len(sizes)} "
        f"headers the largest is {largest!r} with {sizes.get(largest, 0)} bytes: put large values into the body",
        size=size,
        limit=FRAME_MAX_BYTES,
        header=largest,
    )


def header_frame_bytes(message: Message) -> int:
    """The size of the frame with the properties. Raises TypeError or ValueError for what AMQP cannot carry."""
    texts = (
        message.content_type,
        message.correlation_id,
        message.reply_to,
        message.message_id,
        message.type,
        message.user_id,
        None if message.expiration_ms is None else str(message.expiration_ms),
    )
    size = _FIXED_BYTES + sum(_short(each) for each in texts if each is not None)
    stamped = message.timestamp_ms is not None
    if message.headers or stamped:
        size += _table(message.headers)
    return size + (message.priority is not None) + stamped * _TIMESTAMP_BYTES


def _short(text: str) -> int:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    size = len(text.encode())
    if size > 255:
        raise ValueError(f"{text[:32]!r}... has {size} bytes, properties and names of headers at most 255")
    return 1 + size


def _table(table: Mapping[str, Any]) -> int:
    return 4 + sum(_short(name) + _value(value) for name, value in table.items())


def _value(value: Any) -> int:
    match value:
        case None:
            return 1
        case bool():
            return 2
        case str():
            return 5 + len(value.encode())
        case bytes():
            return 5 + len(value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueError(f"{value} has more than 64 bits")
            return 5 if -(2**31) <= value < 2**31 else 9
        case Decimal():
            return 6
        case datetime():
            return 9
        case dict():
            return 1 + _table(value)
        case list():
            return 5 + sum(map(_value, value))
        case _:
            raise TypeError(f"a header cannot be of type {type(value).__name__}")
