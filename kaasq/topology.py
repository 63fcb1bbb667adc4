"""The broker's exchanges, queues and routing keys: what is declared, and under which name. Pure data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

REQUESTS = "kaasq.requests"
REPLIES = "kaasq.replies"
EVENTS = "kaasq.events"
DEAD = "kaasq.dead"
DEAD_READER = "kaasq.dead.reader"
"""An exclusive queue: who holds it reads the dead letters."""
CONTROL = "kaasq.control"

QueueType = Literal["quorum", "classic"]

DELIVERY_LIMIT = 20
REPLY_QUEUE_EXPIRES_MS = 10 * 60 * 1000
CONTROL_EXPIRES_MS = 24 * 3600 * 1000  # a worker that is away for a while still hears what was cancelled meanwhile
CONTROL_LENGTH = 100_000
LISTENER_EXPIRES_MS = 10 * 60 * 1000  # a subscription without a name outlives its connection by this
LISTENER_LENGTH = 10_000
REGISTER_LENGTH = 10_000
NOTE = "note"
"""Routing key of a note on the tenant's own exchange."""
SLOT_WANTED = "kaasq.slot.wanted"
"""Type of a message in a slot's control queue that asks whether anybody serves the slot: who does takes it out."""
STEP = "kaasq.step"
"""Type of messages that are steps of workflows."""
DIRECT_REPLY_TO = "amq.rabbitmq.reply-to."


class Exchange(msgspec.Struct, frozen=True):
    """A durable topic exchange."""

    name: str


class Binding(msgspec.Struct, frozen=True):
    """A queue receives what is published to an exchange under keys that match the pattern."""

    exchange: str
    queue: str
    pattern: str


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """A queue and how it is declared."""

    name: str
    durable: bool = True
    arguments: dict[str, str | int] = {}


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """Objects to declare, in this order: exchanges, queues, bindings."""

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()


def without(declared: Iterable[Topology], removed: Topology) -> list[Topology]:
    """What is left of topologies once queues and bindings were removed; a removed queue takes its bindings along."""
    gone = {each.name for each in removed.queues}
    left: list[Topology] = []
    for each in declared:
        queues = tuple(queue for queue in each.queues if queue.name not in gone)
        bindings = tuple(one for one in each.bindings if one.queue not in gone and one not in removed.bindings)
        if queues or bindings or not (each.queues or each.bindings):
            left.append(Topology(exchanges=each.exchanges, queues=queues, bindings=bindings))
    return left


_EXCHANGES = tuple(Exchange(name) for name in (REQUESTS, REPLIES, EVENTS, DEAD, CONTROL))


def pool_topology(pool: str, slot: str, queue_type: QueueType = "quorum") -> Topology:
    """What a worker declares: exchanges, dead letters, its pool's queue, and its slot's for work and for control."""
    shared, own, control = work_queue(pool), work_queue(pool, slot), control_queue(pool, slot)
    return Topology(
        exchanges=_EXCHANGES,
        queues=(
            Queue(name=DEAD, arguments=_DEAD_ARGUMENTS),
            Queue(name=shared, arguments=_work_arguments(queue_type)),
            Queue(name=own, arguments=_work_arguments(queue_type)),
            Queue(name=control, arguments=_CONTROL_ARGUMENTS),
        ),
        bindings=(
            Binding(DEAD, DEAD, "#"),
            Binding(REQUESTS, shared, f"*.{pool}.any"),
            Binding(REQUESTS, own, f"*.{pool}.{slot}"),
            Binding(CONTROL, control, f"*.{pool}"),
        ),
    )


def slot_topology(pool: str, slot: str) -> Topology:
    """Of what a worker declares, the part by which a login that may serve is told from others."""
    return Topology(exchanges=_EXCHANGES, queues=(Queue(name=control_queue(pool, slot), arguments=_CONTROL_ARGUMENTS),))


def reply_topology(tenant: str, reply_id: str) -> Topology:
    """What a client declares: the exchanges it uses and its reply queue."""
    name = reply_queue(tenant, reply_id)
    return Topology(
        exchanges=_EXCHANGES,
        queues=(Queue(name=name, arguments={"x-expires": REPLY_QUEUE_EXPIRES_MS}),),
        bindings=(Binding(REPLIES, name, reply_key(tenant, reply_id)),),
    )


def subscription_topology(tenant: str, name: str, keys: tuple[str, ...], *, max_length: int, ttl_ms: int) -> Topology:
    """What a durable subscription declares: a queue that collects the events of those binding keys.

    A full queue refuses: an event that it does not get, others do. What is too old, or delivered too often, is dead
    (never lost on the way); a queue that nobody listened to for ``ttl_ms`` goes, with what is in it. Dead events are
    the tenant's, in a queue of its own: who may write ``kaasq.dead`` could have requests published in any name.
    """
    queue, own, dead = event_queue(tenant, name), register(tenant), dead_events(tenant)
    arguments = {
        **_work_arguments("quorum"),
        "x-dead-letter-exchange": own,
        "x-dead-letter-routing-key": dead_event_key(name),
        "x-max-length": max_length,
        "x-message-ttl": ttl_ms,
        "x-expires": ttl_ms,
    }
    return Topology(
        exchanges=(Exchange(own), *_EXCHANGES),  # first: a tenant may declare its own, and none after one it may not
        queues=(Queue(name=dead), Queue(name=queue, arguments=arguments)),
        bindings=(Binding(own, dead, "dead.#"), *(Binding(EVENTS, queue, key) for key in keys)),
    )


def listener_topology(tenant: str, listener: str, keys: tuple[str, ...]) -> Topology:
    """What a subscription without a name declares: a queue that goes when its program does, and drops the oldest."""
    queue = event_queue(tenant, listener)
    arguments: dict[str, str | int] = {"x-expires": LISTENER_EXPIRES_MS, "x-max-length": LISTENER_LENGTH}
    return Topology(
        exchanges=_EXCHANGES,
        queues=(Queue(name=queue, arguments=arguments),),
        bindings=tuple(Binding(EVENTS, queue, key) for key in keys),
    )


def register_topology(tenant: str) -> Topology:
    """Where those who subscribe under a name leave a note; one at a time looks at the notes."""
    name = register(tenant)
    arguments: dict[str, str | int] = {"x-single-active-consumer": True, "x-max-length": REGISTER_LENGTH}
    return Topology(
        exchanges=(Exchange(name),),
        queues=(Queue(name=name, arguments=arguments),),
        bindings=(Binding(name, name, NOTE),),
    )


def work_queue(pool: str, slot: str | None = None) -> str:
    """The queue a pool's workers share, or a slot's own."""
    return f"kaasq.work.{pool}" if slot is None else f"kaasq.work.{pool}.{slot}"


def control_queue(pool: str, slot: str) -> str:
    """The queue by which one worker hears what every worker of its pool is told."""
    return f"kaasq.control.{pool}.{slot}"


def reply_queue(tenant: str, reply_id: str) -> str:
    """The queue that collects a client's replies."""
    return f"kaasq.reply.{tenant}.{reply_id}"


def event_queue(tenant: str, name: str) -> str:
    """The queue that collects a subscription's events."""
    return f"kaasq.events.{tenant}.{name}"


def register(tenant: str) -> str:
    """The queue with the notes of a tenant's subscriptions, and the exchange by which the tenant writes to its own
    queues. No subscription has this name: a dot.
    """
    return f"kaasq.events.{tenant}.subscriptions.all"


def dead_events(tenant: str) -> str:
    """The queue with the events that a tenant's named subscriptions gave up."""
    return f"kaasq.events.{tenant}.subscriptions.dead"


def dead_events_reader(tenant: str) -> str:
    """An exclusive queue: who holds it reads the tenant's dead events."""
    return f"{dead_events(tenant)}.reader"


def again_event_key(name: str) -> str:
    """Routing key, on the tenant's own exchange, of an event that a subscription is to have once more."""
    return f"again.{name}"


def dead_event_key(name: str) -> str:
    """Routing key, on the tenant's own exchange, of an event that a subscription gives up."""
    return f"dead.{name}"


def request_key(tenant: str, pool: str, slot: str = "any") -> str:
    """Routing key of a request."""
    return f"{tenant}.{pool}.{slot}"


def control_key(tenant: str, pool: str) -> str:
    """Routing key of what all workers of a pool are told."""
    return f"{tenant}.{pool}"


def reply_key(tenant: str, reply_id: str) -> str:
    """Routing key of a reply."""
    return f"{tenant}.{reply_id}"


def event_key(tenant: str, graph: str, word: str) -> str:
    """Routing key of an event; ``word`` says how the request ended (completed, failed, ...)."""
    return f"{tenant}.{graph}.{word}"


# Whoever looks at the letters gives them back, which counts as a delivery: RabbitMQ 4.x drops a message of a quorum
# queue after twenty, unless the queue says otherwise. "Without limit" (-1) is refused by 3.10.
_DEAD_ARGUMENTS: dict[str, str | int] = {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1}

_CONTROL_ARGUMENTS: dict[str, str | int] = {
    "x-queue-type": "quorum",  # a classic one would keep a cluster's worker waiting for the node that has it
    "x-expires": CONTROL_EXPIRES_MS,
    "x-message-ttl": CONTROL_EXPIRES_MS,
    "x-max-length": CONTROL_LENGTH,
}


def _work_arguments(queue_type: QueueType) -> dict[str, str | int]:
    # reject-publish and at-least-once belong together: only then is a dead-lettered message never lost.
    if queue_type == "classic":
        return {"x-overflow": "reject-publish", "x-dead-letter-exchange": DEAD}
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
    }
