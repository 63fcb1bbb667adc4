"""What every Broker does, on RabbitMQ and in memory alike."""

from __future__ import annotations

import asyncio
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest

from kaasq.broker import Broker, Delivery, Inspected, Message, State
from kaasq.errors import BrokerLost, BrokerRefused, Unroutable
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.rabbit import RabbitBroker
from kaasq.topology import Binding, Exchange, Queue, Topology, pool_topology, reply_topology
from tests.support.messaging import (
    DEAD,
    EXCHANGE,
    WORK,
    Deliveries,
    Outcomes,
    States,
    classic,
    declare,
    inspect,
    inspect_until,
    publish,
    ready,
    remove,
    work_topology,
)

Connect = Callable[[], Broker]


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def new_broker(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes brokers of one server, not yet opened; closes them in the end."""
    made: list[Broker] = []
    node = MemoryNode()
    url = request.getfixturevalue("rabbit_url") if request.param == "rabbitmq" else ""

    def make() -> Broker:
        made.append(RabbitBroker(url) if url else MemoryBroker(node))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def connect(new_broker: Connect) -> Connect:
    def make() -> Broker:
        mq = new_broker()
        mq.open(20)
        return mq

    return make


@pytest.fixture
def mq(new_broker: Connect) -> Broker:
    return ready(new_broker())


def test_a_confirmed_message_is_delivered_with_where_it_came_from(mq: Broker) -> None:
    assert publish(mq, b"hello", "a.b.c") is None
    delivery = Deliveries(mq, WORK).one()
    assert delivery.message.body == b"hello"
    assert (delivery.queue, delivery.exchange, delivery.routing_key) == (WORK, EXCHANGE, "a.b.c")
    assert not delivery.redelivered
    delivery.ack()


def test_properties_and_headers_arrive_as_they_were(mq: Broker) -> None:
    sent = Message(
        body=bytes(range(256)),
        content_type="application/msgpack",
        message_id="0198c0de",
        correlation_id="c-1",
        user_id=mq.tenant,
        reply_to="replies.1",
        priority=3,
        expiration_ms=60_000,
        timestamp_ms=1_777_777_777_123,
        type="request",
        headers={"traceparent": "00-ab-cd-01", "n": 7, "big": 2**40, "yes": True, "none": None, "raw": b"\xff\x00",
                 "list": [1, "two"], "table": {"x": 1}},
    )  # fmt: skip
    assert publish(mq, sent) is None
    assert Deliveries(mq, WORK).one().message == sent


def test_a_message_with_nothing_but_a_body_arrives_so(mq: Broker) -> None:
    for sent in (Message(body=b""), Message(body=b"x", persistent=False)):
        assert publish(mq, sent) is None
    received = [each.message for each in Deliveries(mq, WORK).some(2)]
    assert [(each.body, each.message_id, each.user_id, each.timestamp_ms) for each in received] == [
        (b"", None, None, None),
        (b"x", None, None, None),
    ]


@pytest.mark.parametrize("size", [4096, 131_072, 1_048_576, 9_000_001])
def test_a_large_body_arrives_whole(mq: Broker, size: int) -> None:
    body = os.urandom(size)
    assert publish(mq, body) is None
    assert Deliveries(mq, WORK).one().message.body == body


def test_each_of_thousands_of_publishes_is_told_its_own_outcome(mq: Broker) -> None:
    told: dict[int, type | None] = {}
    finished = threading.Event()

    def send(number: int) -> None:
        key = "a.x" if number % 3 else "nowhere"

        def done(error: Exception | None) -> None:
            assert number not in told
            told[number] = None if error is None else type(error)
            if len(told) == 5000:
                finished.set()

        mq.publish(Message(body=b"%d" % number), exchange=EXCHANGE, routing_key=key, mandatory=True, done=done)

    for number in range(5000):
        send(number)
    assert finished.wait(30)
    assert told == {number: None if number % 3 else Unroutable for number in range(5000)}
    bodies = {each.message.body for each in Deliveries(mq, WORK, settle=lambda one: one.ack()).some(3333)}
    assert bodies == {b"%d" % number for number in range(5000) if number % 3}


def test_messages_of_one_thread_keep_their_order(mq: Broker) -> None:
    for number in range(500):
        mq.publish(Message(body=b"%d" % number), exchange=EXCHANGE, routing_key="a")
    deliveries = Deliveries(mq, WORK, prefetch=0).some(500)
    assert [each.message.body for each in deliveries] == [b"%d" % number for number in range(500)]


def test_many_threads_may_publish(mq: Broker) -> None:
    done = Outcomes()

    def send(thread: int) -> None:
        for number in range(200):
            message = Message(body=b"%d.%d" % (thread, number))
            mq.publish(message, exchange=EXCHANGE, routing_key="a", mandatory=True, done=done)

    threads = [threading.Thread(target=send, args=(each,)) for each in range(8)]
    for each in threads:
        each.start()
    assert done.some(1600) == [None] * 1600
    got = Deliveries(mq, WORK, settle=lambda one: one.ack()).some(1600)
    assert len({each.message.body for each in got}) == 1600


def test_a_callback_may_publish(mq: Broker) -> None:
    assert declare(mq, classic("t.replies")) is None
    done = Outcomes()

    def answer(delivery: Delivery) -> None:
        mq.publish(Message(body=b"re: " + delivery.message.body), exchange="", routing_key="t.replies", done=done)
        delivery.ack()

    Deliveries(mq, WORK, settle=answer)
    publish(mq, b"question")
    assert done.one() is None
    assert Deliveries(mq, "t.replies").one().message.body == b"re: question"


def test_a_callback_that_raises_does_not_stop_the_others(mq: Broker) -> None:
    def fail(delivery: Delivery) -> None:
        delivery.ack()
        raise ValueError("a bug")

    deliveries = Deliveries(mq, WORK, settle=fail)
    mq.call_soon(lambda: 1 / 0)  # type: ignore[arg-type]
    with pytest.raises(queue.Empty):
        deliveries.one(0.01)
    done = Outcomes()

    def done_and_fail(error: object) -> None:
        done(None)
        raise ValueError("another bug")

    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", done=done_and_fail)
    assert done.one() is None
    assert publish(mq, b"still there") is None


def test_a_callback_that_ends_its_thread_does_not_end_the_brokers(mq: Broker) -> None:
    def quit_thread(error: object) -> None:
        sys.exit(f"a bug: {error}")

    for number in range(20):
        mq.publish(Message(body=b"%d" % number), exchange=EXCHANGE, routing_key="a", done=quit_thread)
    done = Outcomes()
    for _ in range(20):
        mq.publish(Message(body=b""), exchange="", routing_key="nowhere", done=done)
    assert done.some(20) == [None] * 20
    seen = Outcomes()

    def odd_ones_fail(delivery: Delivery) -> None:
        delivery.ack()
        seen(None)
        if int(delivery.message.body) % 2:
            raise asyncio.CancelledError if int(delivery.message.body) % 3 else SystemExit

    consumer = mq.consume(WORK, odd_ones_fail, prefetch=0)
    assert seen.some(20) == [None] * 20
    consumer.cancel()
    assert publish(mq, b"still there") is None


class Hostile:
    """A callback that cannot even be named."""

    def __call__(self, *_: object) -> None:
        raise ValueError("a bug")

    def __repr__(self) -> str:
        raise ValueError("and another")


def test_a_callback_that_cannot_be_logged_does_no_harm(mq: Broker) -> None:
    mq.call_soon(Hostile())
    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", done=Hostile())
    assert publish(mq, b"still there") is None


def with_header_frame_of(size: int) -> Message:
    # The frame 20, which properties 2, the mode 1, the table 4, the name 4, the value 5.
    return Message(body=b"", headers={"big": "x" * (size - 36)})


def test_headers_beyond_a_frame_are_refused_and_cost_nobody_else(mq: Broker) -> None:
    states = States(mq)
    done = [Outcomes() for _ in range(21)]
    for number, each in enumerate(done):
        message = with_header_frame_of(131_073) if number == 10 else Message(body=b"x")
        mq.publish(message, exchange=EXCHANGE, routing_key="a", mandatory=True, done=each)
    told = [each.one() for each in done]
    error = told.pop(10)
    assert isinstance(error, BrokerRefused)
    assert (error.size, error.limit, error.header) == (131_073, 131_072, "big")
    assert "'big'" in str(error)
    assert told == [None] * 20
    assert publish(mq, with_header_frame_of(131_072)) is None
    with pytest.raises(queue.Empty):
        states.wait_for(State.LOST, 0.2)


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for _ in range(depth):
        table = {"t": table}
    return table


@pytest.mark.parametrize(
    "headers",
    [nested(1200), {"o": object()}, {"n": 2**70}, {"f": 1.5}, {5: "no text"}, {"x" * 256: 1}, {"s": "\ud800"}],
    ids=["nested", "object", "long", "float", "number", "name", "surrogate"],
)
def test_headers_that_amqp_cannot_carry_are_refused_and_cost_nobody_else(mq: Broker, headers: dict[str, Any]) -> None:
    before, after = Outcomes(), Outcomes()
    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", done=before)
    error = publish(mq, Message(body=b"", headers=headers))
    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", done=after)
    assert isinstance(error, BrokerRefused)
    assert (before.one(), after.one()) == (None, None)


def test_a_mandatory_message_without_a_queue_is_unroutable(mq: Broker) -> None:
    error = publish(mq, b"", "b.no")
    assert isinstance(error, Unroutable)
    assert "b.no" in str(error)
    assert publish(mq, b"", "b.no", mandatory=False) is None


def test_an_exchange_that_does_not_exist_refuses_and_publishing_goes_on(mq: Broker) -> None:
    error = publish(mq, b"", exchange="t.nope")
    assert isinstance(error, BrokerRefused)
    assert "t.nope" in str(error)
    assert publish(mq, b"") is None


def test_a_full_queue_refuses(connect: Connect) -> None:
    full = Queue(name="t.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    mq = connect()
    assert declare(mq, Topology(queues=(full,))) is None
    assert publish(mq, b"", "t.full", exchange="") is None
    error = publish(mq, b"", "t.full", exchange="")
    assert isinstance(error, BrokerRefused)
    assert "full" in str(error)


def test_a_full_queue_refuses_for_itself_alone(connect: Connect) -> None:
    full = Queue(name="t.full", arguments={"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"})
    oldest_goes = Queue(name="t.last", arguments={"x-max-length": 2})
    mq = connect()
    both = tuple(Binding(EXCHANGE, each.name, "f") for each in (full, oldest_goes))
    topology = Topology(exchanges=(Exchange(EXCHANGE),), queues=(full, oldest_goes), bindings=both)
    assert declare(mq, topology) is None
    refused = [publish(mq, b"%d" % number, "f") for number in range(9)]
    assert refused[0] is None  # RabbitMQ's quorum queues let a few more in before they refuse
    assert isinstance(refused[-1], BrokerRefused)
    last = Deliveries(mq, "t.last").some(2)
    assert [each.message.body for each in last] == [b"7", b"8"]


def test_a_forged_user_id_is_refused(mq: Broker) -> None:
    error = publish(mq, Message(body=b"", user_id="somebody-else"))
    assert isinstance(error, BrokerRefused)
    assert "somebody-else" in str(error)
    assert publish(mq, Message(body=b"", user_id=mq.tenant)) is None


@pytest.mark.parametrize("tags", ["", "impersonator"])
@pytest.mark.parametrize("kind", ["memory", pytest.param("rabbitmq", marks=pytest.mark.broker)])
def test_who_may_impersonate_publishes_for_others_and_who_may_not_loses_nothing_by_trying(
    request: pytest.FixtureRequest, kind: str, tags: str
) -> None:
    login = f"login{secrets.token_hex(4)}"
    made: Broker
    with ExitStack() as cleanup:
        if kind == "memory":
            made = MemoryBroker(MemoryNode(), login, impersonates=bool(tags))
        else:
            management = request.getfixturevalue("broker").management
            url = urlsplit(request.getfixturevalue("rabbit_url"))
            management.add_user(login, "secret", tags=tags)
            cleanup.callback(management.delete_user, login)
            management.set_permissions(login, vhost=url.path[1:])
            made = RabbitBroker(
                url._replace(netloc=f"{login}:secret@{url.netloc.rpartition('@')[2]}").geturl(), impersonates=True
            )
        cleanup.callback(made.close)
        mq = ready(made)
        foreign = Message(body=b"", user_id="somebody-else")
        first, second = Outcomes(), Outcomes()
        mq.publish(foreign, exchange=EXCHANGE, routing_key="a.b", done=first)
        mq.publish(Message(body=b"", user_id=login), exchange=EXCHANGE, routing_key="a.b", done=second)
        error, own = first.one(), second.one()
        assert own is None or isinstance(own, BrokerLost)  # published again by whom it concerns
        assert publish(mq, Message(body=b"", user_id=login)) is None
        for each in (error, publish(mq, foreign)):
            if tags:
                assert each is None
                continue
            assert isinstance(each, BrokerRefused)
            assert "somebody-else" in str(each)


def test_prefetch_bounds_what_is_unsettled(mq: Broker) -> None:
    for _ in range(5):
        publish(mq, b"")
    deliveries = Deliveries(mq, WORK, prefetch=2)
    first, _ = deliveries.some(2)
    assert deliveries.none()
    first.ack()
    deliveries.one()
    assert deliveries.none()


def test_each_consumer_has_its_own_prefetch(mq: Broker) -> None:
    assert declare(mq, classic("t.other")) is None
    for _ in range(4):
        publish(mq, b"")
        publish(mq, b"", "t.other", exchange="")
    one, other = Deliveries(mq, WORK, prefetch=1), Deliveries(mq, "t.other", prefetch=3)
    one.some(1)
    other.some(3)
    assert one.none()
    assert other.none()


def test_a_requeued_message_comes_again_and_says_so(mq: Broker) -> None:
    publish(mq, b"again")
    deliveries = Deliveries(mq, WORK, prefetch=1)
    deliveries.one().requeue()
    again = deliveries.one()
    assert again.redelivered
    assert again.message.body == b"again"
    again.ack()
    assert deliveries.none()


def test_a_rejected_message_goes_to_the_dead_with_the_reason(mq: Broker) -> None:
    publish(mq, Message(body=b"bad", message_id="m-1", headers={"mine": 1}), "a.k")
    Deliveries(mq, WORK).one().reject()
    dead = Deliveries(mq, DEAD).one()
    assert (dead.message.body, dead.message.message_id, dead.routing_key) == (b"bad", "m-1", "a.k")
    headers = dead.message.headers
    assert headers["mine"] == 1
    assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == (WORK, "rejected")
    assert headers["x-death"][0]["queue"] == WORK


def test_settling_twice_does_nothing(mq: Broker) -> None:
    publish(mq, b"once")
    deliveries = Deliveries(mq, WORK)
    delivery = deliveries.one()
    delivery.ack()
    delivery.ack()
    delivery.requeue()
    delivery.reject()
    assert deliveries.none()
    publish(mq, b"next")
    deliveries.one().ack()


def test_beyond_its_delivery_limit_a_message_is_dead(connect: Connect) -> None:
    mq = connect()
    assert declare(mq, work_topology(**{"x-delivery-limit": 2})) is None
    publish(mq, b"poison")
    seen = Deliveries(mq, WORK, settle=lambda delivery: delivery.requeue())
    dead = Deliveries(mq, DEAD).one()
    assert dead.message.headers["x-first-death-reason"] == "delivery_limit"
    assert [each.redelivered for each in seen.some(3)] == [False, True, True]


def test_an_expired_message_is_dead(mq: Broker) -> None:
    publish(mq, Message(body=b"late", expiration_ms=50))
    dead = Deliveries(mq, DEAD).one()
    assert dead.message.headers["x-first-death-reason"] == "expired"
    assert dead.message.expiration_ms is None


@pytest.mark.parametrize("expiration_ms", [2**32 - 1, 2**32, 10 * 365 * 24 * 3600 * 1000])
def test_an_expiration_in_years_is_taken(mq: Broker, expiration_ms: int) -> None:
    assert publish(mq, Message(body=b"patient", expiration_ms=expiration_ms)) is None
    assert Deliveries(mq, WORK).one().message.body == b"patient"


def test_topic_patterns(connect: Connect) -> None:
    mq = connect()
    patterns = {"exact": "x.y.z", "star": "x.*.z", "hash": "x.#", "all": "#", "middle": "x.#.z"}
    topology = Topology(
        exchanges=(Exchange("t.topics"),),
        queues=tuple(Queue(name=name) for name in patterns),
        bindings=tuple(Binding("t.topics", name, pattern) for name, pattern in patterns.items()),
    )
    assert declare(mq, topology) is None
    expected = {
        "x.y.z": {"exact", "star", "hash", "all", "middle"},
        "x.z": {"hash", "all", "middle"},
        "x": {"hash", "all"},
        "x.a.b.z": {"hash", "all", "middle"},
        "y": {"all"},
        "x..z": {"star", "hash", "all", "middle"},
    }
    for key in expected:
        assert publish(mq, b"", key, exchange="t.topics") is None
    got = {
        name: {each.routing_key for each in Deliveries(mq, name).some(sum(name in one for one in expected.values()))}
        for name in patterns
    }
    assert got == {name: {key for key, names in expected.items() if name in names} for name in patterns}


def test_a_removed_binding_routes_no_more_and_a_removed_queue_is_gone(mq: Broker) -> None:
    kept, gone = Binding(EXCHANGE, "t.r", "r.kept"), Binding(EXCHANGE, "t.r", "r.gone")
    assert declare(mq, Topology(queues=(Queue(name="t.r"),), bindings=(kept, gone))) is None
    assert publish(mq, b"1", "r.gone") is None
    assert remove(mq, Topology(bindings=(gone,))) is None
    assert isinstance(publish(mq, b"2", "r.gone"), Unroutable)
    assert publish(mq, b"3", "r.kept") is None
    assert [each.message.body for each in Deliveries(mq, "t.r", settle=lambda one: one.ack()).some(2)] == [b"1", b"3"]
    assert remove(mq, Topology(queues=(Queue(name="t.r"),))) is None
    assert remove(mq, Topology(queues=(Queue(name="t.r"),), bindings=(kept,))) is None  # it need not be there


def test_who_consumes_from_a_queue_that_another_removes_has_it_back(mq: Broker, connect: Connect) -> None:
    mine = Topology(queues=(Queue(name="t.mine"),), bindings=(Binding(EXCHANGE, "t.mine", "m"),))
    assert declare(mq, mine) is None
    deliveries = Deliveries(mq, "t.mine", settle=lambda one: one.ack())
    assert publish(mq, b"1", "m") is None
    assert deliveries.one().message.body == b"1"
    assert remove(connect(), Topology(queues=mine.queues)) is None
    deadline = time.monotonic() + 10
    while publish(mq, b"2", "m") is not None:
        assert time.monotonic() < deadline
    assert deliveries.one().message.body == b"2"


def test_of_single_active_consumers_the_next_takes_over(mq: Broker, connect: Connect) -> None:
    single = Queue(name="t.single", arguments={"x-single-active-consumer": True})
    assert declare(mq, Topology(queues=(single,))) is None
    other = connect()
    first, second = Deliveries(mq, "t.single"), None
    assert publish(mq, b"1", "t.single", exchange="") is None
    taken = first.one()
    second = Deliveries(other, "t.single")
    assert publish(mq, b"2", "t.single", exchange="") is None
    assert first.one().message.body == b"2"
    assert second.none(0.1)
    first.consumer.cancel()
    taken.requeue()
    assert second.one().message.body == b"1"


def test_declaring_the_same_again_is_fine(mq: Broker, connect: Connect) -> None:
    assert declare(mq, work_topology()) is None
    assert declare(connect(), work_topology()) is None


def test_declaring_a_queue_otherwise_is_refused_and_says_how_to_mend_it(mq: Broker) -> None:
    error = declare(mq, classic(WORK))
    assert isinstance(error, BrokerRefused)
    assert WORK in str(error)
    assert "queue type" in str(error)
    assert declare(mq, classic("t.after")) is None  # and the mq goes on


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_the_topologies_of_workers_and_clients_are_accepted(connect: Connect, queue_type: str) -> None:
    mq = connect()
    assert declare(mq, pool_topology("p", "s0", queue_type)) is None  # type: ignore[arg-type]
    assert declare(mq, reply_topology(mq.tenant, "r1")) is None
    assert publish(mq, b"", f"{mq.tenant}.p.any", exchange="kaasq.requests") is None
    Deliveries(mq, "kaasq.work.p").one().reject()
    assert Deliveries(mq, "kaasq.dead").one().routing_key == f"{mq.tenant}.p.any"


def test_a_queue_can_be_looked_at(mq: Broker, connect: Connect) -> None:
    assert inspect(mq, "t.nowhere") == Inspected(messages=0, consumers=0)
    assert publish(mq, b"waits") is None
    inspect_until(mq, WORK, Inspected(messages=1, consumers=0))
    other = connect()
    Deliveries(other, WORK).one()
    inspect_until(mq, WORK, Inspected(messages=0, consumers=1))
    other.close()
    inspect_until(mq, WORK, Inspected(messages=1, consumers=0))


def test_all_connections_to_a_broker_see_the_same_scope(connect: Connect) -> None:
    assert connect().scope == connect().scope


def test_a_cancelled_consumer_gets_no_more_but_may_settle_what_it_has(mq: Broker, connect: Connect) -> None:
    publish(mq, b"had")
    deliveries = Deliveries(mq, WORK)
    had = deliveries.one()
    deliveries.consumer.cancel()
    time.sleep(0.2)
    publish(mq, b"later")
    assert deliveries.none()
    had.ack()
    other = Deliveries(connect(), WORK)
    assert other.one().message.body == b"later"
    mq.close()
    assert other.none()  # "had" was acked: it does not come back


def test_what_a_closed_connection_had_comes_to_others_flagged(mq: Broker, connect: Connect) -> None:
    for number in range(3):
        publish(mq, b"%d" % number)
    Deliveries(mq, WORK).some(3)
    mq.close()
    again = Deliveries(connect(), WORK).some(3)
    assert {each.message.body for each in again} == {b"0", b"1", b"2"}
    assert all(each.redelivered for each in again)


def test_without_settling_a_message_is_gone_once_it_was_sent(mq: Broker, connect: Connect) -> None:
    taker = connect()
    taken: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    taker.consume(WORK, taken.put, on_gap=lambda: None)
    for number in range(20):
        publish(mq, b"%d" % number)
    deliveries = [taken.get(timeout=20) for _ in range(20)]
    assert [each.message.body for each in deliveries] == [b"%d" % number for number in range(20)]
    deliveries[0].requeue()
    deliveries[1].reject()
    taker.close()
    assert Deliveries(mq, WORK).none()
    assert Deliveries(mq, DEAD).none()


def test_a_consumer_without_settling_can_be_cancelled(mq: Broker, connect: Connect) -> None:
    taker = connect()
    taken: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    consumer = taker.consume(WORK, taken.put, on_gap=lambda: None)
    publish(mq, b"1")
    taken.get(timeout=20)
    consumer.cancel()
    deadline = time.monotonic() + 20
    others = Deliveries(mq, WORK, settle=lambda one: one.ack())
    while True:  # cancelling takes a moment
        publish(mq, b"2")
        if not others.none(0.1):
            break
        assert time.monotonic() < deadline


@pytest.mark.parametrize("prefetch", [1, 2, 5, 64])
def test_acks_make_room_for_the_next_whatever_the_prefetch(mq: Broker, prefetch: int) -> None:
    for number in range(60):
        mq.publish(Message(body=b"%d" % number), exchange=EXCHANGE, routing_key="a")
    deliveries = Deliveries(mq, WORK, prefetch=prefetch, settle=lambda one: one.ack())
    assert len(deliveries.some(60)) == 60


def test_what_was_acked_just_before_closing_is_gone(mq: Broker, connect: Connect) -> None:
    leaving = connect()
    for number in range(3):
        publish(mq, b"%d" % number)
    for each in Deliveries(leaving, WORK).some(3):
        each.ack()
    leaving.close()
    assert Deliveries(mq, WORK).none()


def test_acks_are_sent_before_long_without_any_other(mq: Broker, connect: Connect) -> None:
    taker = connect()
    publish(mq, b"1")
    publish(mq, b"2")
    deliveries = Deliveries(taker, WORK, prefetch=2)
    for each in deliveries.some(2):
        each.ack()
    publish(mq, b"3")
    assert deliveries.one().message.body == b"3"


def test_consumers_of_one_queue_share_it(mq: Broker, connect: Connect) -> None:
    one, other = Deliveries(mq, WORK, prefetch=2), Deliveries(connect(), WORK, prefetch=2)
    for _ in range(4):
        publish(mq, b"")
    one.some(2)
    other.some(2)


def test_the_memory_broker_refuses_what_is_too_large_too() -> None:
    mq = ready(MemoryBroker(MemoryNode(max_body_bytes=10)))
    assert isinstance(publish(mq, b"x" * 11), BrokerRefused)
    assert publish(mq, b"x" * 10) is None
    mq.close()


def test_a_consumer_may_come_before_its_queue(connect: Connect) -> None:
    mq = connect()
    deliveries = Deliveries(mq, "t.early")
    time.sleep(0.1)
    assert declare(mq, classic("t.early")) is None
    assert publish(mq, b"", "t.early", exchange="") is None
    deliveries.one()


def test_callbacks_run_on_one_thread_that_is_not_the_callers(mq: Broker) -> None:
    seen: set[int] = set()
    done = Outcomes()

    def note(*_: object) -> None:
        seen.add(threading.get_ident())
        done(None)

    mq.call_soon(note)
    mq.call_later(0.01, note)
    mq.declare(work_topology(), note)
    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", done=note)
    mq.consume(WORK, note, prefetch=1)
    done.some(5)
    assert len(seen) == 1
    assert threading.get_ident() not in seen


def test_call_later_waits_and_can_be_cancelled_from_any_thread(mq: Broker) -> None:
    done = Outcomes()
    start = time.monotonic()
    cancel = mq.call_later(0.05, lambda: done(BrokerLost("not cancelled")))
    cancel()

    def call_and_cancel() -> None:
        mq.call_later(0.05, lambda: done(BrokerLost("nor this")))()

    mq.call_soon(call_and_cancel)
    mq.call_later(0.1, lambda: done(None))
    assert done.one() is None
    assert time.monotonic() - start >= 0.09


def test_a_readable_file_descriptor_calls_back_until_removed(mq: Broker) -> None:
    read, write = os.pipe()
    done = Outcomes()

    def on_readable() -> None:
        os.read(read, 1)
        done(None)

    try:
        mq.add_reader(read, on_readable)
        for _ in range(3):
            os.write(write, b"x")
            assert done.one() is None
        mq.remove_reader(read)
        os.write(write, b"x")
        with pytest.raises(queue.Empty):
            done.one(0.1)
    finally:
        os.close(read)
        os.close(write)


def test_what_is_asked_before_opening_happens_then(new_broker: Connect) -> None:
    mq = new_broker()
    states = States(mq)
    declared, published = Outcomes(), Outcomes()
    mq.declare(work_topology(), declared)
    mq.open(20)
    assert declared.one() is None
    assert states.wait_for(State.CONNECTED) is None
    mq.publish(Message(body=b""), exchange=EXCHANGE, routing_key="a", mandatory=True, done=published)
    assert published.one() is None


def test_after_close_everything_is_told_that_it_is_lost(mq: Broker) -> None:
    mq.close()
    mq.close()
    assert isinstance(publish(mq, b""), BrokerLost)
    assert isinstance(declare(mq, work_topology()), BrokerLost)
    assert isinstance(inspect(mq, WORK), BrokerLost)
    mq.consume(WORK, lambda _: None, prefetch=1).cancel()
    mq.call_soon(lambda: None)
    mq.call_later(0.01, lambda: None)()
    with pytest.raises(BrokerRefused):
        mq.open(1)


def test_close_answers_every_publish(mq: Broker) -> None:
    done = Outcomes()
    for _ in range(3000):
        mq.publish(Message(body=b"x" * 1000), exchange=EXCHANGE, routing_key="a", done=done)
    mq.close()
    outcomes = done.some(3000)
    assert all(each is None or isinstance(each, BrokerLost) for each in outcomes)


def test_closing_in_the_midst_of_a_declaration_answers_it_and_says_nothing(
    mq: Broker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    done = Outcomes()
    for name in ("first", "second", "third"):
        mq.declare(reply_topology("ann", name), done)
    mq.close()
    assert all(each is None or isinstance(each, BrokerLost) for each in done.some(3))
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_close_works_from_a_callback(connect: Connect) -> None:
    mq = connect()
    mq.call_soon(mq.close)
    mq.close()
    error = publish(mq, b"")
    assert isinstance(error, BrokerLost)
    assert error.closed


def test_a_broker_leaves_no_thread_behind(connect: Connect) -> None:
    before = set(threading.enumerate())
    mq = connect()
    (mine,) = set(threading.enumerate()) - before
    assert mine.daemon
    mq.close()
    assert set(threading.enumerate()) <= before
