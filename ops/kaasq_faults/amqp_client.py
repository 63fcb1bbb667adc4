"""A client that knows only RabbitMQ: persistent JSON requests with ids of its own, repeated until answered.

It waits for no confirms: where one does not come, as from a leader that died, pika's blocking connection waits with it.
So it hears of no rejections either, and asks again on another channel: one that was first used while its queue had no
leader has everything rejected until the node that died is back (RabbitMQ 3.10).

Killed, it comes back, reads in the ledger what it has not heard of, and asks for that again under the same ids.
"""

from __future__ import annotations

import argparse
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pika
from pika.exceptions import AMQPError

from kaasq import codec
from kaasq.errors import BadRequest
from kaasq.messages import Reply, Request
from kaasq.topology import REPLIES, REQUESTS, reply_key, reply_queue, request_key
from kaasq_faults.asks import Ask, ask, graph, inputs
from kaasq_faults.ledger import OK, Asked, Book, Ended, Entry, now

WIDTH = 6
ASK_AGAIN_S = 1.5  # a request without an answer is asked for again; then after twice as long, and so on
TURN_S = 0.02


class AmqpClient:
    """One connection at a time, and what is not answered yet."""

    def __init__(self, given: argparse.Namespace, book: Book, earlier: Sequence[Entry], incarnation: int) -> None:
        self._given = given
        self._book = book
        self._user = urlsplit(given.url).username or "guest"
        self._reply_id = ""
        self._moves = incarnation  # of the reply queue
        self._told = {each.key: each.end for each in earlier if isinstance(each, Ended)}
        asked = [each for each in earlier if isinstance(each, Asked) and each.key not in self._told]
        self._open = {each.id or "": ask(given.seed, each.key, own=given.own) for each in asked}
        self._keys = {each.id or "": each.key for each in earlier if isinstance(each, Asked)}
        self._prefix = f"{given.name}.{incarnation}"
        self._next = 0
        self._again: dict[str, tuple[float, float]] = {}  # when to ask again, and how long to wait then
        self._specs = {elements: graph(elements).freeze() for elements in (64, 20_000)}

    def serve(self, stop: threading.Event) -> None:
        """Ask until told to stop, and then wait for what is open; over as many connections as it takes."""
        while not (stop.is_set() and not self._open):
            try:
                self._connected(stop)
            except (AMQPError, OSError):
                time.sleep(0.3)

    def _connected(self, stop: threading.Event) -> None:
        parameters = pika.URLParameters(self._given.url)
        parameters.blocked_connection_timeout = 300.0
        parameters.socket_timeout = parameters.stack_timeout = 10.0
        connection = pika.BlockingConnection(parameters)
        try:
            channel: Any = connection.channel()
            self._moves += 1  # to a queue on this node: declaring one whose node is down takes RabbitMQ 4.3 a minute
            self._reply_id = f"faults-{self._given.pool}-{self._given.name}-{self._moves}"
            queue = reply_queue(self._user, self._reply_id)
            channel.exchange_declare(REPLIES, "topic", durable=True)
            channel.queue_declare(queue, durable=True, arguments={"x-expires": 600_000})
            channel.queue_bind(queue, REPLIES, reply_key(self._user, self._reply_id))
            channel.basic_consume(queue, self._on_reply)
            self._again.clear()
            channel = connection.channel()
            due = time.monotonic()
            while not (stop.is_set() and not self._open):
                late = [each for each in self._open if now() >= self._again.get(each, (0.0, 0.0))[0]]
                if any(each in self._again for each in late):
                    channel.close()
                    channel = connection.channel()
                for request_id in late:
                    self._publish(channel, request_id)
                if not stop.is_set() and len(self._open) < WIDTH and time.monotonic() >= due:
                    due = max(due + 1 / self._given.rate, time.monotonic() - 1.0)
                    self._publish(channel, self._new())
                connection.process_data_events(time_limit=TURN_S)
        finally:
            if connection.is_open:
                connection.close()

    def _new(self) -> str:
        self._next += 1
        made = ask(self._given.seed, f"{self._prefix}.{self._next}", own=self._given.own)
        request_id = uuid.uuid4().hex
        self._open[request_id], self._keys[request_id] = made, made.key
        entry = Asked(key=made.key, want=made.want, name=made.name, shared=made.shared, id=request_id, at=now())
        self._book.write(entry)
        return request_id

    def _publish(self, channel: Any, request_id: str) -> None:
        pause_s = self._again.get(request_id, (0.0, ASK_AGAIN_S))[1]
        self._again[request_id] = now() + pause_s, 2 * pause_s
        properties = pika.BasicProperties(
            user_id=self._user,
            message_id=request_id,
            correlation_id=request_id,
            reply_to=self._reply_id,
            content_type=codec.JSON,
            delivery_mode=2,
        )
        body = self._body(self._open[request_id])
        key = request_key(self._user, self._given.pool)
        channel.basic_publish(REQUESTS, key, body, properties, mandatory=True)

    def _body(self, made: Ask) -> bytes:
        bind = {name: array.tobytes() for name, array in inputs(made.elements).items()}
        keep = {} if made.name is None else {"out": made.name}
        request = Request(graph=self._specs[made.elements], bind=dict(bind), scalars={"a": made.a}, keep=keep)
        return codec.encode(request, codec.JSON)

    def _on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        request_id = properties.correlation_id or ""
        key = self._keys.get(request_id)
        if key is not None:
            try:
                reply = codec.decode_reply(body, properties.content_type)
            except BadRequest as error:
                self._end(request_id, key, "unreadable", False, error.message)
            else:
                self._heard(request_id, key, reply)
        channel.basic_ack(method.delivery_tag)

    def _heard(self, request_id: str, key: str, reply: Reply) -> None:
        made = ask(self._given.seed, key, own=self._given.own)
        detail = ""
        if reply.status == "ok":
            inline = reply.outputs["out"].inline
            if made.name is None and inline != np.full(made.elements, made.want, np.float32).tobytes():
                detail = "another output than expected"
            self._end(request_id, key, OK, not detail, detail)
        else:
            assert reply.error is not None
            self._end(request_id, key, reply.error.code, True, reply.error.message)

    def _end(self, request_id: str, key: str, end: str, right: bool, detail: str) -> None:
        if self._told.get(key) != end:  # a repeated answer says nothing new; another one is a second end
            self._book.write(Ended(key=key, end=end, right=right, detail=detail, at=now()))
            self._told[key] = end
        self._open.pop(request_id, None)
        self._again.pop(request_id, None)


def run(
    given: argparse.Namespace, book: Book, earlier: Sequence[Entry], incarnation: int, stop: threading.Event
) -> None:
    """Serve until told to stop."""
    AmqpClient(given, book, earlier, incarnation).serve(stop)
