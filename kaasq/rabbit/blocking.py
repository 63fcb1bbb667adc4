"""pika's blocking connection, for commands, that goes on where pika breaks off: at properties that it cannot read.

Anybody's message may lie among dead letters. pika raises whatever it comes upon in one while it takes frames apart, and
with that the connection ends, and with it what the operator does about all others.
"""

from __future__ import annotations

import struct
from typing import Any, cast

from pika import SelectConnection, frame
from pika.adapters.blocking_connection import BlockingConnection
from pika.spec import FRAME_HEADER, BasicProperties

from kaasq.broker import Message
from kaasq.rabbit.encoding import salvaged
from kaasq.rabbit.properties import to_message

_FRAME = struct.Struct(">BHI")
_CONTENT = struct.Struct(">HHQ")  # class, weight, size of the body
_END_BYTES = 1


class _Unread(BasicProperties):
    """Properties as they came."""

    encoded = b""


class _Tolerant(SelectConnection):
    def _read_frame(self) -> Any:
        # pika decodes a frame once all of it is there, so one that it raises at is whole.
        try:
            return cast(Any, super())._read_frame()
        except Exception:
            data: bytes = cast(Any, self)._frame_buffer
            kind, channel, size = _FRAME.unpack_from(data)
            if kind != FRAME_HEADER:
                raise
            payload = data[_FRAME.size : _FRAME.size + size]
            _, _, body_size = _CONTENT.unpack_from(payload)
            properties = _Unread()
            properties.encoded = payload[_CONTENT.size :]
            return _FRAME.size + size + _END_BYTES, frame.Header(channel, body_size, properties)


class Blocking(BlockingConnection):
    """See the module."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, _impl_class=cast(Any, _Tolerant))


def message_of(properties: BasicProperties, body: bytes) -> Message:
    """The message in a delivery."""
    return salvaged(properties.encoded, body) if isinstance(properties, _Unread) else to_message(properties, body)
