"""The frames that come and go for every message, past pika: publishes, deliveries, returns, confirms, acks.

pika takes 40 us to publish a small message and 50 to deliver one, 10 for each confirm and ack; here they take a fifth
of that. Everything else of a channel, opening and closing it above all, stays pika's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from kaasq.broker import Message
from kaasq.rabbit.encoding import decode_properties, encode_properties, repeated

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
_BASIC = 60 << 16
_RETURN = _BASIC | 50
_DELIVER = _BASIC | 60
_ACK = _BASIC | 80
_NACK = _BASIC | 120
_OURS = frozenset({_RETURN, _DELIVER, _ACK, _NACK})
_CARRY_CONTENT = frozenset({_RETURN, _DELIVER})
_CONTENT = frozenset({HEADER, BODY})

_FRAME = struct.Struct(">BHI")
_METHOD = struct.Struct(">BHIHH")
_CONFIRM = struct.Struct(">QB")
_SETTLE = struct.Struct(">BHIHHQBB")
_CODE = struct.Struct(">I")
_SIZE = struct.Struct(">Q")
_HEADER = struct.Struct(">BHIHHQ")
_SETTLE_BYTES = 13
_OVERHEAD = 8  # type, channel, size; end mark


class Output(Protocol):
    """What takes bytes for the broker."""

    def write(self, data: bytes) -> None:
        """In order, soon."""


class Delivered(NamedTuple):
    """A delivery as it came."""

    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    message: Message


class Returned(NamedTuple):
    """A mandatory message that goes to no queue."""

    exchange: str
    routing_key: str
    message: Message


OnDelivered = Callable[["Lane", Delivered], None]
OnConfirm = Callable[[int, bool, bool], None]
"""Tag, whether all before it are meant too, whether they are refused."""


class Lane:
    """One channel's frequent frames. What it calls back must not raise."""

    def __init__(
        self,
        out: Output,
        channel: int,
        frame_max: int,
        *,
        on_delivered: OnDelivered | None = None,
        on_confirm: OnConfirm | None = None,
        on_returned: Callable[[Returned], None] | None = None,
    ) -> None:
        self._out = out
        self._channel = channel
        self._frame_max = frame_max
        self._on_delivered = on_delivered
        self._on_confirm = on_confirm
        self._on_returned = on_returned
        self._method: bytes | None = None  # of the content that is arriving
        self._properties = b""
        self._body: list[bytes] = []
        self._missing = 0

    def publish(self, message: Message, exchange: str, routing_key: str, *, mandatory: bool) -> None:
        """Send a message. What cannot be encoded raises as encode_properties says, and nothing of it is sent."""
        channel, body = self._channel, message.body
        properties = encode_properties(message, self._frame_max)
        where = repeated(exchange) + repeated(routing_key)
        size = len(body)
        parts = [
            _METHOD.pack(METHOD, channel, 7 + len(where), 60, 40) + b"\x00\x00" + where,
            b"\x01\xce" if mandatory else b"\x00\xce",
            _HEADER.pack(HEADER, channel, 12 + len(properties), 60, 0, size),
            properties,
            END,
        ]
        most = self._frame_max - _OVERHEAD
        if 0 < size <= most:
            parts += (_FRAME.pack(BODY, channel, size), body, END)
        else:
            for start in range(0, size, most):
                piece = body[start : start + most]
                parts += (_FRAME.pack(BODY, channel, len(piece)), piece, END)
        self._out.write(b"".join(parts))

    def ack(self, tag: int) -> None:
        """The delivery is done."""
        self._out.write(_SETTLE.pack(METHOD, self._channel, _SETTLE_BYTES, 60, 80, tag, 0, 0xCE))

    def requeue(self, tag: int) -> None:
        """Give it back."""
        self._out.write(_SETTLE.pack(METHOD, self._channel, _SETTLE_BYTES, 60, 90, tag, 1, 0xCE))

    def reject(self, tag: int) -> None:
        """Give it up."""
        self._out.write(_SETTLE.pack(METHOD, self._channel, _SETTLE_BYTES, 60, 90, tag, 0, 0xCE))

    def is_for(self, kind: int, buffer: bytearray, at: int) -> bool:
        """Whether a frame of the channel whose payload begins there is the lane's, not pika's."""
        if kind == METHOD:
            return _CODE.unpack_from(buffer, at)[0] in _OURS
        return self._method is not None and kind in _CONTENT

    def take(self, kind: int, payload: memoryview) -> None:
        """A frame that is the lane's."""
        if kind == HEADER:
            self._missing = _SIZE.unpack_from(payload, 4)[0]
            self._properties = bytes(payload[12:])
        elif kind == BODY:
            self._body.append(bytes(payload))
            self._missing -= len(payload)
        else:
            self._take_method(payload)
            return
        if self._missing <= 0:
            self._complete()

    def _take_method(self, payload: memoryview) -> None:
        code = _CODE.unpack_from(payload)[0]
        if code in _CARRY_CONTENT:
            self._method = bytes(payload)
        elif self._on_confirm is not None:
            tag, bits = _CONFIRM.unpack_from(payload, 4)
            self._on_confirm(tag, bool(bits & 1), code == _NACK)

    def _complete(self) -> None:
        method, self._method = self._method, None
        pieces, self._body = self._body, []
        assert method is not None
        message = decode_properties(self._properties, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if _CODE.unpack_from(method)[0] == _RETURN:
            at = 6 + 1 + method[6]  # after the code and its text
            exchange, at = _short(method, at)
            routing_key, _ = _short(method, at)
            if self._on_returned is not None:
                self._on_returned(Returned(exchange, routing_key, message))
            return
        at = 4 + 1 + method[4]  # after the consumer's tag
        tag, redelivered = _CONFIRM.unpack_from(method, at)
        exchange, at = _short(method, at + _CONFIRM.size)
        routing_key, _ = _short(method, at)
        if self._on_delivered is not None:
            self._on_delivered(self, Delivered(tag, bool(redelivered & 1), exchange, routing_key, message))


def _short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(errors="replace"), end
