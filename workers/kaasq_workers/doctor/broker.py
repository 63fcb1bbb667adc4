"""Whether the broker lets one in and may be used, and whether a worker of the pool answers."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from kaasq import codec
from kaasq.broker import Broker, Delivery, Done, Message, wait_for
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, ReplyTimeout, Unroutable
from kaasq.ids import new_id
from kaasq.messages import Cancel, Request
from kaasq.rabbit import RabbitBroker
from kaasq.served import is_served
from kaasq.settings import Settings
from kaasq.topology import (
    CONTROL,
    REPLIES,
    REQUESTS,
    Topology,
    control_key,
    reply_key,
    reply_queue,
    reply_topology,
    request_key,
    slot_topology,
)
from kaasq_workers.doctor.finding import Finding
from kaasq_workers.doctor.probe import probe

CHECK_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
STRANGER = "kaasq-doctor"  # in whose name it tries to publish


def check_broker(settings: Settings, store_id: str | None) -> Iterator[Finding]:
    """Connection, permissions, and whether a worker of the pool answers."""
    try:
        broker = RabbitBroker(settings.connection_url, connection_name="kaasq doctor", impersonates=True)
        broker.open(min(settings.connect_timeout, CONNECT_TIMEOUT_S))
    except KaasqError as error:
        yield not_reached(error)
        return
    try:
        yield Finding("broker", "ok", f"connected as {broker.tenant}")
        refused = _refused(broker, reply_topology(broker.tenant, new_id()))
        serves = refused is not None and _refused(broker, slot_topology(settings.pool, f"doctor-{new_id()}")) is None
        yield _permissions(broker.tenant, refused, serves=serves)
        if serves:
            yield _served(broker, settings.pool) or Finding(
                "worker",
                "ok",
                f"one takes requests of pool {settings.pool!r}; a client's login can ask it",
            )
        elif refused is None:
            yield from _request(broker, settings, store_id)
        if serves or refused is None:
            yield _continuations(broker)
    finally:
        broker.close()


def not_reached(error: KaasqError) -> Finding:
    """What to do if there is no connection."""
    hint = (
        "Start one (docker run -p 5672:5672 rabbitmq:4, or apt-get install rabbitmq-server), or name yours with "
        "--broker or KAASQ_BROKER_URL."
        if isinstance(error, BrokerLost)
        else "Correct form, user, password and virtual host of the URL, or have the user given access."
    )
    return Finding("broker", "broken", error.message, hint)


def _refused(broker: Broker, topology: Topology) -> KaasqError | None:
    """Why that may not be declared; None if it may. Its queues are not left behind."""
    try:
        _wait(lambda done: broker.declare(topology, done))
    except KaasqError as error:
        return error
    with suppress(KaasqError):
        _wait(lambda done: broker.remove(topology, done))
    return None


def _permissions(tenant: str, refused: KaasqError | None, *, serves: bool) -> Finding:
    """What the login may do. ``serves``: what a worker declares, it may, and that is all that a worker's may."""
    if refused is None:
        return Finding("permissions", "ok", "may declare exchanges and reply queues")
    if serves:
        return Finding("permissions", "ok", "a worker's login: it may declare a worker's queues, and sends no requests")
    hint = f"rabbitmqctl set_permissions {tenant} '^kaasq\\.' '^kaasq\\.' '^kaasq\\.'"
    return Finding("permissions", "broken", refused.message, hint)


def _served(broker: Broker, pool: str) -> Finding | None:
    """Whether nobody takes the pool's requests."""
    if is_served(broker, pool, CHECK_TIMEOUT_S):
        return None
    return Finding("worker", "warning", f"nobody takes requests of pool {pool!r} now", _start(pool))


def _start(pool: str) -> str:
    return f"Start one: kaasq worker --pool {pool}"


def _continuations(broker: Broker) -> Finding:
    """Whether a worker with this login may publish what follows a request of another user. Last: a no costs a channel.

    To nobody: no queue is bound to that key.
    """
    message = Message(body=b"", user_id=STRANGER)
    key = reply_key(STRANGER, new_id())
    try:
        _wait(lambda done: broker.publish(message, exchange=REPLIES, routing_key=key, done=done))
    except BrokerRefused:
        found = f"a worker with this login publishes what follows requests of {broker.tenant} only"
        hint = f"If it serves other users: rabbitmqctl set_user_tags {broker.tenant} impersonator (and its other tags)"
        return Finding("continuations", "ok", f"{found}. {hint}.")
    except KaasqError as error:
        return Finding("continuations", "warning", error.message)
    return Finding("continuations", "ok", "a worker with this login publishes what follows requests of any user")


def _request(broker: Broker, settings: Settings, store_id: str | None) -> Iterator[Finding]:
    """The whole way: a request of one tiny kernel to the pool, if anybody takes some there. None of it is left behind:
    what expires in the queue would be a dead letter, so the worker keeps the deadline, and is told if nobody waits.
    """
    start = _start(settings.pool)
    unserved = _served(broker, settings.pool)
    if unserved is not None:
        yield unserved
        return
    reply_id, request_id = new_id(), new_id()
    collects = reply_topology(broker.tenant, reply_id)
    replies: queue.Queue[Message] = queue.Queue()

    def on_delivery(delivery: Delivery) -> None:
        delivery.ack()
        replies.put(delivery.message)

    started = time.perf_counter()
    try:
        _wait(lambda done: broker.declare(collects, done))
        broker.consume(reply_queue(broker.tenant, reply_id), on_delivery, prefetch=1)
        request = Request(graph=probe(), timeout_ms=int(ANSWER_TIMEOUT_S * 1000))
        message = _message(broker, request_id, request, reply_id)
        key = request_key(broker.tenant, settings.pool)
        _wait(lambda done: broker.publish(message, exchange=REQUESTS, routing_key=key, mandatory=True, done=done))
        answer = replies.get(timeout=ANSWER_TIMEOUT_S)
        reply = codec.decode_reply(answer.body, answer.content_type)
    except Unroutable:
        yield Finding("worker", "warning", f"no worker ever served pool {settings.pool!r}", start)
        return
    except queue.Empty:
        _withdraw(broker, settings.pool, request_id)
        found = f"pool {settings.pool!r} has a queue, but no worker answered within {ANSWER_TIMEOUT_S:g} s"
        yield Finding("worker", "warning", found, f"They are busy, or gone. {start}")
        return
    except KaasqError as error:
        yield Finding("worker", "broken", error.message)
        return
    finally:
        with suppress(KaasqError):
            _wait(lambda done: broker.remove(collects, done))
    took_ms = (time.perf_counter() - started) * 1e3
    if reply.error is not None or reply.worker is None:
        yield Finding("worker", "broken", reply.error.message if reply.error else "it sent an empty answer")
        return
    yield Finding("worker", "ok", f"{reply.worker.device} on {reply.worker.host} answered in {took_ms:.0f} ms")
    theirs = reply.worker.store
    if store_id is not None and theirs != store_id:
        yield Finding(
            "store",
            "warning",
            f"the worker uses another store{f' ({theirs})' if theirs else ''} than the one named here: large inputs "
            "and names will not be found",
            "Give both the same --store (or KAASQ_STORE), on one host: a worker logs its own in executor.ready.",
        )


def _withdraw(broker: Broker, pool: str, request_id: str) -> None:
    """Tell the pool's workers that nobody waits. If they do not hear it: its time is over anyhow."""
    message = _message(broker, new_id(), Cancel(cancel=request_id))
    key = control_key(broker.tenant, pool)
    with suppress(KaasqError):
        _wait(lambda done: broker.publish(message, exchange=CONTROL, routing_key=key, done=done))


def _message(broker: Broker, message_id: str, body: Request | Cancel, reply_to: str | None = None) -> Message:
    return Message(
        body=codec.encode(body),
        content_type=codec.MSGPACK,
        message_id=message_id,
        user_id=broker.tenant,
        reply_to=reply_to,
        timestamp_ms=int(time.time() * 1000),
    )


def _wait(operation: Callable[[Done], object]) -> None:
    try:
        wait_for(operation, CHECK_TIMEOUT_S)
    except TimeoutError:
        raise ReplyTimeout(f"the broker did not answer within {CHECK_TIMEOUT_S:.0f} s") from None
