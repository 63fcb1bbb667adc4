"""A worker without a device: answers requests as a test says."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Self

import msgspec
import numpy as np

from kaasq import codec, topology
from kaasq.broker import Broker, Delivery, Done, Inspected, Message
from kaasq.checks import GraphLimits
from kaasq.errors import KaasqError, UnknownGraph
from kaasq.flows.model import FlowCall, FlowsCall, FlowStart
from kaasq.messages import ErrorBody, Output, Reply, Request, WorkerInfo
from kaasq.model import GraphSpec

_FLOWS: dict[str, type[FlowStart | FlowCall | FlowsCall]] = {
    "workflow": FlowStart,
    "flow": FlowCall,
    "flows": FlowsCall,
}
INFO = WorkerInfo(host="fake", pid=1, device="none")

Answer = Callable[[Any, Message], "Reply | None"]
"""Of a request, or of what is said about workflows: a FlowStart, FlowCall or FlowsCall."""


def saxpy(request: Request, message: Message) -> Reply:
    """What a worker replies to tests.support.graphs.saxpy."""
    assert message.message_id is not None
    x, y = (np.frombuffer(_inline(request, name), np.float32) for name in ("x", "y"))
    out = np.float32(request.scalars.get("a", 2.0)) * x + y
    output = Output(nbytes=out.nbytes, dtype="float32", shape=out.shape, inline=out.tobytes())
    return Reply(id=message.message_id, status="ok", outputs={"out": output}, worker=INFO)


def _inline(request: Request, name: str) -> bytes:
    data = request.bind[name]
    assert isinstance(data, bytes)
    return data


class Held:
    """An answer that holds requests back until the test replies."""

    def __init__(self) -> None:
        self.taken: queue.Queue[tuple[Request, Message]] = queue.Queue()

    def __call__(self, request: Request, message: Message) -> None:
        self.taken.put((request, message))

    def next(self) -> tuple[Request, Message]:
        return self.taken.get(timeout=60)  # what comes again after a lost connection takes a while


class FakeWorker:
    """Consumes a pool's queue; opens and closes the broker it is given.

    ``answer`` returns the reply, or None to reply later through ``reply``.
    """

    def __init__(self, broker: Broker, answer: Answer = saxpy, *, pool: str = "default") -> None:
        self.answer = answer
        self.messages: list[Message] = []
        self.requests: list[Request] = []
        self.unknown = 0
        self._decoder = codec.RequestDecoder(GraphLimits())
        self._broker = broker
        self._broker.open(10)
        ready = threading.Event()
        self._broker.declare(topology.pool_topology(pool, "fake"), lambda _: ready.set())
        assert ready.wait(10)
        self._broker.consume(topology.work_queue(pool), self._serve, prefetch=0)

    def inspect(self, queue_name: str) -> Inspected:
        """How many messages wait in that queue, and who consumes from it."""
        found: queue.SimpleQueue[Inspected | KaasqError] = queue.SimpleQueue()
        self._broker.inspect(queue_name, found.put)
        inspected = found.get(timeout=20)
        assert isinstance(inspected, Inspected)
        return inspected

    def reply(
        self,
        message: Message,
        reply: Reply | bytes,
        *,
        correlation_id: str | None = None,
        done: Done | None = None,
    ) -> None:
        body = reply if isinstance(reply, bytes) else codec.encode(reply)
        sent = Message(body=body, content_type=codec.MSGPACK, correlation_id=correlation_id or message.correlation_id)
        assert message.user_id is not None
        assert message.reply_to is not None
        key = topology.reply_key(message.user_id, message.reply_to)
        self._broker.publish(sent, exchange=topology.REPLIES, routing_key=key, done=done)

    def forget_graphs(self) -> None:
        """As if it had been restarted."""
        self._decoder = codec.RequestDecoder(GraphLimits())

    def _serve(self, delivery: Delivery) -> None:
        message = delivery.message
        self.messages.append(message)
        answer: Reply | None
        kind = _FLOWS.get(next((key for key in msgspec.msgpack.decode(message.body) if key in _FLOWS), ""))
        if kind is not None:
            answer = self.answer(codec.decode(message.body, message.content_type, kind), message)
            delivery.ack()
            if answer is not None:
                self.reply(message, answer)
            return
        request = self._decoder.decode(message.body, message.content_type)
        if isinstance(request.graph, GraphSpec):
            self.requests.append(request)
            answer = self.answer(request, message)
        else:
            self.unknown += 1
            answer = unknown_graph(message)
        if answer is None:
            delivery.ack()
        else:  # acked once the reply is safe; if the connection goes first, both come again
            self.reply(message, answer, done=lambda error: None if error else delivery.ack())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.close()


def unknown_graph(message: Message) -> Reply:
    assert message.message_id is not None
    return Reply(id=message.message_id, status="error", error=ErrorBody.of(UnknownGraph("send it whole")))


def sends_hash(message: Message) -> bool:
    """Whether a request carried its graph's hash only."""
    return isinstance(msgspec.msgpack.decode(message.body)["graph"], str)
