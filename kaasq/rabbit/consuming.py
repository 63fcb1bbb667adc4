"""Consuming: a channel per subscription, re-established until it is cancelled; deliveries and how they are settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pika.channel import Channel

from kaasq.broker import OnDelivery
from kaasq.errors import KaasqError
from kaasq.io_thread import IoThread, invoke
from kaasq.log import get_logger
from kaasq.rabbit.connection import Backoff
from kaasq.rabbit.errors import ACCESS_REFUSED, reply_code, reply_text, translate
from kaasq.rabbit.lanes import Delivered, Lane
from kaasq.rabbit.properties import FRAME_MAX_BYTES
from kaasq.rabbit.state_log import Seldom
from kaasq.rabbit.wire import Wire, WireConnection

if TYPE_CHECKING:
    from pika.frame import Method
    from pika.spec import Basic

log = get_logger()

ACK_DELAY_S = 5e-3
ACK_GROUP = 16

Settle = Callable[[Lane, int], None]


class RabbitDelivery:
    """A message from a queue. It is settled on the channel that it came on, or not at all."""

    __slots__ = ("_lane", "_subscription", "_tag", "exchange", "message", "queue", "redelivered", "routing_key")

    def __init__(self, subscription: Subscription, lane: Lane | None, delivered: Delivered) -> None:
        """``lane`` None: there is nothing to settle."""
        self._tag, self.redelivered, self.exchange, self.routing_key, self.message = delivered
        self.queue = subscription.queue
        self._subscription = subscription
        self._lane = lane

    def ack(self) -> None:
        self._settle(Lane.ack)

    def requeue(self) -> None:
        self._settle(Lane.requeue)

    def reject(self) -> None:
        self._settle(Lane.reject)

    def _settle(self, how: Settle) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            self._subscription.settle(lane, self._tag, how)


class Subscription:
    """A consumer of one queue. One channel each: what closes one (a deleted queue, an unacknowledged message that
    timed out) leaves the others alone, and prefetch is each one's own.
    """

    def __init__(
        self,
        consumers: Consumers,
        queue: str,
        on_delivery: OnDelivery,
        prefetch: int,
        on_gap: Callable[[], None] | None,
    ) -> None:
        self.queue = queue
        self.running = False
        self.retrying = False
        self._consumers = consumers
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._on_gap = on_gap
        self._ran_before = False
        self._channel: Channel | None = None
        self._lane: Lane | None = None
        self._tag = ""
        self._unsettled = 0
        self._acks: list[int] = []  # to be sent
        # Of the few that the broker may let through at a time, most are to be new ones.
        self._ack_group = min(ACK_GROUP, max(1, prefetch // 4)) if prefetch else ACK_GROUP
        self._cancelled = False
        self._backoff = Backoff()
        self._seldom = Seldom()

    @property
    def consuming(self) -> bool:
        return self.running and not self._cancelled

    def cancel(self) -> None:
        """Take no more messages; the channel stays until those that are here are settled."""
        self._consumers.io.post(self._cancel)

    def settle(self, lane: Lane, tag: int, how: Settle) -> None:
        """Settle a delivery. Acks wait a little for company: each by itself wakes three of the broker's processes."""
        if self._consumers.io.inside:
            self._settle(lane, tag, how)
        else:
            self._consumers.io.post(self._settle, lane, tag, how)

    def start(self) -> None:
        """Open a channel on the present connection and consume on it."""
        self.retrying = False
        connection = self._consumers.connection
        if connection is None or self._cancelled or self._channel is not None:
            return
        self._unsettled = 0
        self._channel = connection.channel(on_open_callback=self._opened)
        self._channel.add_on_close_callback(self._closed)
        self._channel.add_on_cancel_callback(self._cancelled_by_broker)

    def lost(self) -> None:
        """The connection is gone."""
        self.running = False
        self._channel = self._lane = None
        self._tag = ""
        self._acks.clear()

    def flush(self) -> None:
        """Send the acks that wait."""
        acks, self._acks = self._acks, []
        if self._lane is not None and self._channel is not None and self._channel.is_open:
            for tag in acks:
                self._lane.ack(tag)

    def _settle(self, lane: Lane, tag: int, how: Settle) -> None:
        channel = self._channel
        if lane is not self._lane or channel is None or not channel.is_open:
            return  # the broker delivers it again by itself
        self._unsettled -= 1
        if how is Lane.ack and not self._cancelled:
            self._acks.append(tag)
            if len(self._acks) >= self._ack_group:
                self.flush()
            elif len(self._acks) == 1:
                self._consumers.flush_soon()
            return
        how(lane, tag)
        if self._cancelled:
            self._close_when_idle()

    def _opened(self, channel: Channel) -> None:
        if self._cancelled:
            channel.close()
        else:
            wire, number = self._consumers.wire, channel.channel_number
            self._lane = wire.lanes[number] = Lane(wire, number, FRAME_MAX_BYTES, on_delivered=self._deliver)
            channel.basic_qos(prefetch_count=self._prefetch)
            self._consume(channel)

    def _consume(self, channel: Channel) -> None:
        self._tag = channel.basic_consume(
            self.queue, _never, auto_ack=self._on_gap is not None, callback=lambda _: self._running()
        )

    def _running(self) -> None:
        self.running = True
        self._backoff.reset()
        if self._on_gap is not None and self._ran_before:
            invoke(self._on_gap)
        self._ran_before = True
        self._consumers.check_ready()

    def _deliver(self, lane: Lane, delivered: Delivered) -> None:
        if self._on_gap is not None:
            if not self._cancelled:
                invoke(self._on_delivery, RabbitDelivery(self, None, delivered))
        elif self._cancelled:  # sent before the broker heard of it
            lane.requeue(delivered.tag)
        else:
            self._unsettled += 1
            invoke(self._on_delivery, RabbitDelivery(self, lane, delivered))

    def _cancelled_by_broker(self, _: Method[Basic.Cancel]) -> None:
        # The queue was deleted or moved, or (4.3) a message was unacknowledged for too long. Deliveries that are here
        # may still be settled; whether the queue is still there shows when consuming again.
        self.running = False
        self._tag = ""
        self._retry("cancelled by the broker")

    def _closed(self, channel: Channel, reason: Exception) -> None:
        if channel is not self._channel:
            return
        self.lost()
        connection = self._consumers.connection
        if self._cancelled:
            self._consumers.forget(self)
        elif connection is not None and connection.is_open:
            if reply_code(reason) == ACCESS_REFUSED:
                self._consumers.refused(translate(reason, f"consuming from queue {self.queue!r}"))
            else:
                self._retry(reply_text(reason))

    def _retry(self, reason: str) -> None:
        if not self.retrying and not self._cancelled:
            self.retrying = True
            (log.warning if self._seldom() else log.debug)("consumer.interrupted", queue=self.queue, reason=reason)
            self._consumers.io.call_later(self._backoff.pause_s(), self._restart)
            self._consumers.check_ready()  # the others need not wait for this queue

    def _restart(self) -> None:
        # The queue may have been deleted: declare it again first. If declaring has to wait, it does so there.
        if not self._cancelled:
            self._consumers.redeclare(self.queue, self._resume)

    def _resume(self) -> None:
        self.retrying = False
        if self._channel is None:
            self.start()
        elif self._channel.is_open and not self._tag and not self._cancelled:
            self._consume(self._channel)

    def _cancel(self) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        self.running = False
        self.flush()
        if self._channel is None:
            self._consumers.forget(self)
        elif self._channel.is_open and self._tag:
            self._channel.basic_cancel(self._tag, callback=lambda _: self._close_when_idle())
        else:  # the broker had cancelled it, and it would have been tried again
            self._close_when_idle()
        self._consumers.check_ready()

    def _close_when_idle(self) -> None:
        if self._unsettled <= 0 and self._channel is not None and self._channel.is_open:
            self._channel.close()


def _never(*_: object) -> None:
    """What pika is to call for deliveries: they come on the lane."""


class Consumers:
    """All subscriptions of a broker."""

    def __init__(
        self,
        io: IoThread,
        *,
        redeclare: Callable[[str, Callable[[], None]], None],
        refused: Callable[[KaasqError], None],
        on_ready: Callable[[], None],
    ) -> None:
        self.io = io
        self.connection: WireConnection | None = None
        self.redeclare = redeclare
        """Declare again what belongs to a queue, then call back."""
        self.refused = refused
        self._on_ready = on_ready
        self._subscriptions: list[Subscription] = []
        self._starting = False
        self._flushing = False

    @property
    def wire(self) -> Wire:
        """That of the present connection."""
        assert self.connection is not None
        return self.connection.wire

    @property
    def ready(self) -> bool:
        """Whether every subscription was re-established, or tried, since the connection is up."""
        return self.connection is not None and not self._starting

    def add(self, subscription: Subscription) -> None:
        self._subscriptions.append(subscription)
        subscription.start()

    def forget(self, subscription: Subscription) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def attach(self, connection: WireConnection) -> None:
        """Consume on this connection from now on."""
        self.connection = connection
        self._starting = True
        for each in list(self._subscriptions):
            each.start()
        self.check_ready()

    def detach(self) -> None:
        """The connection is gone, and with it every channel."""
        self.connection = None
        self._starting = False
        for each in list(self._subscriptions):
            each.lost()

    def flush(self) -> None:
        """Send the acks that wait."""
        self._flushing = False
        for each in self._subscriptions:
            each.flush()

    def flush_soon(self) -> None:
        """The same, once others may have come."""
        if not self._flushing:
            self._flushing = True
            self.io.call_later(ACK_DELAY_S, self.flush)

    def check_ready(self) -> None:
        if not self._starting or self.connection is None:
            return
        if all(each.running or each.retrying for each in self._subscriptions):
            self._starting = False
            self._on_ready()
