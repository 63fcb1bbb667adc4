"""A message broker inside the process: exchanges, queues, bindings, dead-lettering, as far as kaasq relies on them.

It leaves out: permissions, priorities, policies, persistence, and every type of exchange but topic and default.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from kaasq.broker import Inspected, Message
from kaasq.errors import BrokerRefused, KaasqError, Unroutable
from kaasq.memory.frames import refusal
from kaasq.topology import Binding, Queue, Topology

MAX_BODY_BYTES = 16 * 1024 * 1024
"""RabbitMQ 4's default."""


class Held(msgspec.Struct):
    """A message in a queue or with a consumer."""

    message: Message
    exchange: str
    routing_key: str
    expires_at: float | None = None
    deliveries: int = 0  # how often it was given back
    place: int = 0  # among all messages, by when they came


class Consumer(Protocol):
    """Who takes messages; ``offer`` is called with the node's lock held and must only hand over."""

    @property
    def has_room(self) -> bool: ...

    def offer(self, held: Held) -> None:
        """Take it."""

    def orphan(self) -> None:
        """Its queue was deleted; to be handed over, too."""


class _Queue:
    def __init__(self, declared: Queue) -> None:
        self.declared = declared
        self.held: deque[Held] = deque()
        self.consumers: deque[Consumer] = deque()
        self.unused_since = time.monotonic()

    def argument(self, name: str) -> Any:
        return self.declared.arguments.get(name)

    @property
    def full(self) -> bool:
        limit = self.argument("x-max-length")
        return limit is not None and len(self.held) >= limit and self.argument("x-overflow") == "reject-publish"


class MemoryNode:
    """The server that MemoryBrokers connect to. Thread-safe."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._lock = threading.RLock()
        self._bindings: dict[str, list[Binding]] = {}
        self._queues: dict[str, _Queue] = {}
        self._routes: dict[tuple[str, str], list[_Queue]] = {}
        self._places = 0

    def declare(self, topology: Topology) -> None:
        """Raises BrokerRefused if a queue exists with other properties, or a binding names what does not exist."""
        with self._lock:
            self._remove_unused()
            for exchange in topology.exchanges:
                self._bindings.setdefault(exchange.name, [])
            for queue in topology.queues:
                self._declare_queue(queue)
            for binding in topology.bindings:
                if binding.exchange not in self._bindings or binding.queue not in self._queues:
                    raise BrokerRefused(f"no exchange {binding.exchange!r} or no queue {binding.queue!r} to bind")
                if binding not in self._bindings[binding.exchange]:
                    self._bindings[binding.exchange].append(binding)
            self._routes.clear()

    def remove(self, topology: Topology) -> None:
        """Unbind and delete. Whoever consumes from a deleted queue is told, and may declare it again."""
        with self._lock:
            for binding in topology.bindings:
                bound = self._bindings.get(binding.exchange, [])
                if binding in bound:
                    bound.remove(binding)
            for queue in topology.queues:
                found = self._queues.get(queue.name)
                if found is not None:
                    self._remove(queue.name)
                    for consumer in found.consumers:
                        consumer.orphan()
            self._routes.clear()

    def inspect(self, queue: str) -> Inspected:
        """What waits in a queue, and how many consume from it."""
        with self._lock:
            found = self._queues.get(queue)
            return Inspected(0, 0) if found is None else Inspected(len(found.held), len(found.consumers))

    def publish(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        *,
        tenant: str,
        mandatory: bool,
        impersonates: bool = False,
    ) -> KaasqError | None:
        """Put it into the queues it goes to; returns what RabbitMQ would refuse or return it for."""
        if message.user_id is not None and message.user_id != tenant and not impersonates:
            return BrokerRefused(
                f"user_id is {message.user_id!r}, but the connection is authenticated as {tenant!r}", user=tenant
            )
        if len(message.body) > self._max_body_bytes:
            return BrokerRefused(f"the message has {len(message.body)} bytes, the broker takes {self._max_body_bytes}")
        if (refused := refusal(message)) is not None:
            return refused
        with self._lock:
            if exchange and exchange not in self._bindings:
                return BrokerRefused(f"no exchange {exchange!r}")
            queues = self._route(exchange, routing_key)
            if not queues:
                what = f"the message for {routing_key!r} of exchange {exchange!r} goes to no queue"
                return Unroutable(what, routing_key=routing_key) if mandatory else None
            full = [queue for queue in queues if queue.full]
            for queue in queues:
                if queue not in full:
                    self._put(queue, message, exchange, routing_key)
        return (
            BrokerRefused(f"the message for {routing_key!r} was rejected: a queue it goes to is full") if full else None
        )

    def subscribe(self, queue: str, consumer: Consumer) -> bool:
        """Returns False if there is no such queue."""
        with self._lock:
            found = self._queues.get(queue)
            if found is None:
                return False
            found.consumers.append(consumer)
            self._dispatch(found)
            return True

    def unsubscribe(self, queue: str, consumer: Consumer) -> None:
        with self._lock:
            found = self._queues.get(queue)
            if found is not None and consumer in found.consumers:
                found.consumers.remove(consumer)
                found.unused_since = time.monotonic()
                self._dispatch(found)  # where one is active at a time, it may be the next one's turn

    def kick(self, queue: str) -> None:
        """A consumer has room again."""
        with self._lock:
            found = self._queues.get(queue)
            if found is not None:
                self._dispatch(found)

    def expire(self) -> bool:
        """Look for messages that have expired, as RabbitMQ does: at the heads of queues. Whether any still may."""
        with self._lock:
            for queue in list(self._queues.values()):
                self._dispatch(queue)
            return any(each.expires_at is not None for queue in self._queues.values() for each in queue.held)

    def requeue(self, queue: str, held: Held) -> None:
        """Back to where it was. Beyond the queue's delivery limit it is dead-lettered."""
        with self._lock:
            found = self._queues.get(queue)
            if found is None:
                return
            held.deliveries += 1
            limit = found.argument("x-delivery-limit")
            if limit is not None and held.deliveries > limit:
                self._dead_letter(found, held, "delivery_limit")
                return
            if found.argument("x-queue-type") == "quorum":
                headers = {**held.message.headers, "x-delivery-count": held.deliveries}
                held.message = msgspec.structs.replace(held.message, headers=headers)
            ahead = next((at for at, each in enumerate(found.held) if each.place > held.place), len(found.held))
            found.held.insert(ahead, held)
            self._dispatch(found)

    def reject(self, queue: str, held: Held) -> None:
        with self._lock:
            found = self._queues.get(queue)
            if found is not None:
                self._dead_letter(found, held, "rejected")

    def messages(self, queue: str) -> list[Message]:
        """What waits in a queue, for tests to look at."""
        with self._lock:
            found = self._queues.get(queue)
            return [] if found is None else [held.message for held in found.held]

    def _declare_queue(self, queue: Queue) -> None:
        existing = self._queues.get(queue.name)
        if existing is None:
            self._queues[queue.name] = _Queue(queue)
        elif existing.declared != queue:
            raise BrokerRefused(
                f"queue {queue.name!r} exists with other properties ({existing.declared.arguments}, not "
                f"{queue.arguments}): use the queue type that it was made with",
                queue=queue.name,
            )
        else:
            existing.unused_since = time.monotonic()

    def _route(self, exchange: str, routing_key: str) -> list[_Queue]:
        if not exchange:
            queue = self._queues.get(routing_key)
            return [] if queue is None else [queue]
        route = self._routes.get((exchange, routing_key))
        if route is None:
            if len(self._routes) > 10_000:
                self._routes.clear()
            names = {each.queue for each in self._bindings[exchange] if matches(each.pattern, routing_key)}
            route = self._routes[exchange, routing_key] = [self._queues[name] for name in sorted(names)]
        return route

    def _put(self, queue: _Queue, message: Message, exchange: str, routing_key: str) -> None:
        limits = [each for each in (message.expiration_ms, queue.argument("x-message-ttl")) if each is not None]
        expires_at = time.monotonic() + min(limits) / 1000 if limits else None
        limit = queue.argument("x-max-length")
        if limit is not None and len(queue.held) >= limit:  # one that drops its oldest; others refused it before
            self._dead_letter(queue, queue.held.popleft(), "maxlen")
        self._places += 1
        queue.held.append(Held(message, exchange, routing_key, expires_at, place=self._places))
        self._dispatch(queue)

    def _dispatch(self, queue: _Queue) -> None:
        while queue.held:
            held = queue.held[0]
            if held.expires_at is not None and held.expires_at <= time.monotonic():
                self._dead_letter(queue, queue.held.popleft(), "expired")
                continue
            consumer = self._next_consumer(queue)
            if consumer is None:
                return
            consumer.offer(queue.held.popleft())

    def _next_consumer(self, queue: _Queue) -> Consumer | None:
        if queue.argument("x-single-active-consumer"):
            first = queue.consumers[0] if queue.consumers else None
            return first if first is not None and first.has_room else None
        for _ in range(len(queue.consumers)):
            consumer = queue.consumers[0]
            queue.consumers.rotate(-1)
            if consumer.has_room:
                return consumer
        return None

    def _dead_letter(self, queue: _Queue, held: Held, reason: str) -> None:
        exchange = queue.argument("x-dead-letter-exchange")
        if exchange is None or (exchange and exchange not in self._bindings):
            return
        key = queue.argument("x-dead-letter-routing-key") or held.routing_key
        name = queue.declared.name
        death = {
            "queue": name, "reason": reason, "exchange": held.exchange, "routing-keys": [held.routing_key], "count": 1
        }  # fmt: skip
        headers: Mapping[str, Any] = {
            "x-first-death-queue": name,
            "x-first-death-reason": reason,
            "x-first-death-exchange": held.exchange,
            **held.message.headers,
            "x-death": [death, *held.message.headers.get("x-death", ())],
        }
        message = msgspec.structs.replace(held.message, headers=headers, expiration_ms=None)
        for target in self._route(exchange, key):
            if target is not queue or reason == "rejected":  # RabbitMQ breaks loops too, unless somebody rejected
                self._put(target, message, exchange, key)

    def _remove_unused(self) -> None:
        now = time.monotonic()
        for name, queue in list(self._queues.items()):
            expires_ms = queue.argument("x-expires")
            if expires_ms is not None and not queue.consumers and now - queue.unused_since > expires_ms / 1000:
                self._remove(name)

    def _remove(self, name: str) -> None:
        del self._queues[name]
        for bindings in self._bindings.values():
            bindings[:] = [each for each in bindings if each.queue != name]
        self._routes.clear()


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split("."))


def matches(pattern: str, key: str) -> bool:
    """Whether a topic binding's pattern matches: ``*`` is one word, ``#`` any number of words."""
    return _match(_words(pattern), _words(key))


def _match(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return _match(pattern[1:], key) or (bool(key) and _match(pattern, key[1:]))
    return bool(key) and pattern[0] in {"*", key[0]} and _match(pattern[1:], key[1:])
