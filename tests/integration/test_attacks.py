"""What one tenant can do to another, tried on a real RabbitMQ with the definitions of ops/rabbitmq and a real worker.

The attacker is a tenant, ``mallory``: she has a login, knows the names of everything and the ids of everybody, and
speaks AMQP herself. ``ann`` is the tenant that she is after.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

import kaasq
from kaasq import cli, codec, topology
from kaasq.errors import NameNotFound
from kaasq.ids import new_id
from kaasq.messages import Cancel, Reply, Request, Stored
from kaasq.settings import Settings
from kaasq_workers.doctor.broker import check_broker
from rabbitmq.definitions import definitions
from real_broker import RealBroker
from tests.support import graphs
from tests.support.foreign import Program, forged_address
from tests.support.odd_properties import ODD, OddProperties
from tests.support.workers import RunningWorker, running_worker

X = np.arange(4, dtype=np.float32)
POOL = "p"
REFUSED = 403


class World:
    """A vhost with the project's definitions, its tenants and a worker."""

    def __init__(self, real: RealBroker, store: Path) -> None:
        self.vhost = f"t{secrets.token_hex(4)}"
        self.real, self.store = real, store
        self.mark = secrets.token_hex(3)  # users are those of the whole broker
        self.ann, self.mallory, self.worker = (f"{each}-{self.mark}" for each in ("ann", "mallory", "worker"))
        users = {"tenants": {self.ann: "a", self.mallory: "m"}, "workers": {self.worker: "w"}}
        real.management.call("POST", "definitions", body=definitions(users, self.vhost))
        self.running: RunningWorker

    def url(self, user: str) -> str:
        parts = urlsplit(self.real.url)
        return f"amqp://{user}:{user[0]}@{parts.hostname}:{parts.port}/{self.vhost}"

    def client(self, user: str) -> kaasq.Client:
        return kaasq.Client(self.url(user), store=self.store, pool=POOL, timeout=20)

    def close(self) -> None:
        self.real.management.delete_vhost(self.vhost)
        for each in (self.ann, self.mallory, self.worker):
            self.real.management.delete_user(each)


@pytest.fixture(scope="module")
def world(broker: RealBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("attacks")
    made = World(broker, folder / "store")
    (folder / "modules").mkdir()
    (folder / "secret.cu").write_text("the host's own")
    try:
        extra = ("--store-capacity", str(1 << 28), "--no-store-sync", "--modules", str(folder / "modules"))
        with running_worker(made.url(made.worker), POOL, made.store, *extra) as made.running:
            yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def ann(world: World) -> Iterator[kaasq.Client]:
    with world.client(world.ann) as client:
        client.run(graphs.saxpy(), x=X, y=X)  # her kernel is compiled, and her reply queue there
        yield client


class Attacker:
    """A connection of mallory's, or of another one's, without kaasq in between."""

    def __init__(self, world: World, user: str) -> None:
        self.world, self.user = world, user
        self.connection = pika.BlockingConnection(pika.URLParameters(world.url(user)))
        self.channel = self.connection.channel()
        self.replies = f"kaasq.reply.{user}.raw"
        self.channel.queue_declare(self.replies, durable=True, arguments={"x-expires": 60_000})
        self.channel.queue_bind(self.replies, topology.REPLIES, f"{user}.raw")
        self.channel.queue_bind(self.replies, topology.EVENTS, f"{user}.#")
        self.channel.confirm_delivery()

    def publish(self, body: bytes, *, exchange=topology.REQUESTS, key: str | None = None, **properties: Any) -> str:
        given = {
            "user_id": self.user,
            "message_id": new_id(),
            "reply_to": "raw",
            "content_type": codec.JSON,
            **properties,
        }
        key = topology.request_key(self.user, POOL) if key is None else key
        self.channel.basic_publish(exchange, key, body, pika.BasicProperties(**given))
        return given["message_id"]

    def request(self, request: Request, **properties: Any) -> str:
        return self.publish(codec.encode(request, codec.JSON), **properties)

    def reply(self, id_: str, timeout_s: float = 20.0) -> Reply:
        """The reply to that request, past everything else that came."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            method, properties, body = self.channel.basic_get(self.replies, auto_ack=True)
            if method is None:
                time.sleep(0.01)
            elif method.exchange == topology.REPLIES and properties.correlation_id == id_:
                return codec.decode_reply(body, properties.content_type)
        raise AssertionError(f"no reply to {id_}")

    def refused(self, act: Callable[[Any], object]) -> str:
        """What RabbitMQ says to that, on a channel of its own."""
        channel = self.connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as caught:
            act(channel)
        return f"{caught.value.reply_code} {caught.value.reply_text}"

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.connection.close()


@pytest.fixture
def mallory(world: World) -> Iterator[Attacker]:
    made = Attacker(world, world.mallory)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _worker_is_as_well_as_before(world: World, ann: kaasq.Client) -> Iterator[None]:
    """Whatever the attack was: ann's requests run on the same worker and the same executor."""
    executors = len([each for each in world.running.events() if each["event"] == "executor.died"])
    yield
    np.testing.assert_array_equal(ann.run(graphs.saxpy(), x=X, y=X)["out"], 3 * X)
    assert world.running.process.poll() is None
    assert len([each for each in world.running.events() if each["event"] == "executor.died"]) == executors


def saxpy(**changes: Any) -> Request:
    return Request(**{"graph": graphs.saxpy().freeze(), "bind": {"x": X.tobytes(), "y": X.tobytes()}, **changes})


def dead_letters(world: World) -> list[dict[str, Any]]:
    body = {"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}
    found: list[dict[str, Any]] = world.real.management.call(
        "POST", "queues", world.vhost, topology.DEAD, "get", body=body
    )
    return found


# ------------------------------------------------------------------------------------------------ who somebody is


def test_a_forged_user_id_is_refused_by_the_broker(world, mallory):
    body = codec.encode(saxpy(), codec.JSON)
    forged = pika.BasicProperties(user_id=world.ann, message_id="forged", reply_to="raw")
    key = topology.request_key(world.mallory, POOL)
    assert "406" in mallory.refused(lambda each: each.basic_publish(topology.REQUESTS, key, body, forged))


def test_a_request_without_user_is_nobodys_and_dead_lettered(world, mallory):
    mallory.request(saxpy(), user_id=None, message_id="of-nobody")
    mallory.reply(mallory.request(saxpy()))
    (letter,) = [each for each in dead_letters(world) if each["properties"].get("message_id") == "of-nobody"]
    assert letter["routing_key"] == "unknown.forbidden"


def test_requests_are_not_published_under_anothers_key(world, mallory):
    for exchange, key in (
        (topology.REQUESTS, topology.request_key(world.ann, POOL)),
        (topology.CONTROL, topology.control_key(world.ann, POOL)),
    ):
        assert str(REFUSED) in mallory.refused(lambda each, e=exchange, k=key: each.basic_publish(e, k, b"{}"))


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_carbon_copy_under_anothers_key_is_still_the_senders(world, ann, mallory, header):
    ann.put(X + 7, name="secret")
    stolen = saxpy(bind={"x": Stored(name="secret"), "y": X.tobytes()})
    copies = {header: [topology.request_key(world.ann, POOL)]}
    with contextlib.suppress(ChannelClosedByBroker):  # 3.10 lets it through, newer ones look at these keys as well
        id_ = mallory.request(stolen, headers=copies)
        assert mallory.reply(id_).error.code == "buffer_missing"


# ------------------------------------------------------------------------------------------------ what somebody has


def test_anothers_names_and_objects_cannot_be_read_or_guessed(world, ann, mallory):
    kept = ann.put(X + 5, name="model/w1")
    for stored in (Stored(name="model/w1"), Stored(ref=kept.ref)):
        reply = mallory.reply(mallory.request(saxpy(bind={"x": stored, "y": X.tobytes()})))
        assert reply.error.code == "buffer_missing"
    with world.client(world.mallory) as client:
        for key in ("model/w1", kept):
            with pytest.raises(NameNotFound):
                client.get(key)
            with pytest.raises(NameNotFound):
                client.delete(key)
    np.testing.assert_array_equal(ann.get("model/w1"), X + 5)


def test_putting_the_same_bytes_tells_nothing_about_anothers(world, ann):
    secret = X + 11
    ann.put(secret)
    with world.client(world.mallory) as client:
        made = client.put(secret, name="mine")
        assert client.buffers.objects()[0].ref == made.ref
        client.delete("mine")
    assert np.array_equal(ann.get(ann.put(secret)), secret)


def test_an_outcome_is_its_tenants_under_the_same_id(world, ann, mallory):
    anns = Attacker(world, world.ann)
    id_ = new_id()
    mine = anns.reply(anns.request(saxpy(scalars={"a": 9.0}), message_id=id_))
    theirs = mallory.reply(mallory.request(saxpy(), message_id=id_))
    assert np.frombuffer(mine.outputs["out"].inline, np.float32)[1] == 10
    assert np.frombuffer(theirs.outputs["out"].inline, np.float32)[1] == 3
    anns.close()


def test_a_name_with_a_nul_or_of_another_tenants_folder_is_no_way_in(world, ann, mallory):
    ann.put(X, name="w")
    for name in (f"../{world.ann}/w", f"{world.ann}\0w", f"\0{world.ann}\0w", "x" * 401):
        reply = mallory.reply(mallory.request(saxpy(bind={"x": Stored(name=name), "y": X.tobytes()})))
        assert reply.error.code in {"buffer_missing", "bad_request"}


# ------------------------------------------------------------------------------------------------ what somebody hears


def test_anothers_replies_and_events_are_not_heard(world, mallory):
    for exchange in (topology.REPLIES, topology.EVENTS):
        for pattern in (f"{world.ann}.#", "#", "*.raw", f"{world.mallory[:-1]}*.#"):
            said = mallory.refused(lambda each, e=exchange, p=pattern: each.queue_bind(mallory.replies, e, p))
            assert str(REFUSED) in said
    for exchange in (topology.REQUESTS, topology.DEAD, topology.CONTROL):
        assert str(REFUSED) in mallory.refused(lambda each, e=exchange: each.queue_bind(mallory.replies, e, "#"))


def test_an_exchange_of_ones_own_neither_hears_nor_says_more_than_its_tenant(world, ann, mallory):
    own = topology.register(world.mallory)
    mallory.channel.exchange_declare(own, "topic", durable=True)
    for source in (topology.REPLIES, topology.EVENTS):
        for pattern in (f"{world.ann}.#", "#", "*.raw"):
            said = mallory.refused(lambda each, e=source, p=pattern: each.exchange_bind(own, e, p))
            assert str(REFUSED) in said
    for target in (topology.REPLIES, topology.EVENTS, topology.DEAD):
        assert str(REFUSED) in mallory.refused(lambda each, e=target: each.exchange_bind(e, own, "#"))


def test_anothers_queues_are_neither_read_nor_emptied_nor_deleted(world, ann, mallory):
    theirs = [each["name"] for each in world.real.management.queues(world.vhost)]
    anns = next(each for each in theirs if each.startswith(f"kaasq.reply.{world.ann}."))
    for queue in (anns, topology.work_queue(POOL), topology.DEAD, topology.control_queue(POOL, "cpu")):
        assert queue in theirs
        for act in (
            lambda each, q=queue: each.basic_get(q),
            lambda each, q=queue: each.basic_consume(q, print),
            lambda each, q=queue: each.queue_purge(q),
            lambda each, q=queue: each.queue_delete(q),
            lambda each, q=queue: each.queue_bind(q, topology.EVENTS, f"{world.mallory}.#"),
        ):
            assert str(REFUSED) in mallory.refused(act)


def test_a_reply_to_that_names_anothers_queue_leads_nowhere(world, ann, mallory):
    reply_id = next(
        each["name"].rsplit(".", 1)[1]
        for each in world.real.management.queues(world.vhost)
        if each["name"].startswith(f"kaasq.reply.{world.ann}.")
    )
    # Her own key with ann's reply id; and things that are no reply id at all, which are refused and dead-lettered.
    mallory.request(saxpy(), reply_to=reply_id)
    for address in (f"{world.ann}.{reply_id}", f"kaasq.reply.{world.ann}.{reply_id}", "#", topology.DEAD):
        mallory.request(saxpy(), reply_to=address, message_id=f"to-{address}"[:100])
    mallory.reply(mallory.request(saxpy()))
    refused = {each["properties"].get("message_id") for each in dead_letters(world)}
    assert {f"to-{world.ann}.{reply_id}"[:100], "to-#", f"to-{topology.DEAD}"} <= refused


def test_forged_direct_addresses_cost_nobody_elses_reply(world, ann, mallory):
    before = len(world.running.events())
    mallory.request(saxpy(), reply_to=f"{topology.DIRECT_REPLY_TO}a.b", message_id="to-a.b")
    stop = threading.Event()

    def forge() -> None:
        attacker = Attacker(world, world.mallory)
        for number in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
            attacker.request(saxpy(), reply_to=forged_address(number))
        attacker.close()

    with ThreadPoolExecutor(1) as pool, Program(world.url(world.ann), POOL) as direct:
        forging = pool.submit(forge)
        try:
            for _ in range(20):
                np.testing.assert_array_equal(ann.run(graphs.saxpy(), x=X, y=X)["out"], 3 * X)
                assert direct.ask(codec.encode(saxpy(), codec.JSON))["status"] == "ok"
        finally:
            stop.set()
            forging.result(60)
    assert "to-a.b" in {each["properties"].get("message_id") for each in dead_letters(world)}
    told = world.running.events()[before:]
    failed = [each for each in told if each["event"] == "publish.failed"]
    assert {each["exchange"] for each in failed} <= {""}
    assert not [each for each in told if each["event"] in {"broker.blocked", "broker.lost"}]
    if world.real.version.startswith("3."):  # later ones take them for what they are
        assert [each for each in failed if "INTERNAL_ERROR" in each["error"]]


# ------------------------------------------------------------------------------------------------ what somebody forges


def test_nothing_is_published_as_a_worker(world, ann, mallory):
    reply = codec.encode(Reply(id="x", status="ok"), codec.JSON)
    for exchange, key in (
        (topology.REPLIES, f"{world.ann}.raw"),
        (topology.REPLIES, f"{world.mallory}.raw"),
        (topology.EVENTS, f"{world.ann}.saxpy.completed"),
        (topology.DEAD, f"{world.ann}.kernel_failed"),
        ("", topology.work_queue(POOL)),
        ("", topology.DEAD),
    ):
        assert str(REFUSED) in mallory.refused(lambda each, e=exchange, k=key: each.basic_publish(e, k, reply))


def test_a_queue_of_ones_own_does_not_forward_into_what_one_may_not_write(world, mallory):
    for exchange in (topology.REPLIES, topology.EVENTS, topology.DEAD):
        arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": f"{world.ann}.raw"}
        said = mallory.refused(
            lambda each, a=arguments: each.queue_declare(f"{mallory.replies}.x", durable=True, arguments=a)
        )
        assert str(REFUSED) in said


def test_exchanges_are_neither_made_nor_removed_by_tenants(world, mallory):
    for exchange in (*(each.name for each in topology.reply_topology("t", "r").exchanges), "kaasq.mine", "amq.topic"):
        assert str(REFUSED) in mallory.refused(lambda each, e=exchange: each.exchange_delete(e))
    assert str(REFUSED) in mallory.refused(lambda each: each.exchange_declare("kaasq.mine", "topic", durable=True))
    for queue in ("mine", "kaasq.work.mallorys", f"kaasq.reply.{world.ann}.more", f"kaasq.reply.{world.mallory}x.q"):
        assert str(REFUSED) in mallory.refused(lambda each, q=queue: each.queue_declare(q, durable=True))


def test_anothers_request_is_not_cancelled(world, ann, mallory):
    id_ = new_id()
    cancel = codec.encode(Cancel(cancel=id_), codec.JSON)
    mallory.publish(cancel, exchange=topology.CONTROL, key=topology.control_key(world.mallory, POOL))
    copied = {"CC": [topology.control_key(world.ann, POOL)]}
    with contextlib.suppress(ChannelClosedByBroker):
        mallory.publish(
            cancel, exchange=topology.CONTROL, key=topology.control_key(world.mallory, POOL), headers=copied
        )
    anns, again = Attacker(world, world.ann), Attacker(world, world.mallory)
    assert again.reply(again.request(saxpy(), message_id=id_)).status == "cancelled"  # hers it was
    assert anns.reply(anns.request(saxpy(), message_id=id_)).status == "ok"
    anns.close()
    again.close()


# ------------------------------------------------------------------------------------------------ bombs


def nested(depth: int) -> bytes:
    return b'{"graph": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (nested(100_000), codec.JSON),
        (b"\x81\xa5graph" + b"\x91" * 100_000, codec.MSGPACK),
        (b"\x81\xa5graph\xdd\xff\xff\xff\xff", codec.MSGPACK),  # an array that says to have four billion elements
        (b"\x81\xa5graph\xc6\xff\xff\xff\xff", codec.MSGPACK),  # bytes likewise
        (b"\xdf\xff\xff\xff\xff", codec.MSGPACK),
        (b'{"graph": "' + b"a" * 10_000_000, codec.JSON),
        (b'{"graph": {"name": "g", "iterations": 1e999}}', codec.JSON),
        (zlib.compress(b"\0" * 100_000_000), codec.MSGPACK),
    ],
    ids=["nested JSON", "nested MessagePack", "array", "bytes", "map", "text", "number", "compressed"],
)
def test_a_bomb_is_a_bad_request(mallory, body, content_type):
    assert mallory.reply(mallory.publish(body, content_type=content_type)).error.code == "bad_request"


def test_a_content_encoding_is_not_unpacked(mallory):
    body = zlib.compress(codec.encode(saxpy(), codec.JSON))
    assert mallory.reply(mallory.publish(body, content_encoding="deflate")).error.code == "bad_request"


def test_a_small_request_for_much_memory_is_refused(mallory):
    huge = kaasq.Graph("huge")
    out = huge.output("out", nbytes=1 << 40)
    huge.launch(kaasq.Module.from_source("__global__ void k(char*) {}").kernel("k"), grid=1, block=1, args=[out])
    spec = msgspec.json.encode({"graph": msgspec.to_builtins(huge.freeze())})
    assert mallory.reply(mallory.publish(spec)).error.code in {"out_of_memory", "bad_request"}


def test_an_oversized_message_costs_its_sender_the_channel(world, mallory):
    body = bytes(129 << 20)  # 128 MiB is RabbitMQ's own largest limit, 16 its default from 4.0 on
    key = topology.request_key(world.mallory, POOL)
    properties = pika.BasicProperties(user_id=world.mallory)
    said = mallory.refused(lambda each: each.basic_publish(topology.REQUESTS, key, body, properties))
    assert "larger than" in said


@pytest.mark.parametrize("headers", [{"x-death": "forged"}, {"x-death": [{"count": 1}]}, {"x": {"y": [1] * 1000}}])
def test_strange_headers_neither_stop_the_worker_nor_spoil_dead_letters(world, mallory, headers):
    id_ = f"expired-{secrets.token_hex(4)}"
    mallory.request(saxpy(), headers=headers, user_id=None, message_id=id_)
    assert mallory.reply(mallory.request(saxpy(), headers=headers)).status == "ok"
    assert id_ in {each["properties"].get("message_id") for each in dead_letters(world)}


def test_refused_requests_with_headers_that_nobody_can_read_hold_up_nobody(world, mallory):
    key = topology.request_key(world.mallory, POOL)
    for number in range(70):  # more than a worker takes at a time
        odd = ODD["a name that is none"]
        properties = OddProperties(odd, user_id=world.mallory, message_id=f"odd-{number}", reply_to="#")
        mallory.channel.basic_publish(topology.REQUESTS, key, b"{}", properties)
    assert mallory.reply(mallory.request(saxpy())).status == "ok"
    assert "odd-0" in {each["properties"].get("message_id") for each in dead_letters(world)}


# ------------------------------------------------------------------------------------------------ the worker's host


@pytest.mark.parametrize(
    "path", ["../secret.cu", "/etc/passwd", "a/../../secret.cu", "./../secret.cu", "..", "\0", "%2e%2e/secret.cu"]
)
def test_a_library_outside_of_the_module_folders_is_not_read(mallory, path):
    body = json.dumps(
        {"kernels": [{"library": path, "kernel": "k", "gridDim": 1, "blockDim": 1, "arguments": [], "type_list": []}]}
    ).encode()
    reply = mallory.reply(mallory.publish(body))
    assert reply.error.code in {"forbidden", "module_rejected", "bad_request"}
    assert "host's own" not in reply.error.message


def test_anothers_stored_library_is_not_run(ann, mallory):
    ann.put(graphs.SAXPY.encode(), name="kernels.cu")
    graph = kaasq.Graph("g")
    out = graph.output("out", shape=4, dtype="float32")
    module = kaasq.Module.from_library("@kernels.cu")
    graph.launch(module.kernel("saxpy"), grid=1, block=4, args=[out])
    reply = mallory.reply(mallory.request(Request(graph=graph.freeze())))
    assert reply.error.code == "module_rejected"


def test_a_tenant_subscribes_and_serves_with_no_more_permissions_than_these(world, ann):
    seen: list[str] = []
    poison = world.client(world.ann)

    @kaasq.on("saxpy.completed")
    def fails(event, step):
        seen.append(event.request_id)
        raise ValueError("a bug")

    service = kaasq.Service("chain", [fails], retries=kaasq.Retries(attempts=1))
    with poison, poison.events("saxpy.*", name="billing") as events, poison.serve(service):
        wanted = ann.submit(graphs.saxpy(), x=X, y=X)
        assert events.next(20).request_id == wanted.result(20).request_id
        letters = Attacker(world, world.ann)  # she may read her own
        deadline = time.monotonic() + 20
        while (letter := letters.channel.basic_get(topology.dead_events(world.ann)))[0] is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert letter[1].headers["kaasq-code"] == "handler_failed"
        letters.channel.basic_nack(letter[0].delivery_tag)
        cli.main(["events", "dead", "replay", "--all", "--broker", world.url(world.ann)])
        while len(seen) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        seen.pop()
        assert seen == [wanted.result().request_id]
        letters.close()
        names = [each.name for each in poison.subscriptions()]
        assert names == ["billing", "chain-fails"]
        assert all(poison.unsubscribe(each) for each in names)


def test_anothers_subscriptions_cannot_be_reached(world, ann, mallory):
    ann.events("saxpy.*", name="secret").close()
    for queue in (
        topology.event_queue(world.ann, "secret"),
        topology.register(world.ann),
        topology.dead_events(world.ann),
    ):
        for attempt in (
            lambda channel, queue=queue: channel.queue_purge(queue),
            lambda channel, queue=queue: channel.queue_delete(queue),
            lambda channel, queue=queue: channel.basic_get(queue),
            lambda channel, queue=queue: channel.queue_bind(queue, topology.EVENTS, f"{world.mallory}.#"),
        ):
            channel = mallory.connection.channel()
            with pytest.raises(ChannelClosedByBroker) as caught:
                attempt(channel)
            assert caught.value.reply_code == REFUSED
    assert ann.unsubscribe("secret")


def test_doctor_takes_each_login_for_what_it_may(world):
    def found(user):
        settings = Settings(broker_url=world.url(user), store=str(world.store), pool=POOL)
        return {each.check: (each.state, each.found) for each in check_broker(settings, None)}

    def queues():
        return {each["name"] for each in world.real.management.queues(world.vhost)}

    before = queues()
    worker = found(world.worker)
    assert worker["permissions"] == (
        "ok",
        "a worker's login: it may declare a worker's queues, and sends no requests",
    )
    assert worker["worker"][0] == "ok"
    assert worker["continuations"] == ("ok", "a worker with this login publishes what follows requests of any user")
    tenant = found(world.ann)
    assert tenant["permissions"] == ("ok", "may declare exchanges and reply queues")
    assert "answered in" in tenant["worker"][1]
    assert queues() == before
