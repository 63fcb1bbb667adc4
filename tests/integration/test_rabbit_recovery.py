"""RabbitBroker where RabbitMQ refuses, vanishes, comes back, or is short of memory."""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Iterator

import pika
import pytest

from kaasq.broker import Delivery, Message, State
from kaasq.errors import BrokerLost, BrokerRefused
from kaasq.rabbit import PublishLimits, RabbitBroker
from kaasq.rabbit.declaring import ABSENT_S
from kaasq.topology import Queue, Topology
from kaasq_faults.proxy import Proxy
from real_broker import Broker as Server
from tests.support.connections import close_connections
from tests.support.frames import FrameProxy, declares
from tests.support.logs import log_lines
from tests.support.messaging import (
    EXCHANGE,
    WORK,
    Deliveries,
    Outcomes,
    States,
    classic,
    declare,
    publish,
    ready,
)
from tests.support.waiting import until

pytestmark = pytest.mark.broker


@pytest.fixture
def mq(own_rabbit: Server) -> Iterator[RabbitBroker]:
    """An open broker with a fresh ``work_topology``, on a server that the test may mistreat."""
    broker = ready(RabbitBroker(own_rabbit.url))
    yield broker
    broker.close()
    for each in own_rabbit.management.queues():
        if not each["exclusive"]:  # those go with their connections, perhaps just now
            own_rabbit.management.call("DELETE", "queues", "/", each["name"])


def test_after_a_lost_connection_everything_is_there_again(own_rabbit: Server, mq: RabbitBroker) -> None:
    publish(mq, b"unsettled")
    deliveries = Deliveries(mq, WORK)
    stale = deliveries.one()
    states = States(mq)
    own_rabbit.ctl("close_all_connections", "a test")
    assert isinstance(states.wait_for(State.LOST), BrokerLost)
    assert states.wait_for(State.CONNECTED) is None
    again = deliveries.one()
    assert again.redelivered
    stale.ack()  # on another channel now: it must not settle anything
    assert deliveries.none()
    again.ack()
    assert publish(mq, b"new") is None
    deliveries.one().ack()


def test_a_consumer_without_settling_is_told_of_each_gap(own_rabbit: Server, mq: RabbitBroker) -> None:
    gaps: queue.SimpleQueue[None] = queue.SimpleQueue()
    taken: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    mq.consume(WORK, taken.put, on_gap=lambda: gaps.put(None))
    publish(mq, b"before")
    assert taken.get(timeout=20).message.body == b"before"
    assert gaps.empty()  # starting is none
    for _ in range(2):
        states = States(mq)
        close_connections(own_rabbit, " consume")
        assert isinstance(states.wait_for(State.LOST), BrokerLost)
        gaps.get(timeout=20)
        publish(mq, b"after")
        assert taken.get(timeout=20).message.body == b"after"
    assert gaps.empty()


def test_a_killed_server_loses_nothing_it_confirmed(own_rabbit: Server, mq: RabbitBroker) -> None:
    states = States(mq)
    outcomes: dict[bytes, Outcomes] = {}

    def send(number: int) -> None:
        body = b"%d" % number
        done = outcomes[body] = Outcomes()
        message = Message(body=body, message_id=str(number))
        mq.publish(message, exchange=EXCHANGE, routing_key="a", mandatory=True, done=done)

    # A quorum queue that is not 5 s old may never find a leader after kill -9 (3.10, 4.0: its term is not yet on disk).
    time.sleep(6)
    for number in range(3000):
        send(number)
    outcomes[b"100"].one()
    own_rabbit.kill()
    assert isinstance(states.wait_for(State.LOST), BrokerLost)
    for number in range(3000, 3100):  # these wait for the server to come back
        send(number)
    time.sleep(0.5)
    own_rabbit.start()
    assert states.wait_for(State.CONNECTED, 30) is None
    outcomes.pop(b"100")
    told = {body: done.one() for body, done in outcomes.items()}
    assert all(error is None or isinstance(error, BrokerLost) for error in told.values())
    assert all(told[b"%d" % number] is None for number in range(3000, 3100))
    confirmed = {body for body, error in told.items() if error is None}
    deliveries = Deliveries(mq, WORK, settle=lambda one: one.ack(), prefetch=500)
    arrived: set[bytes] = set()
    while not confirmed <= arrived:
        arrived.add(deliveries.one().message.body)


def test_waiting_publishes_are_bounded(own_rabbit: Server) -> None:
    broker = RabbitBroker(own_rabbit.url, limits=PublishLimits(unconfirmed=1, waiting=10, waiting_bytes=1000))
    done = Outcomes()
    for _ in range(12):  # before open(), so all of them wait
        broker.publish(Message(body=b"x"), exchange="", routing_key="no-queue", done=done)
    broker.publish(Message(body=b"x" * 2000), exchange="", routing_key="no-queue", done=done)
    broker.open(10)
    told = done.some(13)
    assert [isinstance(each, BrokerLost) for each in told] == [True] * 3 + [False] * 10
    assert told[3:] == [None] * 10
    broker.close()


def test_what_is_never_confirmed_is_told_so_and_makes_room(own_rabbit: Server) -> None:
    limits = PublishLimits(unconfirmed=1, confirm_timeout_s=0.5)
    with Proxy(own_rabbit.url) as proxy:
        mq = RabbitBroker(proxy.url, limits=limits)
        mq.open(10)
        proxy.silence()
        done = Outcomes()
        for _ in range(2):  # the second waits for the first one's place
            mq.publish(Message(body=b""), exchange="", routing_key="no-queue", done=done)
        assert all(isinstance(each, BrokerLost) for each in done.some(2))
        proxy.resume()
        assert publish(mq, b"", "no-queue", exchange="", mandatory=False) is None
        mq.close()


def test_a_lost_publish_connection_blocks_publishing_but_not_acks(own_rabbit: Server, mq: RabbitBroker) -> None:
    publish(mq, b"first")
    deliveries = Deliveries(mq, WORK)
    delivery = deliveries.one()
    states = States(mq)
    close_connections(own_rabbit, "publish")
    assert isinstance(states.wait_for(State.BLOCKED), BrokerLost)
    delivery.ack()
    assert states.wait_for(State.UNBLOCKED) is None
    assert publish(mq, b"second") is None
    second = deliveries.one()
    assert (second.message.body, second.redelivered) == (b"second", False)


def test_a_memory_alarm_blocks_publishing_but_not_acks(own_rabbit: Server, mq: RabbitBroker) -> None:
    for _ in range(2):
        publish(mq, b"x")
    deliveries = Deliveries(mq, WORK, prefetch=1)
    first = deliveries.one()
    states = States(mq)
    done = Outcomes()
    own_rabbit.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        mq.publish(Message(body=b"waits"), exchange=EXCHANGE, routing_key="a", done=done)
        states.wait_for(State.BLOCKED)
        first.ack()
        deliveries.one().ack()
        with pytest.raises(queue.Empty):
            done.one(0.2)
    finally:
        own_rabbit.ctl("set_vm_memory_high_watermark", "0.6")
    states.wait_for(State.UNBLOCKED)
    assert done.one() is None
    assert deliveries.one().message.body == b"waits"


def test_a_consumer_survives_the_deletion_of_its_queue(own_rabbit: Server, mq: RabbitBroker) -> None:
    deliveries = Deliveries(mq, WORK)
    assert publish(mq, b"before") is None
    deliveries.one()
    own_rabbit.management.call("DELETE", "queues", "/", WORK)
    deadline = time.monotonic() + 10
    while (error := publish(mq, b"after")) is not None:
        assert time.monotonic() < deadline, error
        time.sleep(0.05)
    assert deliveries.one().message.body == b"after"


def test_a_consumer_that_is_given_up_before_it_could_consume_again_leaves_no_channel(
    own_rabbit: Server, mq: RabbitBroker
) -> None:
    def channels() -> int:
        return own_rabbit.ctl("-q", "list_channels", "pid").count("<")

    before, name = channels(), "kaasq.test.deleted"
    declare(mq, Topology(queues=(Queue(name=name),)))
    consumer = mq.consume(name, lambda delivery: delivery.ack())
    until(lambda: consumer.consuming)
    assert channels() == before + 1

    def give_up() -> None:
        if consumer.consuming:
            mq.call_later(0.001, give_up)
        else:
            consumer.cancel()

    mq.call_soon(give_up)
    own_rabbit.management.call("DELETE", "queues", "/", name)
    until(lambda: channels() == before)


def limit_messages(rabbit: Server, limit: int) -> None:
    """Set max_message_size of a running node: RabbitMQ 3.10 reads the first at each channel, 4.x the second."""
    rabbit.ctl("eval", f"application:set_env(rabbit, max_message_size, {limit}).")
    rabbit.ctl("eval", f"persistent_term:put(max_message_size, {limit}).")


def test_an_oversize_message_is_refused_and_others_go_on(own_rabbit: Server) -> None:
    limit_messages(own_rabbit, 1_000_000)
    mq = RabbitBroker(own_rabbit.url)
    try:
        mq.open(10)
        assert declare(mq, classic("t.sizes")) is None
        done = [Outcomes() for _ in range(21)]
        for number, each in enumerate(done):
            body = b"x" * (1_000_001 if number == 10 else 10)
            mq.publish(Message(body=body), exchange="", routing_key="t.sizes", done=each)
        told = [each.one() for each in done]
        assert isinstance(told[10], BrokerRefused)
        assert told[10].limit == 1_000_000
        assert all(each is None or isinstance(each, BrokerLost) for each in told[:10] + told[11:])
        # now it is known, and costs the others nothing
        for number, each in enumerate(done):
            body = b"x" * (2_000_000 if number == 10 else 10)
            mq.publish(Message(body=body), exchange="", routing_key="t.sizes", done=each)
        told = [each.one() for each in done]
        assert isinstance(told[10], BrokerRefused)
        assert told[:10] + told[11:] == [None] * 20
    finally:
        limit_messages(own_rabbit, 134_217_728)
        mq.close()


class Poison(pika.BasicProperties):
    """A header that pika cannot read: a date after year 9999."""

    def encode(self) -> list[bytes]:
        entry = b"\x04date" + b"T" + struct.pack(">Q", 2**60)
        return [struct.pack(">H", self.FLAG_HEADERS), struct.pack(">I", len(entry)), entry]


def test_properties_that_pika_cannot_read_cost_no_connection(own_rabbit: Server, mq: RabbitBroker) -> None:
    states = States(mq)
    deliveries = Deliveries(mq, WORK, settle=lambda one: one.ack())
    foreign = pika.BlockingConnection(pika.URLParameters(own_rabbit.url))
    for _ in range(3):
        foreign.channel().basic_publish(EXCHANGE, "a", b"poison", Poison())
    assert [each.message.body for each in deliveries.some(3)] == [b"poison"] * 3
    foreign.close()
    assert publish(mq, Message(body=b"sane", headers={"n": 1})) is None
    sane = deliveries.one()
    assert (sane.message.body, sane.message.headers) == (b"sane", {"n": 1})
    with pytest.raises(queue.Empty):
        states.wait_for(State.LOST, 0.3)


class Nested(pika.BasicProperties):
    """Tables in tables: from some depth on pika cannot read them, and from another on not write them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth

    def encode(self) -> list[bytes]:
        table = struct.pack(">I", 0)
        for _ in range(self.depth):
            table = struct.pack(">I", len(table) + 3) + b"\x01tF" + table
        return [struct.pack(">H", self.FLAG_HEADERS), table]


def test_deeply_nested_headers_cost_no_connection_and_no_other_publish(own_rabbit: Server, mq: RabbitBroker) -> None:
    states = States(mq)
    sent = Outcomes()

    def send_on(delivery: Delivery) -> None:
        delivery.ack()
        headers = delivery.message.headers
        mq.publish(Message(body=b""), exchange="", routing_key="nowhere", done=sent)
        mq.publish(Message(body=b"", headers=headers), exchange="", routing_key="nowhere", done=lambda _: sent(None))
        mq.publish(Message(body=b""), exchange="", routing_key="nowhere", done=sent)

    depths = range(400, 520)
    foreign = pika.BlockingConnection(pika.URLParameters(own_rabbit.url))
    channel = foreign.channel()
    channel.confirm_delivery()  # a quorum queue loses what a channel that closes had not handed on to it yet
    for depth in depths:
        channel.basic_publish(EXCHANGE, "a", b"%d" % depth, Nested(depth))
    foreign.close()
    deliveries = Deliveries(mq, WORK, settle=send_on, prefetch=1)
    arrived = {int(deliveries.one().message.body) for _ in depths}
    assert arrived == set(depths)
    assert sent.some(3 * len(depths)) == [None] * 3 * len(depths)
    with pytest.raises(queue.Empty):
        states.wait_for(State.LOST, 0.3)


def test_headers_beyond_the_negotiated_frame_are_refused(own_rabbit: Server) -> None:
    mq = RabbitBroker(f"{own_rabbit.url}?frame_max=8192")
    mq.open(10)
    message = Message(body=b"x" * 20_000, headers={"big": "x" * 8200})
    error = publish(mq, message, "nowhere", exchange="", mandatory=False)
    assert isinstance(error, BrokerRefused)
    assert error.limit == 8192
    fits = Message(body=b"x" * 20_000, headers={"big": "x" * 8000})
    assert publish(mq, fits, "nowhere", exchange="", mandatory=False) is None
    mq.close()


def test_a_rejection_costs_no_other_publish(own_rabbit: Server, mq: RabbitBroker) -> None:
    full = Queue(name="t.full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    assert declare(mq, Topology(queues=(full,))) is None
    assert publish(mq, b"first", "t.full", exchange="") is None
    done, rejected = Outcomes(), Outcomes()
    for number in range(300):
        mq.publish(Message(body=b"%d" % number), exchange=EXCHANGE, routing_key="a.b", done=done)
        if number % 50 == 0:
            mq.publish(Message(body=b"more"), exchange="", routing_key="t.full", done=rejected)
    assert done.some(300) == [None] * 300
    assert all(isinstance(each, BrokerRefused) and each.rejected for each in rejected.some(6))
    assert publish(mq, b"later") is None


def test_a_lost_broker_is_told_of_in_two_lines(own_rabbit: Server) -> None:
    with log_lines() as logs:
        with Proxy(own_rabbit.url) as proxy:
            mq = RabbitBroker(proxy.url)
            states = States(mq)
            mq.open(10)
            states.wait_for(State.CONNECTED)
            own_rabbit.ctl("close_all_connections", "a test")
            states.wait_for(State.LOST)
            states.wait_for(State.CONNECTED)
            mq.close()
    lines = [each for each in logs if each["log_level"] != "debug"]
    assert [(each["event"], each["log_level"]) for each in lines] == [
        ("broker.connected", "info"),
        ("broker.lost", "warning"),
        ("broker.connected", "warning"),
    ]
    assert lines[1]["error"].endswith("CONNECTION_FORCED - a test")


def test_a_broker_that_is_away_is_told_of_once_not_for_each_attempt(own_rabbit: Server) -> None:
    with log_lines() as logs:
        with Proxy(own_rabbit.url) as proxy:
            mq = RabbitBroker(proxy.url, max_pause_s=0.1)
            mq.open(10)
            states = States(mq)
        states.wait_for(State.LOST)
        deadline = time.monotonic() + 20
        while sum(each["event"] == "connection.failed" for each in logs) <= 10:
            assert time.monotonic() < deadline, logs
            time.sleep(0.01)
        mq.close()
    lost = [each for each in logs if each["log_level"] == "warning"]
    assert [each["event"] for each in lost] == ["broker.lost"]
    assert not any(word in lost[0]["error"] for word in ("Error", "(", "'"))


def test_a_queue_whose_declaration_is_not_answered_after_a_reconnect_is_let_go(own_rabbit: Server) -> None:
    """As RabbitMQ 4.3 leaves it for a minute where the queue's node is down."""
    with FrameProxy(own_rabbit.url) as proxy:
        mq = ready(RabbitBroker(proxy.url))
        declared, absent = Outcomes(), threading.Event()
        mq.declare(classic("t.replies"), declared, absent.set)
        assert declared.one() is None
        deliveries, states = Deliveries(mq, WORK), States(mq)
        proxy.holds = declares("t.replies")
        began = time.monotonic()
        close_connections(own_rabbit, " consume")
        states.wait_for(State.LOST)
        assert states.wait_for(State.CONNECTED) is None  # without it
        assert absent.is_set()
        assert time.monotonic() - began >= ABSENT_S
        assert len(proxy.held) == 1
        assert publish(mq, b"others") is None
        deliveries.one().ack()
        close_connections(own_rabbit, " consume")
        states.wait_for(State.LOST)
        assert states.wait_for(State.CONNECTED) is None
        assert len(proxy.held) == 1  # not declared again
        mq.close()


@pytest.mark.parametrize("waits", [True, False], ids=["nobody asked to hear of it", "it is answered late"])
def test_a_queue_whose_declaration_is_answered_late_is_kept(own_rabbit: Server, waits: bool) -> None:
    with FrameProxy(own_rabbit.url) as proxy:
        mq = ready(RabbitBroker(proxy.url))
        declared, absent = Outcomes(), threading.Event()
        mq.declare(classic("t.replies"), declared, None if waits else absent.set)
        assert declared.one() is None
        states = States(mq)
        proxy.holds = declares("t.replies")
        close_connections(own_rabbit, " consume")
        states.wait_for(State.LOST)
        deadline = time.monotonic() + 10
        while not proxy.held:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(ABSENT_S * (1.3 if waits else 0.2))
        proxy.let_go()
        assert states.wait_for(State.CONNECTED) is None
        assert len(proxy.held) == 1
        assert not absent.is_set()
        mq.close()


def test_a_refused_declaration_is_told_to_who_asked_and_not_to_the_log(mq: RabbitBroker) -> None:
    with log_lines() as logs:
        assert isinstance(declare(mq, classic(WORK)), BrokerRefused)
    (line,) = [each for each in logs if each["event"] == "declare.refused"]
    assert line["log_level"] == "debug"
    assert "Queue(" not in line["what"]


def test_a_wrong_password_is_told_at_once(own_rabbit: Server) -> None:
    start = time.monotonic()
    with pytest.raises(BrokerRefused, match="user 'guest' for virtual host '/'") as caught:
        RabbitBroker(own_rabbit.url.replace("guest@", "wrong@")).open(20)
    assert time.monotonic() - start < 10
    assert "wrong@" not in str(caught.value)


def test_a_missing_virtual_host_is_named(own_rabbit: Server) -> None:
    with pytest.raises(BrokerRefused, match="no virtual host 'nowhere'"):
        RabbitBroker(f"{own_rabbit.url}nowhere").open(20)


def test_missing_permissions_are_refused_by_name(own_rabbit: Server) -> None:
    own_rabbit.management.add_user("alice", "secret")
    own_rabbit.management.set_permissions("alice", configure="^t.mine", write="^$", read="^$")
    mq = RabbitBroker(own_rabbit.url.replace("guest:guest", "alice:secret"))
    try:
        mq.open(20)
        assert mq.tenant == "alice"
        error = declare(mq, classic("t.others"))
        assert isinstance(error, BrokerRefused)
        assert "t.others" in str(error)
        assert declare(mq, classic("t.mine")) is None
        assert isinstance(publish(mq, b"", "t.mine", exchange=""), BrokerRefused)
        states = States(mq)
        Deliveries(mq, "t.mine")
        assert isinstance(states.wait_for(State.FAILED), BrokerRefused)
    finally:
        mq.close()
        own_rabbit.management.delete_user("alice")


def test_nobody_listening_is_told_with_host_and_port() -> None:
    start = time.monotonic()
    with pytest.raises(BrokerLost, match="localhost:1: start RabbitMQ there") as caught:
        RabbitBroker("amqp://guest:guest@localhost:1/").open(0.5)
    assert time.monotonic() - start < 20  # not the minutes that reconnecting may take
    assert (caught.value.host, caught.value.port) == ("localhost", 1)


def test_opening_waits_for_a_server_that_is_starting(own_rabbit: Server) -> None:
    with Proxy(own_rabbit.url) as proxy:
        proxy.silence()
        with pytest.raises(BrokerLost, match="no answer"):
            RabbitBroker(proxy.url).open(0.3)
        timer = threading.Timer(0.3, proxy.resume)
        timer.start()
        mq = RabbitBroker(proxy.url)
        mq.open(10)
        mq.close()
        timer.join()


def test_reconnecting_ends_when_it_is_told_to(own_rabbit: Server) -> None:
    with Proxy(own_rabbit.url) as proxy:
        mq = RabbitBroker(proxy.url, give_up_s=0.3, max_pause_s=0.2)
        mq.open(10)
        states = States(mq)
    # the proxy is gone: nobody listens there any more
    states.wait_for(State.LOST)
    assert isinstance(states.wait_for(State.FAILED), BrokerLost)
    assert isinstance(publish(mq, b""), BrokerLost)
    mq.close()


@pytest.mark.parametrize(
    "url", ["http://localhost", "amqp://", "localhost:5672", "amqp://guest@localhost", "amqp://g:secret@h:port/", ""]
)
def test_what_is_no_broker_url_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(BrokerRefused, match="amqp://user:password@host") as caught:
        RabbitBroker(url)
    assert "secret" not in str(caught.value)
