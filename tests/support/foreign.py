"""A program that knows nothing of kaasq: publishes JSON to RabbitMQ with pika alone, and waits for the replies."""

from __future__ import annotations

import base64
import json
import uuid
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pika

TIMEOUT_S = 60.0


def forged_address(number: int) -> str:
    """A direct reply-to address that looks right, on a node that is not there."""
    node = b"reply@%d" % number
    pid = b"\x83Xv" + len(node).to_bytes(2, "big") + node + b"\x00\x00\x03\x2f" + bytes(4) + b"\x6b\x08\x1e\x1a"
    return f"amq.rabbitmq.reply-to.{base64.b64encode(pid).decode()}.{base64.b64encode(bytes(16)).decode()}"


class Program:
    """Requests to one pool, by RabbitMQ's direct reply-to."""

    def __init__(self, url: str, pool: str) -> None:
        self._pool = pool
        self._user = urlsplit(url).username or "guest"
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._replies: dict[str, dict[str, Any]] = {}
        self._channel.basic_consume("amq.rabbitmq.reply-to", self._on_reply, auto_ack=True)

    def ask(self, body: dict[str, Any] | bytes, request_id: str | None = None) -> dict[str, Any]:
        """The reply to that body."""
        key = request_id or uuid.uuid4().hex
        properties = pika.BasicProperties(
            user_id=self._user,
            message_id=key,
            reply_to="amq.rabbitmq.reply-to",
            content_type="application/json",
            delivery_mode=2,
        )
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._channel.basic_publish("kaasq.requests", f"{self._user}.{self._pool}.any", encoded, properties)
        self._connection.call_later(TIMEOUT_S, lambda: self._replies.setdefault(key, {"status": "no reply"}))
        while key not in self._replies:
            self._connection.process_data_events(time_limit=1)
        return self._replies.pop(key)

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        self._replies[properties.correlation_id] = json.loads(body)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
