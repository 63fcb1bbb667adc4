"""What a measurement leaves on a broker, taken away again: it may be somebody's own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from kaasq.broker import wait_for
from kaasq.errors import KaasqError
from kaasq.rabbit import RabbitBroker
from kaasq.topology import Queue, Topology, control_queue, work_queue
from kaasq_workers.devices.opening import default_slot, device_names

TIMEOUT_S = 10.0


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
