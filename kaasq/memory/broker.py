"""MemoryBroker: the Broker protocol without a broker, for kaasq.local and for testing services that use kaasq."""

from __future__ import annotations

from collections.abc import Callable

from kaasq.broker import Consumer, Done, Inspected, Message, OnDelivery, State
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError
from kaasq.io_thread import IoBroker, invoke
from kaasq.memory.node import Held, MemoryNode
from kaasq.topology import Topology, without

EXPIRY_CHECK_S = 0.05


class MemoryDelivery:
    """A message taken from a queue."""

    __slots__ = ("_held", "_subscription", "exchange", "message", "queue", "redelivered", "routing_key")

    def __init__(self, subscription: MemoryConsumer, held: Held) -> None:
        self.message = held.message
        self.queue = subscription.queue
        self.exchange = held.exchange
        self.routing_key = held.routing_key
        self.redelivered = held.deliveries > 0
        self._subscription = subscription
        self._held: Held | None = held

    def ack(self) -> None:
        self._settle(lambda _: None)

    def requeue(self) -> None:
        self._settle(lambda held: self._subscription.node.requeue(self.queue, held))

    def reject(self) -> None:
        self._settle(lambda held: self._subscription.node.reject(self.queue, held))

    def _settle(self, how: Callable[[Held], None]) -> None:
        held, self._held = self._held, None
        if held is not None and self._subscription.release(held):
            how(held)
            self._subscription.node.kick(self.queue)


class MemoryConsumer:
    """A subscription. What it holds unsettled goes back to the queue when its broker is gone."""

    def __init__(
        self,
        broker: MemoryBroker,
        queue: str,
        on_delivery: OnDelivery,
        prefetch: int,
        on_gap: Callable[[], None] | None,
    ) -> None:
        self.node = broker.node
        self.queue = queue
        self._broker = broker
        self._on_delivery = on_delivery
        self._prefetch = prefetch
        self._on_gap = on_gap
        self._ran_before = False
        self._running = False
        self._unsettled: dict[int, Held] = {}
        self.cancelled = False

    @property
    def consuming(self) -> bool:
        return self._running and not self.cancelled

    @property
    def has_room(self) -> bool:
        return self._prefetch == 0 or self._on_gap is not None or len(self._unsettled) < self._prefetch

    def offer(self, held: Held) -> None:
        self._unsettled[id(held)] = held
        self._broker.call_soon(lambda: self._deliver(held))

    def orphan(self) -> None:
        self._unsettled.clear()
        self._broker.call_soon(lambda: self._broker.resubscribe(self))

    def release(self, held: Held) -> bool:
        """Whether it was still this consumer's to settle."""
        mine = self._unsettled.pop(id(held), None) is not None
        if self.cancelled and not self._unsettled:
            self._broker.forget(self)
        return mine

    def cancel(self) -> None:
        self.cancelled = True
        self.node.unsubscribe(self.queue, self)
        if not self._unsettled:
            self._broker.forget(self)

    def lose(self) -> None:
        """The connection is gone."""
        self._running = False
        self.node.unsubscribe(self.queue, self)
        for held in reversed(list(self._unsettled.values())):
            if self.release(held) and self._on_gap is None:  # else it was on its way, and is lost
                self.node.requeue(self.queue, held)

    def running(self) -> None:
        """It takes messages (again)."""
        self._running = True
        if self._on_gap is not None and self._ran_before:
            invoke(self._on_gap)
        self._ran_before = True

    def _deliver(self, held: Held) -> None:
        if id(held) not in self._unsettled:
            return
        delivery = MemoryDelivery(self, held)
        if self.cancelled:
            delivery.requeue()
            return
        if self._on_gap is not None:
            delivery.ack()
        invoke(self._on_delivery, delivery)


class MemoryBroker(IoBroker):
    """A connection to a MemoryNode. ``interrupt`` plays the loss of a connection, for tests of what follows it."""

    def __init__(self, node: MemoryNode, tenant: str = "guest", *, impersonates: bool = False) -> None:
        """``impersonates``: messages for other users are published, too."""
        super().__init__("kaasq-memory")
        self.node = node
        self.tenant = tenant
        self.scope = ""
        self._impersonates = impersonates
        self._consumers: list[MemoryConsumer] = []
        self._topologies: list[Topology] = []
        self._waiting: list[tuple[Message, str, str, bool, Done | None]] = []
        self._lost = False
        self._watching = False
        self._over = False

    def open(self, timeout_s: float) -> None:  # noqa: ARG002  # there is nothing to wait for
        if self._io.started or self._over:
            raise BrokerRefused("this broker was opened before: make a new one")
        self._io.start()
        self._io.post(self._tell, State.CONNECTED)

    def close(self, timeout_s: float = 5.0) -> None:
        self._io.post(self._close)
        self._io.join(timeout_s)

    def declare(
        self,
        topology: Topology,
        done: Done,
        on_absent: Callable[[], None] | None = None,  # noqa: ARG002  # there is one node
    ) -> None:
        self._io.post(self._declare, topology, done)

    def remove(self, topology: Topology, done: Done) -> None:
        self._io.post(self._remove, topology, done)

    def inspect(self, queue: str, done: Callable[[Inspected | KaasqError], None]) -> None:
        self._io.post(self._inspect, queue, done)

    def publish(
        self,
        message: Message,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool = False,
        done: Done | None = None,
        tenant: str | None = None,  # noqa: ARG002  # no address costs anybody the connection here
    ) -> None:
        # Also on the I/O thread it is done later: a confirm never comes before publish returns.
        self._io.post(self._publish, message, exchange, routing_key, mandatory, done)

    def consume(
        self, queue: str, on_delivery: OnDelivery, *, prefetch: int = 0, on_gap: Callable[[], None] | None = None
    ) -> Consumer:
        consumer = MemoryConsumer(self, queue, on_delivery, prefetch, on_gap)
        self._io.post(self._subscribe, consumer)
        return consumer

    def interrupt(self, lost_s: float = 0.0) -> None:
        """Lose the connection and get it back after a while: deliveries go back."""
        self._io.post(self._lose, lost_s)

    def forget(self, consumer: MemoryConsumer) -> None:
        """It was cancelled, and all it had is settled."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def resubscribe(self, consumer: MemoryConsumer) -> None:
        """Its queue was deleted: declare what belongs to it again, as after a reconnect."""
        if consumer not in self._consumers or consumer.cancelled or self._lost:
            return
        for each in self._topologies:
            if any(queue.name == consumer.queue for queue in each.queues):
                self.node.declare(each)
        self._again(consumer)

    def _declare(self, topology: Topology, done: Done) -> None:
        invoke(done, self._try(lambda: self.node.declare(topology), lambda: self._remember(topology)))

    def _remember(self, topology: Topology) -> None:
        if topology not in self._topologies:
            self._topologies.append(topology)

    def _remove(self, topology: Topology, done: Done) -> None:
        if self._over:
            invoke(done, _closed())
            return
        self._topologies = without(self._topologies, topology)
        self.node.remove(topology)
        invoke(done, None)

    def _inspect(self, queue: str, done: Callable[[Inspected | KaasqError], None]) -> None:
        invoke(done, _closed() if self._over else self.node.inspect(queue))

    def _try(self, action: Callable[[], None], remember: Callable[[], None]) -> KaasqError | None:
        if self._over:
            return _closed()
        try:
            action()
        except KaasqError as error:
            return error
        remember()
        return None

    def _publish(self, message: Message, exchange: str, routing_key: str, mandatory: bool, done: Done | None) -> None:
        error: KaasqError | None = None
        if self._over:
            error = _closed()
        elif self._lost:
            self._waiting.append((message, exchange, routing_key, mandatory, done))
            return
        else:
            error = self.node.publish(
                message,
                exchange,
                routing_key,
                tenant=self.tenant,
                mandatory=mandatory,
                impersonates=self._impersonates,
            )
            if message.expiration_ms is not None:
                self._watch_expiry()
        if done is not None:
            invoke(done, error)

    def _watch_expiry(self) -> None:
        """Dead-letter in time even where nobody looks at the queue: one timer, as long as a message may expire."""
        if not self._watching:
            self._watching = True
            self._io.call_later(EXPIRY_CHECK_S, self._expire)

    def _expire(self) -> None:
        self._watching = False
        if self.node.expire() and not self._over:
            self._watch_expiry()

    def _subscribe(self, consumer: MemoryConsumer) -> None:
        if not self._over:
            self._consumers.append(consumer)
            if self.node.subscribe(consumer.queue, consumer):
                consumer.running()
            else:
                self._io.call_later(0.05, lambda: self._again(consumer))

    def _again(self, consumer: MemoryConsumer) -> None:
        if consumer in self._consumers and not self._lost:
            self._consumers.remove(consumer)
            self._subscribe(consumer)

    def _lose(self, lost_s: float) -> None:
        self._lost = True
        self._leave()
        self._tell(State.LOST, BrokerLost("interrupted"))
        self._io.call_later(lost_s, self._restore)

    def _restore(self) -> None:
        if self._over:
            return
        try:
            for topology in self._topologies:
                self.node.declare(topology)
        except KaasqError as error:
            self._over = True
            self._tell(State.FAILED, error)
        else:
            consumers, self._consumers = self._consumers, []
            for each in consumers:
                if not each.cancelled:
                    self._subscribe(each)
            self._tell(State.CONNECTED)
        self._publish_waiting()

    def _publish_waiting(self) -> None:
        self._lost = False
        waiting, self._waiting = self._waiting, []
        for publish in waiting:
            self._publish(*publish)

    def _close(self) -> None:
        if not self._over:
            self._over = True
            self._leave()
            self._publish_waiting()
        if self._io.inside and self._io.started:
            self._io.stop()

    def _leave(self) -> None:
        for each in list(self._consumers):
            each.lose()


def _closed() -> BrokerLost:
    return BrokerLost("the broker connection was closed", closed=True)
