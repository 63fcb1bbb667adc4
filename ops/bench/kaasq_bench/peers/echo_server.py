"""The floor, server: bodies sent back as they came, replies confirmed before the request is acked, nothing blocking.

``python -m kaasq_bench.peers.echo_server URL QUEUE``
"""

from __future__ import annotations

import signal
import sys
from collections import OrderedDict
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection

PREFETCH = 64


class EchoServer:
    """One connection, one channel. The request is acked when the broker has confirmed its reply."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._unconfirmed: OrderedDict[int, int] = OrderedDict()  # the reply's tag to that of its request
        self._published = 0
        self._channel: Any = None
        self._connection = SelectConnection(pika.URLParameters(url), on_open_callback=self._on_open)

    def serve(self) -> None:
        """Until killed."""
        self._connection.ioloop.start()

    def _on_open(self, connection: Any) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm)
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._queue, self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=2)
        channel.basic_publish("", properties.reply_to, body, answer)
        self._published += 1
        self._unconfirmed[self._published] = method.delivery_tag

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if not frame.method.multiple:
            self._channel.basic_ack(self._unconfirmed.pop(tag))
            return
        for each in [other for other in self._unconfirmed if other <= tag]:
            self._channel.basic_ack(self._unconfirmed.pop(each))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the suite's, which then ends this
    EchoServer(sys.argv[1], sys.argv[2]).serve()
