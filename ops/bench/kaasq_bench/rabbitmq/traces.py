"""What a measurement leaves on a broker, taken away again: it may be somebody's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from kaasq.broker import Done, wait_for
from kaasq.errors import KaasqError
from kaasq.rabbit import RabbitBroker
from kaasq.topology import Queue, Topology, control_queue, work_queue
from kaasq_workers.devices.opening import default_slot, device_names

TIMEOUT_S = 10.0


class TidyBroker(RabbitBroker):
    """A client's connection that takes its queues along: they would wait ten minutes for a client that is gone."""

    def __init__(self, url: str, busy_poll_s: float = 0.0) -> None:
        super().__init__(url, connection_name="kaasq bench", busy_poll_s=busy_poll_s)
        self._queues: list[Queue] = []

    def declare(self, topology: Topology, done: Done, on_absent: Callable[[], None] | None = None) -> None:
        self._queues += topology.queues
        super().declare(topology, done, on_absent)

    def close(self, timeout_s: float = 5.0) -> None:
        queues, self._queues = self._queues, []
        if queues:
            with contextlib.suppress(KaasqError, TimeoutError):  # gone with the broker, or expiring by themselves
                wait_for(lambda done: self.remove(Topology(queues=tuple(queues)), done), timeout_s)
        super().close(timeout_s)


def pool_queues(pool: str, device: str) -> list[str]:
    """The queues of a pool with a worker for each device that is meant."""
    slots = [default_slot(each) for each in device_names(device)]
    return [work_queue(pool), *(queue(pool, slot) for slot in slots for queue in (work_queue, control_queue))]


def remove_queues(url: str, names: Sequence[str]) -> None:
    """Delete queues with what is in them; what is not there is fine, and so is a broker that is gone."""
    broker = RabbitBroker(url, connection_name="kaasq bench")
    with contextlib.suppress(KaasqError, TimeoutError):
        broker.open(TIMEOUT_S)
        try:
            topology = Topology(queues=tuple(Queue(name=name) for name in names))
            wait_for(lambda done: broker.remove(topology, done), TIMEOUT_S)
        finally:
            broker.close()
