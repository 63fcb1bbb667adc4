"""Reads the queue of dead letters, loses nothing of it and reorders nothing; publishes a request once more.

For commands, so it blocks. What is not settled goes back when the connection closes, all of it at once and from one
consumer: only then does a quorum queue keep the order. For the same reason nothing is fetched one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self, cast

from pika import exceptions as pika_errors
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.spec import Basic, BasicProperties

from kaasq.broker import Message
from kaasq.errors import BrokerRefused, Forbidden, KaasqError, Unroutable
from kaasq.rabbit.blocking import Blocking, message_of
from kaasq.rabbit.errors import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    RESOURCE_LOCKED,
    Where,
    connection_error,
    reply_code,
    translate,
)
from kaasq.rabbit.parameters import connection_parameters, quieten_pika
from kaasq.rabbit.properties import to_properties
from kaasq.topology import DEAD, DEAD_READER, REQUESTS, dead_events, dead_events_reader

MOST = 65_535
"""Letters read at once: all of them stay with this consumer until the end, and AMQP has no larger prefetch."""
QUIET_S = 5.0
"""Fewer may come than there were, because somebody else holds some. So long a silence means that."""
BLOCKED_S = 30.0


class Letter:
    """A letter as it was delivered. It stays in the queue unless it is acked."""

    redelivered = False

    def __init__(self, queue: str, settle: Callable[[int], None], method: Basic.Deliver, message: Message) -> None:
        key: str | bytes = method.routing_key or ""
        self.queue = queue
        self.message = message
        self.exchange = method.exchange or ""
        self.routing_key = key if isinstance(key, str) else key.decode(errors="replace")
        self._settle = settle
        self._tag = method.delivery_tag or 0

    def ack(self) -> None:
        """It has been dealt with: remove it. Raises BrokerLost: then it may still be there."""
        self._settle(self._tag)

    def requeue(self) -> None:
        """Nothing to be done: it goes back with all others."""

    reject = requeue


class Place(NamedTuple):
    """Where letters lie, and what who reads them is told."""

    queue: str
    reader: str
    """The exclusive queue that who reads them holds."""
    command: str
    grant: str
    """What a user needs who may not read them."""
    apart_by: str
    """The option that tells letters of one id apart."""


OF_REQUESTS = Place(
    DEAD,
    DEAD_READER,
    "kaasq dead",
    "they are those of all tenants: use an operator's login (--broker), or grant configure and read on ^kaasq\\.dead",
    "tenant",
)


def of_events(tenant: str) -> Place:
    """Where a tenant's dead events lie."""
    return Place(
        dead_events(tenant),
        dead_events_reader(tenant),
        "kaasq events dead",
        f"grant configure, write and read on ^kaasq\\.events\\.{tenant}\\.",
        "name",
    )


class DeadQueue:
    """The dead letters of a place, oldest first. One reader at a time: the second one is told so.

    A context manager. Raises BrokerLost, BrokerRefused, and Forbidden for a user who may not read them.
    """

    def __init__(self, url: str, place: Place = OF_REQUESTS, *, timeout_s: float) -> None:
        self._url = url
        self.place = place
        self._timeout_s = timeout_s
        self._waiting: deque[Letter] = deque()
        self._left = 0  # not yet given to whoever reads
        self.count = 0
        """How many there were at the beginning, as far as nobody else had taken them."""

    def __enter__(self) -> Self:
        self._connection, self._where = connect(self._url, self.place.command, self._timeout_s)
        try:
            with self._translated():
                self._channel = self._connection.channel()
                self._channel.queue_declare(self.place.reader, exclusive=True)
                self._count()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def letters(self) -> Iterator[Letter]:
        """Those that were there at the beginning, MOST of them at most."""
        if not self.count:
            return
        with self._translated():
            self._channel.basic_qos(prefetch_count=MOST)
            self._channel.basic_consume(self.place.queue, self._arrived)
        self._left = min(self.count, MOST)
        while self._left:
            if not self._waiting:
                with self._translated():
                    self._connection.process_data_events(QUIET_S)
            if not self._waiting:
                self._left = 0
                return
            self._left -= 1
            yield self._waiting.popleft()

    def _arrived(self, _: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self._waiting.append(Letter(self.place.queue, self._ack, method, message_of(properties, body)))

    def _ack(self, tag: int) -> None:
        # Of the channel below: BlockingChannel's own waits until it is sent, and reads meanwhile what it can get of the
        # letters behind, until all of them are in memory. This one goes out before the next letters are read.
        with self._translated():
            cast(Any, self._channel)._impl.basic_ack(tag)

    def _count(self) -> None:
        try:
            self.count = self._channel.queue_declare(self.place.queue, passive=True).method.message_count or 0
        except pika_errors.ChannelClosedByBroker as error:
            if reply_code(error) != NOT_FOUND:
                raise
            self.count = 0  # nobody has ever been here

    def _close(self) -> None:
        # pika gives back what arrives while it closes a channel, one by one and so out of order: let it arrive before.
        with suppress(pika_errors.AMQPError):
            while self._left and self._connection.is_open:
                before = self._left
                self._connection.process_data_events(QUIET_S)
                self._left -= len(self._waiting)
                self._waiting.clear()
                if self._left == before:
                    break
        with suppress(pika_errors.AMQPError):
            self._connection.close()  # what was acked before goes out before

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except pika_errors.ChannelClosedByBroker as error:
            raise self._refusal(error) from None
        except pika_errors.AMQPError as error:
            raise connection_error(error, self._where) from None

    def _refusal(self, error: pika_errors.ChannelClosedByBroker) -> KaasqError:
        match reply_code(error):
            case code if code == RESOURCE_LOCKED:
                return BrokerRefused(
                    f"another `{self.place.command}` reads the dead letters just now: try again when it is done"
                )
            case code if code == ACCESS_REFUSED:
                user = self._where.user
                return Forbidden(
                    f"user {user!r} may not read the dead letters in queue {self.place.queue!r} of virtual host "
                    f"{self._where.vhost!r}; {self.place.grant} ({error.reply_text})",
                    user=user,
                )
        return translate(error, f"queue {self.place.queue!r}")


class Republisher:
    """Publishes requests again, each confirmed before ``publish`` returns. A context manager.

    A request's ``user_id`` is its tenant. RabbitMQ lets a user publish as another one only if it has the tag
    ``impersonator``.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._connection, self._where = connect(url, "kaasq dead replay", timeout_s)
        self._channel: BlockingChannel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(pika_errors.AMQPError):
            self._connection.close()

    def publish(self, message: Message, routing_key: str) -> None:
        """Raises Unroutable, Forbidden, BrokerRefused; BrokerLost where nobody knows whether it arrived."""
        try:
            self._ready().basic_publish(REQUESTS, routing_key, message.body, to_properties(message), mandatory=True)
        except pika_errors.UnroutableError:
            pool = routing_key.split(".")[1]
            raise Unroutable(f"no worker ever served pool {pool!r} on this broker", pool=pool) from None
        except pika_errors.NackError:
            raise BrokerRefused(f"the queue behind {routing_key!r} is full") from None
        except pika_errors.ChannelClosedByBroker as error:
            raise self._refusal(error, message) from None
        except pika_errors.AMQPError as error:
            raise connection_error(error, self._where) from None

    def _ready(self) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def _refusal(self, error: pika_errors.ChannelClosedByBroker, message: Message) -> KaasqError:
        user = self._where.user
        if reply_code(error) == PRECONDITION_FAILED and "user_id" in error.reply_text:
            return Forbidden(
                f"the request belongs to tenant {message.user_id!r}, and RabbitMQ lets {user!r} publish for nobody "
                f"else: give the tenant's own login with --publish-as, or {user!r} the tag impersonator (rabbitmqctl "
                f"set_user_tags {user} impersonator, with the tags that it has)",
                user=user,
                tenant=message.user_id,
            )
        if reply_code(error) == ACCESS_REFUSED:
            return Forbidden(f"user {user!r} may not publish requests: {error.reply_text}", user=user)
        return translate(error, "the request was refused")


def connect(url: str, name: str, timeout_s: float) -> tuple[BlockingConnection, Where]:
    """A connection that blocks. Raises BrokerLost, BrokerRefused."""
    quieten_pika()
    parameters, where = connection_parameters(url, connection_name=name)
    parameters.socket_timeout = parameters.stack_timeout = timeout_s
    parameters.blocked_connection_timeout = BLOCKED_S
    try:
        return Blocking(parameters), where
    except (pika_errors.AMQPError, OSError) as error:
        raise connection_error(error, where) from None
