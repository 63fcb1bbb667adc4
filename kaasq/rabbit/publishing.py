"""Publishing with confirms: many at once, each told how it ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import takewhile

import msgspec
from pika.channel import Channel

from kaasq.broker import Done, Message
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, Unroutable
from kaasq.io_thread import invoke
from kaasq.log import get_logger
from kaasq.rabbit.errors import ENCODING_ERRORS, culprit, reply_code, reply_text, translate
from kaasq.rabbit.lanes import Lane, Returned
from kaasq.rabbit.overtaken import Overtaken
from kaasq.rabbit.properties import FRAME_MAX_BYTES
from kaasq.rabbit.wire import WireConnection

log = get_logger()

RENEW_S = 1.0  # at least between two channels that rejections cost: a full queue rejects for long


class PublishLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be under way: at the broker, unconfirmed; and here, waiting for room or for the broker."""

    unconfirmed: int = 1024
    unconfirmed_bytes: int = 32 * 1024 * 1024
    waiting: int = 100_000
    waiting_bytes: int = 256 * 1024 * 1024
    confirm_timeout_s: float = 30.0
    patience_s: float | None = None
    """A publish that is not confirmed after so long and that others have overtaken is given up. None: none is."""


class Publish(msgspec.Struct):
    """A message on its way."""

    message: Message
    exchange: str
    routing_key: str
    mandatory: bool
    done: Done | None
    tenant: str = ""
    returned: bool = False
    sent_at: float = 0.0


class Publisher:
    """One channel with confirms on the publish connection, reopened whenever the broker closes it.

    While it cannot send (connection lost, broker blocked, window full) publishes wait, up to a limit; beyond it they
    fail at once. What was sent and not confirmed when the channel or connection went fails with BrokerLost: it may
    have arrived or not, and only its sender knows whether it can be repeated. So does what is not confirmed in time:
    a quorum queue without a leader never confirms, and must not fill the window for all the others. With
    ``patience_s``, what others have overtaken is told so sooner.
    """

    def __init__(
        self, tenant: str, limits: PublishLimits, on_ready: Callable[[], None], *, impersonates: bool = False
    ) -> None:
        """``impersonates``: it publishes for other users, too, as far as the broker lets it."""
        self._tenant = tenant
        self._impersonates = self._may_impersonate = impersonates
        self._limits = limits
        self._overtaken = None if limits.patience_s is None else Overtaken(limits.patience_s)
        self._on_ready = on_ready
        self._connection: WireConnection | None = None
        self._channel: Channel | None = None
        self._lane: Lane | None = None
        self._allowed = False
        self._blocked = False
        self._over: KaasqError | None = None
        self._max_body: int | None = None
        self._frame_max = FRAME_MAX_BYTES
        self._waiting: deque[Publish] = deque()
        self._waiting_bytes = 0
        self._unconfirmed: dict[int, Publish] = {}
        self._unconfirmed_bytes = 0
        self._tag = 0
        self._settled = 0  # every tag up to here is settled
        self._stale = False  # the channel is to be changed for another once all on it is confirmed
        self._renewed_at = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether there is a channel to publish on."""
        return self._channel is not None

    def publish(self, item: Publish) -> None:
        """Send it, or keep it until it can be sent."""
        refusal = self._refusal(item)
        if refusal is not None:
            tell(item, refusal)
        elif not self._waiting and self._has_room():
            self._send(item)
        else:
            self._waiting.append(item)
            self._waiting_bytes += len(item.message.body)

    def attach(self, connection: WireConnection) -> None:
        """Publish on this connection from now on."""
        self._connection = connection
        self._blocked = False
        self._max_body = None  # the broker may have been configured anew
        self._may_impersonate = self._impersonates  # and the user
        self._frame_max = connection.params.frame_max  # negotiated
        self._open_channel()

    def detach(self, error: KaasqError) -> None:
        """The connection is gone."""
        self._connection = self._channel = None
        self._fail_unconfirmed(error)

    def allow(self, allowed: bool) -> None:
        """Whether what publishes go to has been declared. Until then they wait."""
        self._allowed = allowed
        self._pump()

    def block(self, blocked: bool) -> None:
        """Whether the broker asked us to stop publishing."""
        self._blocked = blocked
        now = time.monotonic()
        for item in self._unconfirmed.values():  # nothing could be confirmed meanwhile
            item.sent_at = now
        self._pump()

    def expire(self) -> None:
        """Give up on what has waited too long for its confirm."""
        if self._blocked:
            return
        now = time.monotonic()
        before = now - self._limits.confirm_timeout_s
        late = [tag for tag, _ in takewhile(lambda each: each[1].sent_at < before, self._unconfirmed.items())]
        if not late and self._overtaken is not None:
            late = self._overtaken.lost(self._unconfirmed, now)
        items = [self._unconfirmed.pop(tag) for tag in late]
        self._unconfirmed_bytes -= sum(len(item.message.body) for item in items)
        for item in items:
            waited_s = now - item.sent_at
            tell(item, BrokerLost(f"{_what(item)} was not confirmed within {waited_s:.1f} s", unconfirmed=True))
        self._renew()
        self._pump()

    def finish(self, error: KaasqError) -> None:
        """Nothing is published any more: neither what waits nor what comes."""
        self._over = error
        self._fail_unconfirmed(error)
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for item in waiting:
            tell(item, error)

    def _refusal(self, item: Publish) -> KaasqError | None:
        """What can be told at once: the broker would close the channel over it, to everybody's loss."""
        message = item.message
        size = len(message.body)
        if self._over is not None:
            return self._over
        if message.user_id not in {None, self._tenant} and not self._may_impersonate:
            return self._forged(message)
        if self._max_body is not None and size > self._max_body:
            return _too_large(size, self._max_body)
        limits = self._limits
        if len(self._waiting) >= limits.waiting or self._waiting_bytes + size > limits.waiting_bytes:
            held = f"{len(self._waiting)} publishes ({self._waiting_bytes} bytes) wait already"
            if self._channel is None:
                return BrokerLost(f"not connected to the broker, and {held}")
            return BrokerRefused(f"the broker takes messages slower than they are published: {held}")
        return None

    def _has_room(self) -> bool:
        return (
            self._channel is not None
            and self._allowed
            and not self._blocked
            and not self._stale
            and len(self._unconfirmed) < self._limits.unconfirmed
            and self._unconfirmed_bytes < self._limits.unconfirmed_bytes
        )

    def _forged(self, message: Message) -> BrokerRefused:
        told = f"user_id is {message.user_id!r}, but the connection is authenticated as {self._tenant!r}"
        if self._impersonates:
            told += f", which may not publish for others: rabbitmqctl set_user_tags {self._tenant} impersonator "
            told += "(and its other tags)"
        return BrokerRefused(told, user=self._tenant)

    def _pump(self) -> None:
        waiting = self._waiting
        while waiting and self._has_room():
            item = waiting.popleft()
            self._waiting_bytes -= len(item.message.body)
            self._send(item)

    def _send(self, item: Publish) -> None:
        assert self._lane is not None
        message = item.message
        try:
            self._lane.publish(message, item.exchange, item.routing_key, mandatory=item.mandatory)
        except (BrokerRefused, *ENCODING_ERRORS) as error:
            # All is encoded before anything is sent, so nothing has gone out and no tag is used.
            tell(item, translate(error, "the message cannot be sent"))
            return
        self._tag += 1
        item.sent_at = time.monotonic()
        self._unconfirmed[self._tag] = item
        self._unconfirmed_bytes += len(message.body)

    def _on_confirm(self, tag: int, multiple: bool, refused: bool) -> None:
        if multiple:
            first, self._settled = self._settled + 1, tag
            for each in range(first, tag + 1):
                self._confirm(each, refused)
        else:
            self._confirm(tag, refused)
        if refused:
            self._stale |= time.monotonic() - self._renewed_at > RENEW_S
        if self._stale and not self._unconfirmed:
            self._renew()
        self._pump()

    def _confirm(self, tag: int, refused: bool) -> None:
        item = self._unconfirmed.pop(tag, None)
        if item is None:  # settled on its own before
            return
        self._unconfirmed_bytes -= len(item.message.body)
        if self._overtaken is not None and not refused:
            self._overtaken.confirmed(item, tag)
        if refused:
            why = "a queue it goes to is full, or has no leader just now"
            tell(item, BrokerRefused(f"{_what(item)} was rejected: {why}", rejected=True))
        elif item.returned:
            tell(item, Unroutable(f"{_what(item)} goes to no queue", routing_key=item.routing_key))
        else:
            tell(item, None)

    def _renew(self) -> None:
        """Change a channel that got a rejection for a new one.

        RabbitMQ (3.10 at least) asks once per channel which node leads a queue. A channel that learns it just as that
        node dies rejects everything for the queue until the node is back, though another leads it long since.
        """
        if self._stale and self._channel is not None:
            channel, self._channel = self._channel, None
            self._renewed_at = time.monotonic()
            channel.close()

    def _on_return(self, returned: Returned) -> None:
        # It comes before the confirm, and without its tag: the oldest publish that is equal in all that counts.
        for item in self._unconfirmed.values():
            message = item.message
            if (
                item.mandatory
                and not item.returned
                and item.routing_key == returned.routing_key
                and item.exchange == returned.exchange
                and message.message_id == returned.message.message_id
                and message.correlation_id == returned.message.correlation_id
                and message.body == returned.message.body
            ):
                item.returned = True
                return

    def _open_channel(self) -> None:
        assert self._connection is not None
        channel = self._connection.channel(on_open_callback=self._channel_opened)
        channel.add_on_close_callback(self._channel_closed)

    def _channel_opened(self, channel: Channel) -> None:
        channel.confirm_delivery(lambda _: None, callback=lambda _: self._channel_ready(channel))

    def _channel_ready(self, channel: Channel) -> None:
        assert self._connection is not None
        wire, number = self._connection.wire, channel.channel_number
        self._channel = channel
        self._lane = wire.lanes[number] = Lane(
            wire, number, self._frame_max, on_confirm=self._on_confirm, on_returned=self._on_return
        )
        self._tag = self._settled = 0
        if self._overtaken is not None:
            self._overtaken.reset()
        self._stale = False
        self._on_ready()
        self._pump()

    def _channel_closed(self, _: Channel, reason: Exception) -> None:
        self._channel = None
        if self._connection is None or self._connection.is_closed:
            return  # the whole connection went: detach() follows
        if self._stale and self._connection.is_open and not reply_code(reason):
            self._fail_unconfirmed(BrokerLost("the channel was changed before the broker confirmed"))
            self._open_channel()
            return
        if not reply_code(reason):
            return
        log.warning("publish.channel_closed", reason=reply_text(reason))
        blame = culprit(reason)
        if blame.forged:  # it would be the same for the next one, and cost everybody the channel again
            self._may_impersonate = False
        if blame.max_size is not None:
            self._max_body = blame.max_size
        refused = translate(reason, "the broker refused a message")
        lost = BrokerLost(f"the broker closed the channel over another message: {refused.message}")
        self._fail_unconfirmed(lost, refused=lambda item: self._blamed(item, blame.fits, refused))
        if self._connection.is_open:
            self._open_channel()

    def _blamed(self, item: Publish, fits: Callable[[str, str, int], bool], refused: KaasqError) -> KaasqError | None:
        if not self._may_impersonate and item.message.user_id not in {None, self._tenant}:
            return self._forged(item.message)
        size = len(item.message.body)
        if not fits(item.exchange, item.routing_key, size):
            return None
        if self._max_body is not None and size > self._max_body:
            return _too_large(size, self._max_body)
        return refused

    def _fail_unconfirmed(
        self, error: KaasqError, refused: Callable[[Publish], KaasqError | None] = lambda _: None
    ) -> None:
        unconfirmed, self._unconfirmed, self._unconfirmed_bytes = self._unconfirmed, {}, 0
        for item in unconfirmed.values():
            tell(item, refused(item) or error)


def tell(item: Publish, error: KaasqError | None) -> None:
    """Its sender how it ended."""
    if item.done is not None:
        invoke(item.done, error)
    elif error is not None:
        log.warning("publish.failed", exchange=item.exchange, error=error.message)


def _what(item: Publish) -> str:
    return f"the message for {item.routing_key!r} of exchange {item.exchange!r}"


def _too_large(size: int, limit: int) -> BrokerRefused:
    return BrokerRefused(
        f"the message has {size} bytes, the broker takes {limit} (max_message_size in rabbitmq.conf); "
        f"put large inputs into the store and send their references",
        size=size,
        limit=limit,
    )
