"""The broker as kaasq sees it: a small protocol with two siblings, kaasq.rabbit and kaasq.memory.

A ``Broker`` is one program's connection. Everything it calls back runs on its one I/O thread, so whoever only lives in
callbacks (the worker's front, the client's core) needs no locks; callbacks must not block. Every method may be called
from any thread and returns at once, but for ``open`` and ``close``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

import msgspec

from kaasq.errors import KaasqError
from kaasq.topology import Topology

Done = Callable[[KaasqError | None], None]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message and those of its AMQP properties that kaasq uses. Times in ms; ``timestamp_ms`` since the epoch."""

    body: bytes
    content_type: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    user_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    expiration_ms: int | None = None
    timestamp_ms: int | None = None
    type: str | None = None
    headers: Mapping[str, Any] = {}
    persistent: bool = True


class Delivery(Protocol):
    """A message taken from a queue, to be settled exactly once; settling it a second time does nothing.

    Settling a delivery whose connection is gone does nothing either: the broker delivers it again by itself.
    """

    message: Message
    queue: str
    exchange: str
    routing_key: str
    redelivered: bool

    def ack(self) -> None:
        """It is done."""

    def requeue(self) -> None:
        """Give it back, to be delivered again."""

    def reject(self) -> None:
        """Give it up: the broker dead-letters it, where the queue says so."""


class Consumer(Protocol):
    """A subscription to a queue. It survives reconnects."""

    queue: str

    @property
    def consuming(self) -> bool:
        """Whether the broker delivers to it now, as far as is known. From any thread."""

    def cancel(self) -> None:
        """Stop taking messages. What was delivered may still be settled."""


class Inspected(NamedTuple):
    """What a queue holds: messages that wait, and consumers, also those whose node in a cluster is down."""

    messages: int
    consumers: int


class State(Enum):
    """What ``on_state`` is told."""

    CONNECTED = "connected"  # topology declared, consumers running (again)
    LOST = "lost"  # reconnecting; deliveries made so far can no longer be settled
    BLOCKED = "blocked"  # publishes wait: no memory or disk left there, or (with an error) only publishing is cut off
    UNBLOCKED = "unblocked"
    FAILED = "failed"  # gave up: what ``error`` says cannot be mended by waiting


OnDelivery = Callable[[Delivery], None]
OnState = Callable[[State, KaasqError | None], None]


class Broker(Protocol):
    """One program's connection to a broker."""

    tenant: str
    """The user the connection is authenticated as: the tenant of everything it publishes."""
    scope: str
    """What tells this broker, a cluster and a virtual host, from others: the same for all connections to it. Known once
    it is open. Empty: everybody who uses it is in this process.
    """

    def open(self, timeout_s: float) -> None:
        """Connect. Raises BrokerLost (nobody answers in time), BrokerRefused (credentials, permissions)."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Close the connection and end the I/O thread. Unconfirmed publishes are called back with BrokerLost."""

    def watch(self, on_state: OnState) -> None:
        """Call back on changes of state, on the I/O thread."""

    def declare(self, topology: Topology, done: Done, on_absent: Callable[[], None] | None = None) -> None:
        """Declare it now and again after each reconnect; ``done`` is called once, for the first time.

        ``done`` gets BrokerRefused if the broker refuses (it differs from what exists, no permission). A queue whose
        node in a cluster is down is waited for; with ``on_absent`` that is called instead, and the queue is let go.
        """

    def remove(self, topology: Topology, done: Done) -> None:
        """Unbind its bindings, then delete its queues with what is in them; exchanges stay. What is not there is fine.

        None of it is declared again after a reconnect. ``done`` gets BrokerRefused (no permission), or BrokerLost.
        """

    def inspect(self, queue: str, done: Callable[[Inspected | KaasqError], None]) -> None:
        """Look at a queue. In one that is not there nothing waits, and nobody consumes from it."""

    def publish(
        self,
        message: Message,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        done: Done | None = None,
        tenant: str | None = None,
    ) -> None:
        """Publish with a confirm: ``done(None)`` once the broker has taken responsibility.

        Else ``done`` gets Unroutable (mandatory, and no queue), BrokerRefused (rejected: the queue is full, the
        message too large) or BrokerLost (the connection went first: it may or may not have arrived). ``tenant``: who
        said where it is to go (empty: nobody known), where that is not the connection's own user.
        """

    def consume(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int = 0, on_gap: Callable[[], None] | None = None
    ) -> Consumer:
        """Take messages from a declared queue, at most ``prefetch`` unsettled ones at a time (0: no limit).

        With ``on_gap`` a message counts as settled once the broker has sent it: much cheaper there, but what was on its
        way is lost when the connection goes. It is called each time that may have happened, once messages come again.
        """

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run it on the I/O thread."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Run it on the I/O thread after a delay. Returns a function that cancels it."""

    def expects(self, anything: Callable[[], bool]) -> None:
        """Whether anything is to be expected soon. A broker that looks for it instead of sleeping asks before it does,
        on the I/O thread; to begin with there is.
        """

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call back on the I/O thread whenever the file descriptor is readable."""

    def remove_reader(self, fd: int) -> None:
        """Stop watching the file descriptor."""


def wait_for(operation: Callable[[Done], object], timeout_s: float) -> None:
    """Start something that calls ``done``, and wait for it, on any thread but the I/O thread.

    Raises its error, or TimeoutError.
    """
    finished = threading.Event()
    errors: list[KaasqError] = []

    def done(error: KaasqError | None) -> None:
        if error is not None:
            errors.append(error)
        finished.set()

    operation(done)
    if not finished.wait(timeout_s):
        raise TimeoutError
    if errors:
        raise errors[0]
