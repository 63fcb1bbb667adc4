"""Publishes what became of a request: reply, event, dead letter. Acks the request once they are confirmed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from kaasq import codec
from kaasq.broker import Broker, Delivery, Message
from kaasq.dead_letter import NOBODY, bury, bury_message
from kaasq.errors import BrokerLost, KaasqError, Unroutable
from kaasq.events import event_message
from kaasq.log import get_logger
from kaasq.messages import ErrorBody
from kaasq.topology import DEAD, EVENTS, REPLIES, REQUESTS, event_key
from kaasq_workers.front.following import refusal_of, request_of, step_of
from kaasq_workers.front.intake import Accepted, Refused, is_reply_address
from kaasq_workers.front.window import Window
from kaasq_workers.link import Answer, Driven, Following, Happened, Told

PUBLISH_ATTEMPTS = 5
REJECTED_PAUSE_S = 0.5  # a queue without a leader has the next one soon
UNCONFIRMED_PAUSE_S = 0.5  # after the broker's patience was over already; doubled each time

log = get_logger()


class Outgoing(NamedTuple):
    """A message to publish. ``instead``: what is published if the broker does not take it, given why."""

    message: Message
    exchange: str
    routing_key: str
    instead: Callable[[KaasqError], list[Outgoing]] | None = None


class Answers:
    """Used on the broker's I/O thread. ``outstanding``: requests whose publishes are not all confirmed."""

    def __init__(self, broker: Broker, source: str) -> None:
        self._broker = broker
        self._source = source
        self.outstanding = 0
        self._closed = False

    def answer(self, delivery: Delivery, accepted: Accepted, answer: Answer, settled: Callable[[], None]) -> None:
        """Reply, event and what follows; then ack."""
        messages = self._messages(delivery, accepted, answer)
        if not messages and not answer.then and answer.error is not None and not _asks(delivery.message):
            # nobody would ever hear of it
            messages = [Outgoing(*bury(delivery, accepted.tenant, answer.error.code, answer.error.message))]
        if answer.then:  # last: nothing that follows is heard of before
            self._publish(delivery, messages, settled, self._followers(delivery, accepted, answer))
        else:
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
        dead = Outgoing(*bury(delivery, accepted.tenant, answer.error.code, answer.error.message, answer.error.detail))
        messages = self._messages(delivery, accepted, answer)
        self._publish(delivery, [dead, *messages, *self._followers(delivery, accepted, answer)], settled)

    def refuse(self, delivery: Delivery, refused: Refused, reply: bytes, settled: Callable[[], None]) -> None:
        """A reply where one is possible, else a dead letter; then ack."""
        message = delivery.message
        if refused.reply is None:
            dead = Outgoing(*bury(delivery, NOBODY, refused.error.code, refused.error.message))
            self._publish(delivery, [dead], settled)
            return
        content_type = codec.reply_type(message.body, message.content_type)
        body = Message(body=reply, content_type=content_type, correlation_id=refused.correlation_id, persistent=False)
        self._publish(delivery, [Outgoing(body, *refused.reply)], settled)

    def _messages(self, delivery: Delivery, accepted: Accepted, answer: Answer) -> list[Outgoing]:
        request = delivery.message
        messages: list[Outgoing] = []
        if accepted.reply is not None and answer.reply:
            reply = Message(
                body=answer.reply,
                content_type=codec.reply_type(request.body, request.content_type),
                message_id=accepted.id,
                correlation_id=accepted.correlation_id,
                persistent=request.persistent,
            )
            messages.append(Outgoing(reply, *accepted.reply))
        happened = answer.also
        if answer.event is not None and answer.graph is not None:
            own = Happened(answer.subject or accepted.id, answer.graph, answer.word, answer.event)
            happened = [own, *happened]
        for each in happened:
            event = event_message(
                each.event,
                request_id=each.id,
                graph=each.graph,
                word=each.word,
                source=self._source,
                told_ms=time.time_ns() // 1_000_000,
                correlation_id=accepted.correlation_id if each.id == accepted.id else each.id,
                request_headers=request.headers,
                persistent=request.persistent,
            )
            messages.append(Outgoing(event, EVENTS, event_key(accepted.tenant, each.graph, each.word)))
        if answer.told:
            messages += told_messages([each for each in answer.told if each.tenant == accepted.tenant])
        return messages

    def _followers(self, delivery: Delivery, accepted: Accepted, answer: Answer) -> Iterator[Outgoing]:
        for following in answer.then:
            yield from self._follow(delivery.message, accepted, following)

    def _follow(self, request: Message, accepted: Accepted, following: Following) -> list[Outgoing]:
        """A continuation, or what became of it: whoever awaits it is told, and operators can send it again."""

        def refused(error: KaasqError) -> list[Outgoing]:
            if following.quiet:  # the workflow that it is of will have it published again
                log.warning("step.not_published", request=following.id, code=error.code, error=error.message)
                return []
            if isinstance(error, Unroutable):
                error = Unroutable(f"no worker ever served pool {following.pool!r}", pool=following.pool)
            log.warning("continuation.refused", request=following.id, code=error.code, error=error.message)
            letter = bury_message(message, exchange, key, accepted.tenant, error.code, error.message)
            told = refusal_of(request, accepted, following, ErrorBody.of(error))
            return [Outgoing(*each) for each in (letter, told) if each is not None]

        if following.error is not None:
            told = refusal_of(request, accepted, following, following.error)
            return [] if told is None else [Outgoing(*told)]
        message, exchange, key = request_of(request, accepted, following)
        return [Outgoing(message, exchange, key, refused)]

    def tell(self, told: Sequence[Told]) -> None:
        """Replies that no delivery waits for."""
        for each in told:
            for message, exchange, key, _ in told_messages([each]):
                self._broker.publish(message, exchange=exchange, routing_key=key, done=self._noted, tenant=each.tenant)

    def drive(self, driven: Driven) -> None:
        """What is due in workflows. What the broker does not take is published again when they are looked at again."""
        steps = (step_of(driven.tenant, each) for each in driven.then if each.quiet and each.error is None)

        def send(step: tuple[Message, str, str]) -> None:
            message, exchange, key = step
            self._broker.publish(message, exchange=exchange, routing_key=key, mandatory=True, done=done)

        def done(error: KaasqError | None) -> None:
            if error is not None and self.note(error):
                window.stop()
            window.settled()

        window = Window(steps, send, over=lambda _: None)
        window.fill()

    def note(self, error: KaasqError, **where: str) -> bool:
        """Log why a publish failed. Whether the broker is closed, and no other will do better: logged once."""
        closed = bool(error.detail.get("closed"))
        if not (closed and self._closed):
            log.warning("publish.failed", **where, code=error.code, error=error.message)
        self._closed |= closed
        return closed

    def _noted(self, error: KaasqError | None) -> None:
        if error is not None:
            self.note(error)

    def _publish(
        self,
        delivery: Delivery,
        messages: list[Outgoing],
        settled: Callable[[], None],
        later: Iterator[Outgoing] | None = None,
    ) -> None:
        self.outstanding += 1
        _Settling(self, delivery, settled).publish(self._broker, messages, later)


def _asks(message: Message) -> bool:
    """Whether it only asks something about workflows."""
    return codec.question(message.body, message.content_type) is not None


def told_messages(told: Sequence[Told]) -> list[Outgoing]:
    """The replies, as far as they go to the tenants whom they are for."""
    messages: list[Outgoing] = []
    for each in told:
        if not is_reply_address(each.exchange, each.routing_key, each.tenant):
            log.warning("reply.misdirected", tenant=each.tenant, exchange=each.exchange)
            continue
        message = Message(
            body=each.body,
            content_type=each.content_type,
            message_id=each.id,
            correlation_id=each.correlation_id,
            persistent=True,
        )
        messages.append(Outgoing(message, each.exchange, each.routing_key))
    return messages


class _Settling:
    """A delivery whose messages are being published: it is acked once the broker has taken responsibility for all."""

    def __init__(self, answers: Answers, delivery: Delivery, settled: Callable[[], None]) -> None:
        self._answers = answers
        self._delivery = delivery
        self._settled = settled
        self._keep = False

    def publish(self, broker: Broker, messages: list[Outgoing], later: Iterator[Outgoing] | None) -> None:
        """Publish them all, some at a time; ``later`` are made when it is their turn."""
        send = partial(self._send, broker, attempts=PUBLISH_ATTEMPTS)
        every = messages if later is None else chain(messages, later)
        self._window = Window(every, send, over=self._finish)
        self._window.fill()

    def _send(self, broker: Broker, outgoing: Outgoing, *, attempts: int) -> None:
        message, exchange, routing_key, instead = outgoing

        def done(error: KaasqError | None) -> None:
            if error is not None and self._answers.note(error, exchange=exchange):
                self._keep = True
                self._window.stop()
            elif error is not None:
                # The request came over the other connection and may still be ours to settle; giving it back would
                # count against it, and run it again for nothing.
                pause_s = _pause_s(error, exchange, PUBLISH_ATTEMPTS - attempts)
                if pause_s is not None and attempts > 1:
                    again = partial(self._send, broker, outgoing, attempts=attempts - 1)
                    if pause_s:
                        broker.call_later(pause_s, again)
                    else:
                        again()
                    return
                # A direct reply (to no exchange) dies with its client's channel. An event that some
                # subscriber's queue refuses must not make a dead letter of a request that succeeded.
                if instead is not None and not isinstance(error, BrokerLost):
                    for each in instead(error):
                        self._window.send(each)
                elif exchange in {REPLIES, DEAD, REQUESTS}:
                    self._keep = True
                    if not isinstance(error, BrokerLost):
                        self._delivery.reject()
            self._window.settled()

        mandatory = exchange == REQUESTS
        tenant = self._delivery.message.user_id or ""  # who has none may be anybody
        broker.publish(
            message, exchange=exchange, routing_key=routing_key, mandatory=mandatory, done=done, tenant=tenant
        )

    def _finish(self, whole: bool) -> None:
        del self._window  # they refer to each other: no cycle, with bodies of messages, is left to the collector
        self._answers.outstanding -= 1
        if not whole:
            self._delivery.reject()  # kept in the dead-letter queue
        elif self._keep:
            self._delivery.requeue()  # of no effect once rejected, or on a lost connection: then the broker does it
        else:
            self._delivery.ack()
        self._settled()


def _pause_s(error: KaasqError, exchange: str, repeats: int) -> float | None:
    """Seconds until the same is published once more, after so many repeats; None: repeating does not mend it."""
    if error.detail.get("rejected"):
        return REJECTED_PAUSE_S
    if not isinstance(error, BrokerLost):
        return None
    if error.detail.get("unconfirmed"):
        return UNCONFIRMED_PAUSE_S * float(2**repeats)
    # A direct reply (to no exchange): its address, or others of its tenant, cost a connection. The broker has sent all
    # that were lost with it again.
    return 0.0 if exchange else None
