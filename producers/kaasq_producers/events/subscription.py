"""A subscription to events, in callbacks: declares its queue, reads what comes, says when it is over.

Iterators wait on it with threads or a loop, services run their handlers on it; the logic is here, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from kaasq.broker import Consumer, Delivery
from kaasq.errors import BadRequest, BrokerRefused, KaasqError
from kaasq.event_patterns import binding_keys
from kaasq.events import EventMessage, read_event
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq.names import check_word
from kaasq.settings import Settings
from kaasq.topology import (
    LISTENER_EXPIRES_MS,
    Topology,
    event_queue,
    listener_topology,
    subscription_topology,
)
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.register import Note, Visit, replaced, subscribing

PREFETCH = 16  # read ahead of who handles them, and given back if that ends
MOST_PREFETCH = 1000
VISIT_TIMEOUT_S = 10.0

log = get_logger()

OnEvent = Callable[[EventMessage, Delivery], None]
OnDone = Callable[["KaasqError | None"], None]


class Wanted:
    """What somebody subscribes to, checked. ``name`` None: for as long as the program listens."""

    def __init__(self, patterns: Sequence[str], tenant: str, name: str | None, prefetch: int) -> None:
        """Raises BadRequest."""
        self.patterns = tuple(patterns) or ("#",)
        self.keys = binding_keys(self.patterns, tenant)
        self.tenant = tenant
        self.name = None if name is None else check_word(name, "subscription")
        if not 1 <= prefetch <= MOST_PREFETCH:
            raise BadRequest(f"expected 1 to {MOST_PREFETCH} events, given {prefetch!r}", at="prefetch")
        self.prefetch = prefetch
        self.queue = event_queue(tenant, self.name or new_id())

    def topology(self, settings: Settings) -> Topology:
        """Its queue and bindings."""
        if self.name is None:
            return listener_topology(self.tenant, self.queue.rpartition(".")[2], self.keys)
        ttl_ms = max(1, round(settings.event_ttl * 1000))
        return subscription_topology(self.tenant, self.name, self.keys, max_length=settings.event_limit, ttl_ms=ttl_ms)


class Subscription:
    """One program's part in it. Callbacks come on the broker's I/O thread.

    ``on_lost`` is called when deliveries made so far can no longer be settled, since they will come again; ``on_over``
    at most once, when no more can come.
    """

    def __init__(
        self,
        core: ClientCore,
        wanted: Wanted,
        settings: Settings,
        *,
        on_event: OnEvent,
        on_lost: Callable[[], None],
        on_over: Callable[[KaasqError], None],
    ) -> None:
        self._core = core
        self._wanted = wanted
        self._settings = settings
        self._on_event = on_event
        self._on_lost = on_lost
        self._on_over = on_over
        self._consumer: Consumer | None = None
        self._stopped = False
        self._lost_at: float | None = None

    def start(self, done: OnDone) -> None:
        """Subscribe; ``done`` is told once events are collected, or what was refused. From any thread."""
        self._core.listeners.attach(self)
        self._core.broker.declare(self._wanted.topology(self._settings), partial(self._declared, done))

    def stop(self, give_back: Callable[[], None]) -> None:
        """Take no more events, then call ``give_back``, on the I/O thread: what it gives back goes to others. What was
        delivered may still be settled. From any thread.
        """
        self._leaving()
        self._core.broker.call_soon(partial(self._stop, give_back))

    def leave(self) -> None:
        """The core's word."""
        self._leaving()
        self._core.broker.call_soon(self._leave)

    def lost(self) -> None:
        """The core's word."""
        self._lost_at = time.monotonic()
        self._on_lost()

    def connected(self) -> None:
        """The core's word."""
        away_s = 0.0 if self._lost_at is None else time.monotonic() - self._lost_at
        self._lost_at = None
        if self._wanted.name is None and away_s * 1000 >= LISTENER_EXPIRES_MS:
            log.warning("events.missed", patterns=self._wanted.patterns, away_s=round(away_s))

    def over(self, error: KaasqError) -> None:
        """The core's word."""
        if not self._stopped:
            self._stopped = True
            self._on_over(error)

    def _declared(self, done: OnDone, error: KaasqError | None) -> None:
        name = self._wanted.name
        if error is not None or self._stopped:
            done(error if error is None else _explained(error, self._wanted))
        elif name is None:
            self._consume(done)
        else:
            note = Note(name=name, keys=self._wanted.keys, since_ms=time.time_ns() // 1_000_000)
            decide = partial(subscribing, note, self._wanted.tenant)
            Visit(self._core.broker, self._wanted.tenant, note, decide, partial(self._noted, done, note)).start(
                VISIT_TIMEOUT_S
            )

    def _noted(self, done: OnDone, mine: Note, notes: list[Note] | KaasqError) -> None:
        if isinstance(notes, KaasqError):  # events come all the same, perhaps more than are wanted
            log.warning("subscription.not_noted", name=mine.name, code=notes.code, error=notes.message)
        elif (before := replaced(mine, notes)) is not None:
            log.warning(
                "subscription.replaced",
                name=mine.name,
                keys=mine.keys,
                before=before.keys,
                before_s=round((mine.since_ms - before.since_ms) / 1000),
                hint="a program that subscribed with the keys before no longer hears them: give one another name",
            )
        self._consume(done)

    def _consume(self, done: OnDone) -> None:
        if not self._stopped:
            self._consumer = self._core.broker.consume(self._wanted.queue, self._take, prefetch=self._wanted.prefetch)
        done(None)

    def _take(self, delivery: Delivery) -> None:
        if self._stopped:
            delivery.requeue()
            return
        try:
            event = read_event(delivery.message, self._wanted.tenant)
        except BadRequest as error:
            log.warning("event.unreadable", queue=delivery.queue, id=delivery.message.message_id, error=error.message)
            delivery.reject()  # of a named subscription it is kept as a dead letter
            return
        self._on_event(event, delivery)

    def _stop(self, give_back: Callable[[], None]) -> None:
        if not self._stopped:
            self._stopped = True
            self._core.listeners.detach(self)
            if self._consumer is not None:
                self._consumer.cancel()
        self._remove()
        self._core.broker.call_soon(give_back)  # behind the cancellation, or it would all come here again

    def _leave(self) -> None:
        if self._consumer is not None:
            self._consumer.cancel()
        self._remove()

    def _leaving(self) -> None:
        if self._wanted.name is None:
            self._core.listeners.leaving()

    def _remove(self) -> None:
        """Its queue, if nobody listens to that afterwards; it would go by itself, some time later."""
        if self._wanted.name is None:
            gone = Topology(queues=self._wanted.topology(self._settings).queues)
            self._core.broker.remove(gone, self._core.listeners.left)


def _explained(error: KaasqError, wanted: Wanted) -> KaasqError:
    if isinstance(error, BrokerRefused) and wanted.name is not None and "queue" in error.detail:
        return BrokerRefused(
            f"subscription {wanted.name!r} exists with other limits than these settings say (event_limit, event_ttl): "
            f"set them as they were, or remove it with what it holds, `kaasq events rm {wanted.name}` "
            f"({error.message})",
            **error.detail,
        )
    return error
