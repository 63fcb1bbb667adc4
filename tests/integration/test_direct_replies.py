"""Direct replies: what tenants write into ``reply_to`` costs nobody else anything."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from kaasq.broker import Message
from kaasq.errors import BrokerLost
from kaasq.rabbit import DirectLimits, RabbitBroker
from kaasq_faults.proxy import Proxy
from real_broker import Broker as Server
from tests.support.connections import close_connections, connections
from tests.support.foreign import forged_address
from tests.support.messaging import EXCHANGE, Outcomes, ready

pytestmark = pytest.mark.broker


@pytest.fixture
def mq(own_rabbit: Server) -> Iterator[RabbitBroker]:
    broker = ready(RabbitBroker(own_rabbit.url))
    yield broker
    broker.close()
    for each in own_rabbit.management.queues():
        if not each["name"].startswith("amq."):  # the asker's: gone by itself, or about to
            own_rabbit.management.call("DELETE", "queues", "/", each["name"])


class Asker:
    """A program with an address for direct replies."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self.heard: list[bytes] = []
        self._channel.basic_consume("amq.rabbitmq.reply-to", self._on_reply, auto_ack=True)
        asked = self._channel.queue_declare("", exclusive=True).method.queue
        sent = pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")
        self._channel.basic_publish("", asked, b"", sent)
        properties: Any = None
        while properties is None:
            _, properties, _ = self._channel.basic_get(asked, auto_ack=True)
        self.address: str = properties.reply_to

    def wait_for(self, count: int) -> list[bytes]:
        deadline = time.monotonic() + 20
        while len(self.heard) < count:
            assert time.monotonic() < deadline, self.heard
            self._connection.process_data_events(time_limit=0.1)
        return self.heard

    def close(self) -> None:
        self._connection.close()

    def _on_reply(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.heard.append(body)


@pytest.fixture
def asker(own_rabbit: Server) -> Iterator[Asker]:
    made = Asker(own_rabbit.url)
    yield made
    made.close()


def send(mq: RabbitBroker, address: str, body: bytes, tenant: str | None = None) -> Outcomes:
    done = Outcomes()
    mq.publish(Message(body=body, persistent=False), exchange="", routing_key=address, done=done, tenant=tenant)
    return done


def ends_connections(server: Server) -> bool:
    """Whether that RabbitMQ ends the connection of whoever publishes to a forged address."""
    return server.version.startswith("3.")


def test_forged_addresses_cost_neither_other_replies_nor_the_publishing_connection(
    own_rabbit: Server, mq: RabbitBroker, asker: Asker
) -> None:
    states: queue.SimpleQueue[object] = queue.SimpleQueue()
    mq.watch(lambda state, _: states.put(state))
    told, bodies, others, bad = [], [], [], []
    for number in range(40):
        body = b"%d" % number
        if number % 8 == 3:
            bad.append(send(mq, forged_address(number), b""))
        bodies.append(body)
        told.append(send(mq, asker.address, body))
        other = Outcomes()
        mq.publish(Message(body=body), exchange=EXCHANGE, routing_key="a.b", done=other)
        others.append(other)
    assert [each.one() for each in (*told, *others)] == [None] * 80
    assert sorted(asker.wait_for(40)) == sorted(bodies)
    ends = [each.one() for each in bad]
    if ends_connections(own_rabbit):
        assert all(isinstance(each, BrokerLost) and "INTERNAL_ERROR" in each.message for each in ends)
    assert states.empty()


def test_the_connection_is_opened_when_needed_and_again_when_needed(
    own_rabbit: Server, mq: RabbitBroker, asker: Asker
) -> None:
    assert not connections(own_rabbit, " reply")
    assert send(mq, asker.address, b"first").one() is None
    assert len(connections(own_rabbit, " reply")) == 1
    close_connections(own_rabbit, " reply")
    assert not connections(own_rabbit, " reply")
    assert send(mq, asker.address, b"second").one() is None
    assert asker.wait_for(2) == [b"first", b"second"]


def test_a_reply_whose_connection_went_for_another_reason_is_sent_again(own_rabbit: Server, asker: Asker) -> None:
    with Proxy(own_rabbit.url) as proxy:
        mq = RabbitBroker(proxy.url)
        mq.open(10)
        assert send(mq, asker.address, b"first").one() is None
        proxy.silence()
        done = send(mq, asker.address, b"second")
        proxy.reset()
        proxy.resume()
        assert done.one() is None
        assert b"second" in asker.wait_for(2)
        mq.close()


def test_what_waits_is_bounded_in_number_and_time(own_rabbit: Server, asker: Asker) -> None:
    limits = DirectLimits(waiting=3, waiting_bytes=100, wait_s=0.5)
    with Proxy(own_rabbit.url) as proxy:
        mq = RabbitBroker(proxy.url, direct_limits=limits)
        mq.open(10)
        proxy.silence()
        done = [send(mq, asker.address, bytes(101)), *(send(mq, asker.address, b"x") for _ in range(4))]
        for too_many in (done.pop(0), done.pop()):  # told at once; the others once they have waited
            assert "wait already" in str(too_many.one(0.4))
        assert all("within 0.5 s" in str(each.one()) for each in done)
        proxy.resume()
        assert send(mq, asker.address, b"later").one() is None
        mq.close()


def test_closing_tells_those_that_wait(own_rabbit: Server, asker: Asker) -> None:
    mq = RabbitBroker(own_rabbit.url)
    early = send(mq, asker.address, b"before it was opened")
    mq.close()
    assert isinstance(early.one(), BrokerLost)
    assert isinstance(send(mq, asker.address, b"").one(), BrokerLost)


def test_few_suspects_wait_after_a_forged_address_and_proven_ones_go_on(own_rabbit: Server, asker: Asker) -> None:
    mq = ready(RabbitBroker(own_rabbit.url, direct_limits=DirectLimits(suspects=2)))
    assert send(mq, asker.address, b"proves itself").one() is None
    bad = [send(mq, forged_address(number), b"") for number in range(30)]
    assert [send(mq, asker.address, b"goes on").one() for _ in range(20)] == [None] * 20
    told = [each.one() for each in bad]
    crowded = [each for each in told if "wait already" in str(each)]
    if ends_connections(own_rabbit):
        assert all(isinstance(each, BrokerLost) for each in told)
        assert len(crowded) >= 27
    else:
        assert told == [None] * 30
    mq.close()


def test_a_new_programs_first_reply_arrives_though_another_tenant_forges_as_fast_as_it_can(
    own_rabbit: Server, mq: RabbitBroker, asker: Asker
) -> None:
    bad = [send(mq, forged_address(number), b"", "mallory") for number in range(30)]
    bad[0].one()
    bad += [send(mq, forged_address(number), b"", "mallory") for number in range(30)]  # now there is an alert
    first = send(mq, asker.address, b"first", "ann")
    assert first.one() is None
    assert asker.wait_for(1) == [b"first"]
    assert all(isinstance(each.one(), BrokerLost) for each in bad[1:]) == ends_connections(own_rabbit)
