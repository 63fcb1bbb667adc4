"""Which named subscriptions a tenant has, under which binding keys: a queue of notes that subscribers leave.

AMQP tells nobody what is bound to a queue. So who subscribes leaves a note, and looks at those that are there: what an
earlier program bound under the same name and this one does not want is unbound. One visitor at a time sees the notes
(RabbitMQ's single active consumer); none is taken away before what it says has been undone, so a crash loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from kaasq import codec
from kaasq.broker import Broker, Consumer, Delivery, Message
from kaasq.errors import BadRequest, BrokerLost, KaasqError
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq.topology import EVENTS, NOTE, Binding, Queue, Topology, event_queue, register, register_topology

YOUNG_MS = 60_000

log = get_logger()


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program subscribed under that name to those keys; or, without a name, somebody only looked."""

    name: str = ""
    keys: tuple[str, ...] = ()
    since_ms: int = 0


class Plan(NamedTuple):
    """What a visitor does: take those notes away (by their place) once ``remove`` has been removed."""

    drop: frozenset[int]
    remove: Topology = Topology()


def subscribing(mine: Note, tenant: str, notes: Sequence[Note]) -> Plan:
    """A program has bound and left ``mine``, which comes after ``notes``: what earlier ones bound is to go.

    A young note stays, for whoever left it may be waiting to see it; a later visitor takes it away.
    """
    same = [place for place, each in enumerate(notes) if each.name == mine.name]
    stale = dict.fromkeys(key for place in same for key in notes[place].keys if key not in mine.keys)
    queue = event_queue(tenant, mine.name)
    old = frozenset(place for place in same if notes[place].since_ms < mine.since_ms - YOUNG_MS)
    return Plan(old, Topology(bindings=tuple(Binding(EVENTS, queue, key) for key in stale)))


def replaced(mine: Note, notes: Sequence[Note]) -> Note | None:
    """What the subscription was until ``mine``, if that was about other events."""
    before = next((each for each in latest(notes) if each.name == mine.name), None)
    return None if before is None or set(before.keys) == set(mine.keys) else before


def removing(name: str, tenant: str, notes: Sequence[Note]) -> Plan:
    """The subscription is to go, with what it has collected."""
    same = frozenset(place for place, each in enumerate(notes) if each.name == name)
    return Plan(same, Topology(queues=(Queue(name=event_queue(tenant, name)),)))


def latest(notes: Sequence[Note]) -> list[Note]:
    """The subscriptions there are, by name; of several notes under one name the last counts."""
    return [each for _, each in sorted({each.name: each for each in notes}.items())]


Decide = Callable[[Sequence[Note]], Plan]
Done = Callable[["list[Note] | KaasqError"], None]


class Visit:
    """One look at the notes, on the broker's I/O thread. ``done`` is called once, with what was there."""

    def __init__(self, broker: Broker, tenant: str, mine: Note, decide: Decide, done: Done) -> None:
        self._broker = broker
        self._tenant = tenant
        self._mine = mine
        self._decide = decide
        self._done: Done | None = done
        self._id = new_id()
        self._found: dict[str, tuple[Note, Delivery]] = {}
        self._consumer: Consumer | None = None
        self._cancel_timer: Callable[[], None] = lambda: None

    def start(self, timeout_s: float) -> None:
        """Leave the note, and look."""
        self._cancel_timer = self._broker.call_later(timeout_s, lambda: self._end(BrokerLost(
            f"the list of subscriptions (queue {register(self._tenant)!r}) could not be read within {timeout_s:g} s"
        )))  # fmt: skip
        self._broker.declare(register_topology(self._tenant), self._declared)

    def _declared(self, error: KaasqError | None) -> None:
        if error is not None:
            self._end(error)
            return
        note = Message(body=codec.encode(self._mine, codec.JSON), content_type=codec.JSON, message_id=self._id)
        name = register(self._tenant)
        self._broker.publish(note, exchange=name, routing_key=NOTE, mandatory=True, done=self._left)

    def _left(self, error: KaasqError | None) -> None:
        if error is not None:
            self._end(error)
        elif self._done is not None:
            self._consumer = self._broker.consume(register(self._tenant), self._see)

    def _see(self, delivery: Delivery) -> None:
        if self._done is None:
            delivery.requeue()
            return
        message = delivery.message
        try:
            note = codec.decode(message.body, message.content_type, Note)
        except BadRequest as error:
            log.warning("subscriptions.unreadable", queue=delivery.queue, error=error.message)
            delivery.ack()
            return
        identity = message.message_id or new_id()
        self._found[identity] = (note, delivery)  # seen again after a reconnect, the new delivery counts
        if identity == self._id:
            self._act()

    def _act(self) -> None:
        others = {identity: note for identity, (note, _) in self._found.items() if identity != self._id}
        plan = self._decide(list(others.values()))
        gone = {
            identity for place, (identity, note) in enumerate(others.items()) if place in plan.drop or not note.name
        }
        if not self._mine.name:
            gone.add(self._id)

        def removed(error: KaasqError | None) -> None:
            if error is None and self._done is not None:
                for identity in gone:
                    self._found.pop(identity)[1].ack()
            self._end(error or [note for note in others.values() if note.name])

        self._broker.remove(plan.remove, removed)

    def _end(self, result: list[Note] | KaasqError) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._cancel_timer()
        if self._consumer is not None:
            self._consumer.cancel()  # first: what is given back then goes to the next visitor
        found, self._found = self._found, {}
        for _, delivery in found.values():
            delivery.requeue()
        done(result)
