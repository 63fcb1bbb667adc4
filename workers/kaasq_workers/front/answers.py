"""Publishes what became of a request: reply, event, dead letter. Acks the request once they are confirmed."""

from __future__ import annotations

import time
from collections.abc import Callable

from kaasq import codec
from kaasq.broker import Broker, Delivery, Message
from kaasq.dead_letter import NOBODY, bury
from kaasq.errors import BrokerLost, KaasqError
from kaasq.events import event_message
from kaasq.log import get_logger
from kaasq.topology import DEAD, EVENTS, REPLIES, event_key
from kaasq_workers.front.intake import Accepted, Refused
from kaasq_workers.link import Answer

PUBLISH_ATTEMPTS = 5
REJECTED_PAUSE_S = 0.5  # a queue without a leader has the next one soon

log = get_logger()


class Answers:
    """Used on the broker's I/O thread. ``outstanding``: requests whose publishes are not all confirmed."""

    def __init__(self, broker: Broker, source: str) -> None:
        self._broker = broker
        self._source = source
        self.outstanding = 0

    def answer(self, delivery: Delivery, accepted: Accepted, answer: Answer, settled: Callable[[], None]) -> None:
        """Reply and event; then ack."""
        messages = self._messages(delivery, accepted, answer)
        if not messages and answer.error is None:
            delivery.ack()
            settled()
            return
        if not messages and answer.error is not None:  # nobody would ever hear of it
            messages = [bury(delivery, accepted.tenant, answer.error.code, answer.error.message)]
        self._publish(delivery, messages, settled)

    def bury(
        self,
        delivery: Delivery,
        accepted: Accepted,
        answer: Answer,
        settled: Callable[[], None],
    ) -> None:
        """Dead letter, with what the answer's error knows, reply and event; then ack."""
        assert answer.error is not None
        dead = bury(delivery, accepted.tenant, answer.error.code, answer.error.message, answer.error.detail)
        self._publish(delivery, [dead, *self._messages(delivery, accepted, answer)], settled)

    def refuse(self, delivery: Delivery, refused: Refused, reply: bytes, settled: Callable[[], None]) -> None:
        """A reply where one is possible, else a dead letter; then ack."""
        message = delivery.message
        if refused.reply is None:
            dead = bury(delivery, NOBODY, refused.error.code, refused.error.message)
            self._publish(delivery, [dead], settled)
            return
        content_type = codec.reply_type(message.body, message.content_type)
        body = Message(body=reply, content_type=content_type, correlation_id=refused.correlation_id, persistent=False)
        self._publish(delivery, [(body, *refused.reply)], settled)

    def _messages(self, delivery: Delivery, accepted: Accepted, answer: Answer) -> list[tuple[Message, str, str]]:
        request = delivery.message
        messages: list[tuple[Message, str, str]] = []
        if accepted.reply is not None:
            reply = Message(
                body=answer.reply,
                content_type=codec.reply_type(request.body, request.content_type),
                message_id=accepted.id,
                correlation_id=accepted.correlation_id,
                persistent=request.persistent,
            )
            messages.append((reply, *accepted.reply))
        if answer.event is not None and answer.graph is not None:
            event = event_message(
                answer.event,
                request_id=accepted.id,
                graph=answer.graph,
                word=answer.word,
                source=self._source,
                told_ms=time.time_ns() // 1_000_000,
                correlation_id=accepted.correlation_id,
                request_headers=request.headers,
                persistent=request.persistent,
            )
            messages.append((event, EVENTS, event_key(accepted.tenant, answer.graph, answer.word)))
        return messages

    def _publish(
        self, delivery: Delivery, messages: list[tuple[Message, str, str]], settled: Callable[[], None]
    ) -> None:
        self.outstanding += 1
        _Settling(self, delivery, len(messages), settled).publish(self._broker, messages)


class _Settling:
    """A delivery whose messages are being published: it is acked once the broker has taken responsibility for all."""

    def __init__(self, answers: Answers, delivery: Delivery, missing: int, settled: Callable[[], None]) -> None:
        self._answers = answers
        self._delivery = delivery
        self._missing = missing
        self._settled = settled
        self._keep = False

    def publish(self, broker: Broker, messages: list[tuple[Message, str, str]]) -> None:
        """Publish them all."""
        for message in messages:
            self._send(broker, message, PUBLISH_ATTEMPTS)

    def _send(self, broker: Broker, message: tuple[Message, str, str], attempts: int) -> None:
        body, exchange, routing_key = message

        def done(error: KaasqError | None) -> None:
            if error is not None:
                log.warning("publish.failed", exchange=exchange, code=error.code, error=error.message)
                # The request came over the other connection and may still be ours to settle; giving it back would
                # count against it, and run it again for nothing.
                if isinstance(error, BrokerLost) and attempts > 1 and exchange:
                    self._send(broker, message, attempts - 1)
                    return
                if error.detail.get("rejected") and attempts > 1:
                    broker.call_later(REJECTED_PAUSE_S, lambda: self._send(broker, message, attempts - 1))
                    return
                # A direct reply (to no exchange) dies with its client's channel anyway. An event that some
                # subscriber's queue refuses must not make a dead letter of a request that succeeded.
                if exchange in {REPLIES, DEAD}:
                    self._keep = True
                    if not isinstance(error, BrokerLost):
                        self._delivery.reject()
            self._missing -= 1
            if self._missing == 0:
                self._finish()

        broker.publish(body, exchange=exchange, routing_key=routing_key, done=done)

    def _finish(self) -> None:
        self._answers.outstanding -= 1
        if self._keep:
            self._delivery.requeue()  # of no effect once rejected, or on a lost connection: then the broker does it
        else:
            self._delivery.ack()
        self._settled()
