"""The broker that the tests start for themselves."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pika
import pytest

from kaasq_bench.rabbitmq.api import ManagementError
from kaasq_bench.rabbitmq.installation import NodeError
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.probing import probe
from real_broker import Broker, RealBroker, own_broker

QUEUE = "survivor"


def publish(url: str, body: bytes) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", QUEUE, body, pika.BasicProperties(delivery_mode=2))
    connection.close()


def take(url: str) -> bytes | None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    _, _, body = connection.channel().basic_get(QUEUE, auto_ack=True)
    connection.close()
    return body


def test_each_test_gets_a_vhost_of_its_own(rabbit_url: str, broker: RealBroker) -> None:
    publish(rabbit_url, b"mine")
    assert take(rabbit_url) == b"mine"
    if broker.management is not None:
        assert rabbit_url != broker.url


def test_a_killed_broker_comes_back_on_its_port_with_its_data(own_rabbit: Broker) -> None:
    url = own_rabbit.url
    publish(url, b"kept")
    time.sleep(1.0)  # younger quorum queues do not survive a kill: see RabbitNode
    own_rabbit.restart(graceful=False)
    assert own_rabbit.url == url
    assert take(url) == b"kept"


def test_a_user_without_permissions_is_refused(own_rabbit: Broker) -> None:
    own_rabbit.management.add_user("alice", "secret")
    own_rabbit.management.set_permissions("alice", configure="^$", write="^$", read="^$")
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
        publish(own_rabbit.url.replace("guest:guest", "alice:secret"), b"no")
    own_rabbit.management.delete_user("alice")


def test_a_closed_broker_leaves_nothing_behind() -> None:
    with own_broker() as node:
        url = node.url
        folder = node.folder if isinstance(node, RabbitNode) else None
        assert probe(url) == node.version
    with pytest.raises(ConnectionError):
        probe(url)
    if folder is None:
        return  # a container: the engine's to clean
    assert not folder.exists()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # ended meanwhile, or not ours
            assert str(folder).encode() not in environ.read_bytes()


def test_a_port_in_use_is_named(own_rabbit: Broker) -> None:
    port = int(own_rabbit.url.rpartition(":")[2].strip("/"))
    with pytest.raises(NodeError, match=f"port {port} is in use"):
        RabbitNode(port=port)


def test_a_refused_management_call_says_why(broker: RealBroker) -> None:
    if broker.management is None:
        pytest.fail("this broker's management API does not answer: set KAASQ_TEST_MANAGEMENT_URL")
    with pytest.raises(ManagementError, match="404"):
        broker.management.call("GET", "vhosts", "no-such-vhost")
