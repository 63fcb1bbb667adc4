"""Workflows as any program sends them: messages over a broker, replies from a queue."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any, Self

import msgspec

from kaasq import codec
from kaasq.broker import Broker, Delivery, Message, wait_for
from kaasq.flows.model import Asked, FlowCall, FlowReply, FlowsCall, FlowSpec, FlowStart, Sought
from kaasq.ids import new_id
from kaasq.messages import Cancel
from kaasq.topology import (
    CONTROL,
    EVENTS,
    REQUESTS,
    Binding,
    Queue,
    Topology,
    control_key,
    reply_queue,
    reply_topology,
    request_key,
)

TIMEOUT_S = 60.0
LOOK_S = 0.1


class RawFlows:
    """Starts workflows over a broker, which it opens and closes."""

    def __init__(self, broker: Broker, pool: str) -> None:
        self.broker = broker
        self.pool = pool
        self.reply_id = new_id()
        self.replies: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self.events: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._early: dict[str, FlowReply] = {}

    def __enter__(self) -> Self:
        self.broker.open(TIMEOUT_S)
        tenant = self.broker.tenant
        topology = reply_topology(tenant, self.reply_id)
        wait_for(lambda done: self.broker.declare(topology, done), TIMEOUT_S)
        self.broker.consume(reply_queue(tenant, self.reply_id), self._take)
        heard = f"test.{self.reply_id}"
        listening = Topology(queues=(Queue(name=heard),), bindings=(Binding(EVENTS, heard, f"{tenant}.#"),))
        wait_for(lambda done: self.broker.declare(listening, done), TIMEOUT_S)
        self.broker.consume(heard, self._hear)
        return self

    def __exit__(self, *exc: object) -> None:
        self.broker.close()

    def _take(self, delivery: Delivery) -> None:
        delivery.ack()
        self.replies.put(delivery)

    def _hear(self, delivery: Delivery) -> None:
        delivery.ack()
        self.events.put(delivery)

    def send(self, message: msgspec.Struct, request_id: str | None = None, content_type: str = codec.MSGPACK) -> str:
        """Publish it; its id."""
        request_id = request_id or new_id()
        published = Message(
            body=codec.encode(message, content_type),
            content_type=content_type,
            message_id=request_id,
            correlation_id=request_id,
            user_id=self.broker.tenant,
            reply_to=self.reply_id,
            timestamp_ms=time.time_ns() // 1_000_000,  # from which its time counts
        )
        key = request_key(self.broker.tenant, self.pool)
        wait_for(
            lambda done: self.broker.publish(published, exchange=REQUESTS, routing_key=key, mandatory=True, done=done),
            TIMEOUT_S,
        )
        return request_id

    def reply(
        self, request_id: str, meanwhile: Callable[[], None] = lambda: None, *, timeout_s: float = TIMEOUT_S
    ) -> FlowReply:
        """The reply to that one; until it is there, ``meanwhile`` is done again and again."""
        deadline = time.monotonic() + timeout_s
        while request_id not in self._early:
            meanwhile()
            try:
                message = self.replies.get(timeout=LOOK_S).message
            except queue.Empty:
                assert time.monotonic() < deadline, f"nobody has answered {request_id}"
                continue
            reply = codec.decode(message.body, message.content_type, FlowReply)
            self._early[message.correlation_id or ""] = reply
        return self._early.pop(request_id)

    def run(self, spec: FlowSpec, **fields: Any) -> FlowReply:
        """Start it, and wait until it has ended."""
        return self.reply(self.start(spec, **fields))

    def start(self, spec: FlowSpec, *, request_id: str | None = None, **fields: Any) -> str:
        """Start it; its id."""
        return self.send(FlowStart(workflow=spec, **fields), request_id)

    def ask(self, flow: str, do: Any, **fields: Any) -> FlowReply:
        """Ask something of it."""
        return self.reply(self.send(FlowCall(flow=Asked(id=flow, do=do, **fields))))

    def list(self, **sought: Any) -> FlowReply:
        """Which there are."""
        return self.reply(self.send(FlowsCall(flows=Sought(**sought))))

    def cancel(self, request_id: str) -> None:
        """Cancel a workflow, or a step of one."""
        message = Message(
            body=codec.encode(Cancel(cancel=request_id)),
            content_type=codec.MSGPACK,
            user_id=self.broker.tenant,
            message_id=new_id(),
        )
        key = control_key(self.broker.tenant, self.pool)
        wait_for(lambda done: self.broker.publish(message, exchange=CONTROL, routing_key=key, done=done), TIMEOUT_S)

    def told(self, timeout_s: float = TIMEOUT_S) -> str:
        """The key of the next event."""
        return self.events.get(timeout=timeout_s).routing_key
