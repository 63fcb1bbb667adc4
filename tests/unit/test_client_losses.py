"""A client that loses its connection, whose publishes are lost or refused, and one that is closed."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from kaasq import topology
from kaasq.broker import Done, Message, State
from kaasq.errors import (
    BrokerLost,
    BrokerRefused,
    KaasqError,
    ReplyTimeout,
)
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_producers import Client
from kaasq_producers.publishing import RESEND_DELAY_S, UNCONFIRMED_DELAY_S
from tests.support import graphs
from tests.support.fake_worker import FakeWorker, Held, saxpy
from tests.support.messaging import States
from tests.support.waiting import until

X = np.arange(4, dtype=np.float32)
Y = np.ones(4, dtype=np.float32)
GRAPH = graphs.saxpy()


class Shaky(MemoryBroker):
    """Loses the confirms of the next publishes; ``arrives`` says whether the messages get there."""

    lose = 0
    arrives = True

    def publish(self, message: Message, *, exchange: str, done: Done | None = None, **more: Any) -> None:
        if not self.lose:
            super().publish(message, exchange=exchange, done=done, **more)
            return
        self.lose -= 1
        if self.arrives:
            super().publish(message, exchange=exchange, **more)
        assert done is not None
        self.call_soon(lambda: done(BrokerLost("the connection went before the confirm")))


@pytest.mark.parametrize("arrives", [False, True])
def test_unconfirmed_request_is_repeated_with_its_id(
    node: MemoryNode, settings: Settings, worker: FakeWorker, arrives: bool
) -> None:
    broker = Shaky(node, "ann")
    broker.lose, broker.arrives = 2, arrives
    held = Held()
    worker.answer = held
    with Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        copies = [held.next() for _ in range(3 if arrives else 1)]
        assert len({message.message_id for _, message in copies}) == 1
        assert len({message.body for _, message in copies}) == 1
        assert len({message.timestamp_ms for _, message in copies}) == 1
        for request, message in copies:
            worker.reply(message, saxpy(request, message))
        assert future.result(5)["out"].shape == (4,)


class Stalled(MemoryBroker):
    """Gives the next publishes of requests up as unconfirmed; ``sent_at``: when each publish of one was tried."""

    left = 0

    def __init__(self, node: MemoryNode, tenant: str) -> None:
        super().__init__(node, tenant)
        self.sent_at: list[float] = []

    def publish(self, message: Message, *, done: Done | None = None, **where: Any) -> None:
        if where["exchange"] == topology.REQUESTS:
            self.sent_at.append(time.monotonic())
            self.left -= 1
            if self.left >= 0:
                assert done is not None
                self.call_soon(lambda: done(BrokerLost("it was not confirmed", unconfirmed=True)))
                return
        super().publish(message, done=done, **where)


def test_what_the_broker_does_not_confirm_is_repeated_with_its_id_after_doubling_pauses(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = Stalled(node, "ann")
    broker.left = 3
    with Client(broker, settings=settings) as client:
        result = client.run(GRAPH, x=X, y=Y)
    assert [each.message_id for each in worker.messages] == [result.request_id]
    pauses = [after - before for before, after in itertools.pairwise(broker.sent_at)]
    assert len(pauses) == 3
    assert all(pause >= UNCONFIRMED_DELAY_S * 2**number for number, pause in enumerate(pauses))


def test_a_request_that_was_given_up_is_not_repeated(node: MemoryNode, settings: Settings, worker: FakeWorker) -> None:
    broker = Stalled(node, "ann")
    broker.left = 1
    with Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        until(lambda: broker.sent_at)
        assert future.cancel()
        time.sleep(1.5 * UNCONFIRMED_DELAY_S)  # when it would have been
    assert len(broker.sent_at) == 1


def test_what_is_to_be_repeated_waits_for_the_connection(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = Stalled(node, "ann")
    broker.left = 1
    with Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        until(lambda: broker.sent_at)
        states = States(broker)
        broker.interrupt(2 * UNCONFIRMED_DELAY_S)
        states.wait_for(State.CONNECTED)
        assert future.result(5)["out"].shape == (4,)
    assert len(broker.sent_at) == 2


def test_requests_stay_pending_while_the_connection_is_lost(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = MemoryBroker(node, "ann")
    held = Held()
    worker.answer = held
    with Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        request, message = held.next()
        states = States(broker)
        broker.interrupt(0.2)
        states.wait_for(State.LOST)
        worker.reply(message, saxpy(request, message))
        during = client.submit(GRAPH, x=X, y=Y)
        assert future.result(5)["out"].shape == (4,)
        request, message = held.next()
        worker.reply(message, saxpy(request, message))
        assert during.result(5)["out"].shape == (4,)


def test_reply_lost_with_the_connection_is_asked_for_again(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = MemoryBroker(node, "ann")
    worker.answer = held = Held()
    with Client(broker, settings=settings) as client:
        futures = [client.submit(GRAPH, x=X, y=Y) for _ in range(3)]
        first = [held.next() for _ in futures]
        broker.interrupt()
        again = [held.next() for _ in futures]
        for (_, before), (request, after) in zip(first, again, strict=True):
            assert (after.message_id, after.body, after.timestamp_ms) == (
                before.message_id,
                before.body,
                before.timestamp_ms,
            )
            worker.reply(after, saxpy(request, after))
        assert all(future.result(5)["out"].shape == (4,) for future in futures)


def test_reply_that_waited_in_the_queue_is_not_asked_for_again(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = MemoryBroker(node, "ann")
    worker.answer = held = Held()
    with Client(broker, settings=settings) as client:
        future = client.submit(GRAPH, x=X, y=Y)
        request, message = held.next()
        states = States(broker)
        broker.interrupt(0.2)
        states.wait_for(State.LOST)
        worker.reply(message, saxpy(request, message))
        assert future.result(5)["out"].shape == (4,)
        worker.answer = saxpy
        time.sleep(2 * RESEND_DELAY_S)  # when it would have been
        client.run(GRAPH, x=X, y=Y)
    assert len(worker.messages) == 2


def test_timeout_while_the_connection_is_lost_says_so(node: MemoryNode, settings: Settings, worker: FakeWorker) -> None:
    broker = MemoryBroker(node, "ann")
    with Client(broker, settings=settings) as client:
        client.run(GRAPH, x=X, y=Y)
        broker.interrupt(5)
        with pytest.raises(ReplyTimeout, match="the connection to the broker is lost"):
            client.run(GRAPH, x=X, y=Y, timeout=0.3)


def test_refused_publish_fails_at_once(node: MemoryNode, settings: Settings, worker: FakeWorker) -> None:
    class Full(MemoryBroker):
        def publish(self, message: Message, *, done: Done | None = None, **_: Any) -> None:
            assert done is not None
            self.call_soon(lambda: done(BrokerRefused("the queue is full")))

    with Client(Full(node, "ann"), settings=settings) as client:
        with pytest.raises(BrokerRefused, match="the queue is full") as caught:
            client.run(GRAPH, x=X, y=Y)
    assert caught.value.pool == "default"


class Rejecting(MemoryBroker):
    """Has no room for so many publishes."""

    left = 10**6

    def publish(self, message: Message, *, done: Done | None = None, **where: Any) -> None:
        self.left -= 1
        if self.left >= 0 and where["exchange"] == topology.REQUESTS:
            assert done is not None
            self.call_soon(lambda: done(BrokerRefused("the queue has no leader", rejected=True)))
        else:
            super().publish(message, done=done, **where)


def test_a_publish_that_the_broker_has_no_room_for_is_repeated(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    broker = Rejecting(node, "ann")
    broker.left = 2
    with Client(broker, settings=settings) as client:
        assert client.run(GRAPH, x=X, y=Y)["out"][1] == 3
    assert len(worker.messages) == 1


def test_a_publish_that_the_broker_never_has_room_for_is_told_at_its_deadline(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    with Client(Rejecting(node, "ann"), settings=settings) as client:
        with pytest.raises(ReplyTimeout, match="the broker rejects it: the pool's queue is full, or has no leader"):
            client.run(GRAPH, x=X, y=Y, timeout=0.2)


def test_a_reply_queue_whose_node_is_down_is_replaced_and_the_replies_are_asked_for_again(
    node: MemoryNode, settings: Settings, worker: FakeWorker
) -> None:
    absent: list[Callable[[], None]] = []

    class Clustered(MemoryBroker):
        def declare(self, what: topology.Topology, done: Done, on_absent: Callable[[], None] | None = None) -> None:
            if on_absent is not None:
                absent.append(on_absent)
            super().declare(what, done)

    broker = Clustered(node, "ann")
    with Client(broker, settings=settings) as client:
        worker.answer = Held()
        future = client.submit(GRAPH, x=X, y=Y)
        until(lambda: len(worker.messages) == 1)
        worker.answer = saxpy
        broker.call_soon(absent[0])
        assert future.result(5)["out"][1] == 3
        assert client.run(GRAPH, x=X, y=Y)["out"][1] == 3
    first, *others = [each.reply_to for each in worker.messages]
    assert first not in others
    assert len(set(others)) == 1
    assert len({each.message_id for each in worker.messages[:2]}) == 1


def test_closing_tells_everybody_who_waits(client: Client, worker: FakeWorker) -> None:
    worker.answer = Held()
    futures = [client.submit(GRAPH, x=X, y=Y) for _ in range(3)]
    client.close()
    for future in futures:
        with pytest.raises(BrokerLost, match=r"the client was closed before request .* had its reply"):
            future.result(5)
    with pytest.raises(BrokerLost, match="the client is closed"):
        client.run(GRAPH, x=X, y=Y)
    client.close()


def test_closing_ends_waiting_for_room(client: Client, settings: Settings, worker: FakeWorker) -> None:
    worker.answer = Held()
    small = Client(client._broker, settings=msgspec.structs.replace(settings, pending_limit=1))
    small.submit(GRAPH, x=X, y=Y)
    raised: queue.Queue[KaasqError] = queue.Queue()

    def submit() -> None:
        try:
            small.submit(GRAPH, x=X, y=Y)
        except KaasqError as error:
            raised.put(error)

    threading.Thread(target=submit).start()
    until(lambda: small._connected().pending._waiting)
    small.close()
    assert isinstance(raised.get(timeout=20), BrokerLost)


def test_client_that_never_connected_can_be_closed(settings: Settings) -> None:
    client = Client("amqp://bob:x@nowhere.invalid/", settings=settings)
    assert repr(client) == "<Client of pool 'default' as 'bob', not connected yet>"
    client.close()
    with pytest.raises(BrokerLost, match="the client is closed"):
        client.connect()
