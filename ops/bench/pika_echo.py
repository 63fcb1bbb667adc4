"""The floor: a bare pika echo. One client, one server process, the body sent back as it came.

Run by ops/bench/messaging.py beside kaasq on the same broker; ``python pika_echo.py URL QUEUE`` is the server.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections import deque
from typing import Any

import pika


def queue_arguments(queue_type: str) -> dict[str, str]:
    """What declares a queue of that type."""
    return {"x-queue-type": "quorum"} if queue_type == "quorum" else {}


def serve(url: str, queue: str) -> None:
    """Send each message's body back to its reply_to, persistent as it came, then ack; until killed."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.basic_qos(prefetch_count=64)

    def on_message(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=properties.delivery_mode)
        ch.basic_publish("", properties.reply_to, body, answer)
        ch.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, on_message)
    channel.start_consuming()


class EchoClient:
    """Publishes and awaits echoes. Durable queues and persistent messages, as kaasq's."""

    def __init__(self, url: str, queue: str, queue_type: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._queue = queue
        self._channel.queue_declare(queue, durable=True, arguments=queue_arguments(queue_type))
        self._replies = f"bench.reply.{uuid.uuid4().hex}"
        self._channel.queue_declare(self._replies, durable=True, arguments={"x-expires": 60_000})
        self._sent: dict[str, float] = {}
        self.latencies: deque[float] = deque()
        self._channel.basic_consume(self._replies, self._on_reply, auto_ack=True)

    def latency(self, count: int, body: bytes) -> list[float]:
        """Seconds of each of ``count`` round trips, one after another."""
        self.latencies.clear()
        for _ in range(count):
            self._send(body)
            while self._sent:
                self._connection.process_data_events(time_limit=None)
        return list(self.latencies)

    def throughput(self, seconds: float, outstanding: int, body: bytes) -> float:
        """Round trips per second with that many under way."""
        self.latencies.clear()
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            while len(self._sent) < outstanding:
                self._send(body)
            self._connection.process_data_events(time_limit=1)
        done, took = len(self.latencies), time.perf_counter() - started
        while self._sent:
            self._connection.process_data_events(time_limit=1)
        return done / took

    def close(self) -> None:
        """Remove both queues and disconnect."""
        self._channel.queue_delete(self._replies)
        self._channel.queue_delete(self._queue)
        self._connection.close()

    def _send(self, body: bytes) -> None:
        key = uuid.uuid4().hex
        self._sent[key] = time.perf_counter()
        properties = pika.BasicProperties(reply_to=self._replies, correlation_id=key, delivery_mode=2)
        self._channel.basic_publish("", self._queue, body, properties)

    def _on_reply(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        sent = self._sent.pop(properties.correlation_id, None)
        if sent is not None:
            self.latencies.append(time.perf_counter() - sent)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
