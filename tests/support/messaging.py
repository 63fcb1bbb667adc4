"""A broker as tests like it: calls that wait, deliveries in a queue."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import TypeVar

from kaasq.broker import Broker, Consumer, Delivery, Inspected, Message, State
from kaasq.errors import KaasqError
from kaasq.topology import Binding, Exchange, Queue, Topology

TIMEOUT_S = 20.0
AnyBroker = TypeVar("AnyBroker", bound=Broker)

WORK = "t.work"
DEAD = "t.dead"
EXCHANGE = "t.exchange"


def work_topology(**arguments: str | int) -> Topology:
    """An exchange whose ``a.#`` goes to a quorum queue; what that one rejects goes to another."""
    return Topology(
        exchanges=(Exchange(EXCHANGE), Exchange(DEAD)),
        queues=(
            Queue(name=DEAD, arguments={"x-queue-type": "quorum"}),
            Queue(name=WORK, arguments={"x-queue-type": "quorum", "x-dead-letter-exchange": DEAD, **arguments}),
        ),
        bindings=(Binding(DEAD, DEAD, "#"), Binding(EXCHANGE, WORK, "a.#")),
    )


def classic(name: str) -> Topology:
    """One plain queue, reached through the default exchange."""
    return Topology(queues=(Queue(name=name),))


def ready(broker: AnyBroker) -> AnyBroker:
    """That broker, open and with ``work_topology``."""
    broker.open(TIMEOUT_S)
    assert declare(broker, work_topology()) is None
    return broker


class Outcomes:
    """A ``done`` that several threads can wait for."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[KaasqError | None] = queue.SimpleQueue()

    def __call__(self, error: KaasqError | None) -> None:
        self._queue.put(error)

    def one(self, timeout_s: float = TIMEOUT_S) -> KaasqError | None:
        return self._queue.get(timeout=timeout_s)

    def some(self, count: int) -> list[KaasqError | None]:
        return [self.one() for _ in range(count)]


class States:
    """What a broker told its watchers."""

    def __init__(self, broker: Broker) -> None:
        self._queue: queue.SimpleQueue[tuple[State, KaasqError | None]] = queue.SimpleQueue()
        broker.watch(lambda state, error: self._queue.put((state, error)))

    def wait_for(self, state: State, timeout_s: float = TIMEOUT_S) -> KaasqError | None:
        """Pass over others until it comes; returns its error."""
        deadline = time.monotonic() + timeout_s
        while True:
            seen, error = self._queue.get(timeout=max(0.001, deadline - time.monotonic()))
            if seen is state:
                return error


class Deliveries:
    """A consumer that keeps what it gets, or settles it at once."""

    def __init__(
        self,
        broker: Broker,
        queue_name: str,
        *,
        prefetch: int = 10,
        settle: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._queue: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._settle = settle
        self.consumer: Consumer = broker.consume(queue_name, self._take, prefetch=prefetch)

    def _take(self, delivery: Delivery) -> None:
        if self._settle is not None:
            self._settle(delivery)
        self._queue.put(delivery)

    def one(self, timeout_s: float = TIMEOUT_S) -> Delivery:
        return self._queue.get(timeout=timeout_s)

    def some(self, count: int) -> list[Delivery]:
        return [self.one() for _ in range(count)]

    def none(self, for_s: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        try:
            self._queue.get(timeout=for_s)
        except queue.Empty:
            return True
        return False


def declare(broker: Broker, topology: Topology) -> KaasqError | None:
    done = Outcomes()
    broker.declare(topology, done)
    return done.one()


def remove(broker: Broker, topology: Topology) -> KaasqError | None:
    done = Outcomes()
    broker.remove(topology, done)
    return done.one()


def inspect(broker: Broker, queue_name: str) -> Inspected | KaasqError:
    found: queue.SimpleQueue[Inspected | KaasqError] = queue.SimpleQueue()
    broker.inspect(queue_name, found.put)
    return found.get(timeout=TIMEOUT_S)


def inspect_until(broker: Broker, queue_name: str, wanted: Inspected) -> None:
    """A broker counts consumers, and what they have taken, a moment late."""
    deadline = time.monotonic() + TIMEOUT_S
    while (found := inspect(broker, queue_name)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def publish(
    broker: Broker, message: Message | bytes, key: str = "a.b", *, exchange: str = EXCHANGE, mandatory: bool = True
) -> KaasqError | None:
    done = Outcomes()
    message = message if isinstance(message, Message) else Message(body=message)
    broker.publish(message, exchange=exchange, routing_key=key, mandatory=mandatory, done=done)
    return done.one()
