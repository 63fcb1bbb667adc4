"""Publishes a dead event once more, for the subscription that gave it up and for no other. For commands: it blocks."""

from __future__ import annotations

from contextlib import suppress
from typing import Self

from pika import exceptions as pika_errors
from pika.adapters.blocking_connection import BlockingChannel

from kaasq.broker import Message
from kaasq.errors import BrokerRefused, KaasqError, Unroutable
from kaasq.rabbit.dead import connect
from kaasq.rabbit.errors import NOT_FOUND, connection_error, reply_code, translate
from kaasq.rabbit.properties import to_properties
from kaasq.topology import again_event_key, event_queue, register


class Reteller:
    """Of one tenant's events, each confirmed before ``publish`` returns. A context manager.

    A subscription is reached through the tenant's own exchange, to which it is bound for as long as this is open: no
    other one hears the event a second time.
    """

    def __init__(self, url: str, tenant: str, *, timeout_s: float) -> None:
        self._connection, self._where = connect(url, "kaasq events dead replay", timeout_s)
        self._tenant = tenant
        self._exchange = register(tenant)
        self._channel: BlockingChannel | None = None
        self._bound: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(pika_errors.AMQPError):
            for name in self._bound:
                self._ready().queue_unbind(event_queue(self._tenant, name), self._exchange, again_event_key(name))
        with suppress(pika_errors.AMQPError):
            self._connection.close()

    def publish(self, message: Message, subscription: str) -> None:
        """Raises Unroutable, BrokerRefused; BrokerLost where nobody knows whether it arrived."""
        key = again_event_key(subscription)
        try:
            if subscription not in self._bound:
                self._bind(subscription, key)
            self._ready().basic_publish(self._exchange, key, message.body, to_properties(message), mandatory=True)
        except pika_errors.UnroutableError:
            raise self._gone(subscription) from None
        except pika_errors.NackError:
            raise BrokerRefused(f"subscription {subscription!r} is full (event_limit)") from None
        except pika_errors.ChannelClosedByBroker as error:
            if reply_code(error) == NOT_FOUND:
                raise self._gone(subscription) from None
            raise translate(error, f"subscription {subscription!r}") from None
        except pika_errors.AMQPError as error:
            raise connection_error(error, self._where) from None

    def _bind(self, subscription: str, key: str) -> None:
        queue = event_queue(self._tenant, subscription)
        self._ready().queue_declare(queue, passive=True)
        self._ready().queue_bind(queue, self._exchange, key)
        self._bound.add(subscription)

    def _ready(self) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
        return self._channel

    def _gone(self, subscription: str) -> KaasqError:
        return Unroutable(
            f"there is no subscription {subscription!r} any more: start the program that listens to it, which makes it "
            "anew, and replay its events then"
        )
