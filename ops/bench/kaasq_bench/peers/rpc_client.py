"""Requests and replies over bare AMQP: one thread within pika's own loop, persistent messages, publishes confirmed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Literal

import pika
from pika.adapters.select_connection import SelectConnection

from kaasq_bench.loads import Load, Meter

QueueType = Literal["classic", "quorum"]
ANSWER_TIMEOUT_S = 60.0


class RpcClient:
    """Load on whoever serves ``queue``, which it declares. Used from one thread."""

    def __init__(self, url: str, queue: str, queue_type: QueueType, body: bytes) -> None:
        self._queue, self._body = queue, body
        self._sent: dict[str, float] = {}
        self._meter = Meter(1, 0)
        self._lost: Exception | None = None
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0  # between two loads nobody runs the loop
        self._connection: Any = SelectConnection(parameters, on_close_callback=self._on_close)
        self._loop = self._connection.ioloop
        self._wait(self._connection.add_on_open_callback)
        self._channel: Any = None
        (self._channel,) = self._wait(lambda done: self._connection.channel(on_open_callback=done))
        self._wait(lambda done: self._channel.confirm_delivery(self._on_confirm, done))
        arguments = {"x-queue-type": queue_type} if queue_type == "quorum" else {}
        self._wait(lambda done: self._channel.queue_declare(queue, durable=True, arguments=arguments, callback=done))
        self._replies = f"bench.reply.{uuid.uuid4().hex}"
        expiring = {"x-expires": 600_000}
        self._wait(
            lambda done: self._channel.queue_declare(self._replies, durable=True, arguments=expiring, callback=done)
        )
        self._wait(
            lambda done: self._channel.basic_consume(self._replies, self._on_reply, auto_ack=True, callback=done)
        )

    def load(self, outstanding: int, seconds: float) -> Load:
        """Keep so many under way for so long. Raises ConnectionError, TimeoutError."""
        self._meter = Meter(outstanding, seconds)
        for _ in range(outstanding):
            self._send()
        self._run()
        return self._meter.load()

    def answered(self) -> None:
        """One round trip, however long the server takes to come up."""
        self.load(1, 0)

    def close(self) -> None:
        """Remove both queues and disconnect."""
        self._wait(lambda done: self._channel.queue_delete(self._queue, callback=done))
        self._wait(lambda done: self._channel.queue_delete(self._replies, callback=done))
        self._connection.close()
        self._loop.start()  # until _on_close

    def _send(self) -> None:
        key = uuid.uuid4().hex
        self._sent[key] = time.perf_counter()
        properties = pika.BasicProperties(reply_to=self._replies, correlation_id=key, delivery_mode=2)
        self._channel.basic_publish("", self._queue, self._body, properties)

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        sent = self._sent.pop(properties.correlation_id, None)
        if sent is None:
            return
        if self._meter.ended(sent):
            self._send()
        elif not self._sent:
            self._loop.stop()

    def _on_confirm(self, frame: Any) -> None:
        if isinstance(frame.method, pika.spec.Basic.Nack):
            self._lost = ConnectionError("the broker refused a publish")
            self._loop.stop()

    def _on_close(self, _connection: Any, reason: BaseException) -> None:
        self._lost = self._lost or ConnectionError(f"the broker connection was lost: {reason}")
        self._loop.stop()

    def _run(self) -> None:
        """The loop, until something stops it."""
        timer = self._loop.call_later(ANSWER_TIMEOUT_S, self._too_late)
        self._loop.start()
        self._loop.remove_timeout(timer)
        if self._lost is not None:
            raise self._lost

    def _too_late(self) -> None:
        self._lost = TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:.0f} s on queue {self._queue}")
        self._loop.stop()

    def _wait(self, begin: Callable[[Callable[..., None]], object]) -> tuple[Any, ...]:
        """Begin something and run the loop until it calls back; what it was called back with."""
        given: list[tuple[Any, ...]] = []

        def done(*values: Any) -> None:
            given.append(values)
            self._loop.stop()

        begin(done)
        self._run()
        return given[0]
