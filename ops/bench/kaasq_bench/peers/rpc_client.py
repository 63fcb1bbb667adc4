"""Requests and replies over bare AMQP: one thread within pika's own loop, persistent messages, publishes confirmed."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import AMQPError

from kaasq.errors import BrokerRefused, ReplyTimeout
from kaasq.rabbit.errors import ACCESS_REFUSED, connection_error, reply_code, translate
from kaasq.rabbit.parameters import connection_parameters
from kaasq.topology import QueueType
from kaasq_bench.loads import Load, Meter
from kaasq_bench.rabbitmq.traces import remove_queues

PEER_QUEUE = "kaasq.bench"
"""Begins the names of peers' queues: who may use kaasq may declare them."""
ANSWER_TIMEOUT_S = 60.0
EXPIRES_MS = 600_000


class RpcClient:
    """Load on whoever serves ``queue``, which it declares. Used from one thread.

    Raises kaasq's own errors: BrokerLost, BrokerRefused.
    """

    def __init__(self, url: str, queue: str, queue_type: QueueType, body: bytes) -> None:
        self._url, self._queue, self._body = url, queue, body
        self._sent: dict[str, float] = {}
        self._meter = Meter(1, 0)
        self._lost: Exception | None = None
        parameters, self._where = connection_parameters(url, connection_name="kaasq bench peer")
        parameters.heartbeat = 0  # between two loads nobody runs the loop
        self._connection: Any = SelectConnection(
            parameters, on_open_error_callback=self._on_close, on_close_callback=self._on_close
        )
        self._loop = self._connection.ioloop
        self._wait(self._connection.add_on_open_callback)
        self._channel: Any = None
        (self._channel,) = self._wait(lambda done: self._connection.channel(on_open_callback=done))
        self._channel.add_on_close_callback(self._on_channel_close)
        self._wait(lambda done: self._channel.confirm_delivery(self._on_confirm, done))
        self._replies = f"{PEER_QUEUE}.reply.{uuid.uuid4().hex}"
        try:
            self._declare(queue_type)
        except BaseException:  # Ctrl-C among others
            self.close()
            raise

    def load(self, outstanding: int, seconds: float) -> Load:
        """Keep so many under way for so long. Raises BrokerLost, BrokerRefused, ReplyTimeout."""
        self._meter = Meter(outstanding, seconds)
        for _ in range(outstanding):
            self._send()
        self._run()
        return self._meter.load()

    def answered(self) -> None:
        """One round trip, however long the server takes to come up."""
        self.load(1, 0)

    def close(self) -> None:
        """Disconnect and remove both queues, also amid a load that was interrupted."""
        with contextlib.suppress(AMQPError):
            self._connection.close()
            self._loop.start()  # until _on_close
        remove_queues(self._url, [self._queue, self._replies])

    def _declare(self, queue_type: QueueType) -> None:
        """Both queues go with the client; should it be killed, by themselves."""
        arguments: dict[str, Any] = {"x-expires": EXPIRES_MS}
        own = {**arguments, "x-queue-type": queue_type} if queue_type == "quorum" else arguments
        self._wait(lambda done: self._channel.queue_declare(self._queue, durable=True, arguments=own, callback=done))
        self._wait(
            lambda done: self._channel.queue_declare(self._replies, durable=True, arguments=arguments, callback=done)
        )
        self._wait(
            lambda done: self._channel.basic_consume(self._replies, self._on_reply, auto_ack=True, callback=done)
        )

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
            self._lost = BrokerRefused(f"RabbitMQ at {self._where} refused a message to a peer's queue")
            self._loop.stop()

    def _on_close(self, _connection: Any, reason: BaseException) -> None:
        self._lost = self._lost or connection_error(reason, self._where)
        self._loop.stop()

    def _on_channel_close(self, _channel: Any, reason: BaseException) -> None:
        error = translate(reason, f"RabbitMQ at {self._where} refuses what is measured beside kaasq")
        if reply_code(reason) == ACCESS_REFUSED:
            error = BrokerRefused(
                f"{error.message}: user {self._where.user!r} needs to configure and read '^kaasq\\.' and to write to "
                "'^(kaasq\\.|amq\\.default$)' there",
                user=self._where.user,
            )
        self._lost = self._lost or error
        self._loop.stop()

    def _run(self) -> None:
        """The loop, until something stops it."""
        timer = self._loop.call_later(ANSWER_TIMEOUT_S, self._too_late)
        self._loop.start()
        self._loop.remove_timeout(timer)
        if self._lost is not None:
            raise self._lost

    def _too_late(self) -> None:
        self._lost = ReplyTimeout(f"no answer within {ANSWER_TIMEOUT_S:.0f} s on queue {self._queue}")
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
