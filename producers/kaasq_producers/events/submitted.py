"""What a handler has submitted: requests published for nobody who waits, until the broker has them."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial

from kaasq import codec
from kaasq.broker import Broker, Message
from kaasq.errors import BrokerLost, KaasqError
from kaasq.events import EventMessage
from kaasq.topology import REQUESTS
from kaasq_producers.calls import Route
from kaasq_producers.prepare import AnyPrepared

PUBLISH_ATTEMPTS = 8  # 25 s in all
AGAIN_S = 0.2  # doubled each time


class Submitted:
    """The requests of one attempt at one event. Thread-safe."""

    def __init__(self, broker: Broker, route: Route, event: EventMessage) -> None:
        self._broker = broker
        self._route = route
        trace = {"traceparent": event.traceparent, "tracestate": event.tracestate}
        self._headers = {name: value for name, value in trace.items() if value is not None}
        self._published: list[Future[None]] = []

    def publish(self, request_id: str, prepared: AnyPrepared) -> None:
        """Publish one, and again if it may be lost or there is no room for it just now."""
        future: Future[None] = Future()
        self._published.append(future)
        message = Message(
            body=prepared.body(whole=True),  # a worker that does not know the graph has nobody to tell
            content_type=codec.MSGPACK,
            message_id=request_id,
            correlation_id=request_id,
            user_id=self._route.tenant,
            expiration_ms=max(1, round(prepared.timeout_s * 1000)),
            timestamp_ms=time.time_ns() // 1_000_000,
            headers=self._headers,
        )
        self._send(message, future, 1)

    def taken(self) -> list[Future[None]]:
        """Those that were published since it was asked last: each is done once the broker has taken responsibility, or
        raises what it refused.
        """
        published, self._published = self._published, []
        return published

    def _send(self, message: Message, future: Future[None], attempt: int) -> None:
        def done(error: KaasqError | None) -> None:
            if error is None:
                future.set_result(None)
            elif attempt < PUBLISH_ATTEMPTS and (isinstance(error, BrokerLost) or error.detail.get("rejected")):
                # It may have arrived, and the id makes repeating safe; or the queue is full, or has no leader.
                again = partial(self._send, message, future, attempt + 1)
                self._broker.call_later(AGAIN_S * 2 ** (attempt - 1), again)
            else:
                future.set_exception(self._route.refused(error, message.message_id or ""))

        self._broker.publish(message, exchange=REQUESTS, routing_key=self._route.key, mandatory=True, done=done)
