"""Several tenants of one worker, over an in-memory broker; and what one of them may try against another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import kaasq
from kaasq.broker import Delivery
from kaasq.dead_letter import DeadLetter, read
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq.topology import DEAD
from kaasq_workers.worker import Worker

SECRETS = 4096

LEAK = r"""
extern "C" __global__ void leak(const unsigned* secret, unsigned long long* where)
{ where[0] = (unsigned long long)secret; }
"""

PRY = r"""
extern "C" __global__ void pry(unsigned long long where, unsigned* found, int n)
{ for (int i = 0; i < n; ++i) found[i] = ((const volatile unsigned*)(size_t)where)[i]; }
"""


class Tenants(list[kaasq.Client]):
    """The clients, in the order of the names; and the dead letters of all."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__()
        self._letters: dict[str, DeadLetter] = {}
        self._arrived = threading.Condition()
        self.broker = MemoryBroker(node, "operator")
        self.broker.open(5)
        self.broker.consume(DEAD, self._take, prefetch=0)

    def _take(self, delivery: Delivery) -> None:
        letter = read(delivery)
        with self._arrived:
            self._letters[letter.id] = letter
            self._arrived.notify_all()
        delivery.ack()

    def dead_letter(self, request_id: str) -> DeadLetter:
        """The one of that request; it is waited for."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: request_id in self._letters, 20), "no dead letter came"
            return self._letters[request_id]


@contextmanager
def tenants(device: str, folder: Path, *names: str, **settings: Any) -> Iterator[Tenants]:
    """A worker with executors in processes, and a client of each tenant."""
    node = MemoryNode()
    changed = {"device": device, "pool": "p", "store": str(folder / "store"), "store_sync": False, **settings}
    ours = Settings(**changed)
    with ExitStack() as stack:
        worker = Worker(ours, MemoryBroker(node, "worker"))
        worker.start()
        stack.callback(worker.stop)
        clients = Tenants(node)
        stack.callback(clients.broker.close)
        clients.extend(stack.enter_context(kaasq.Client(MemoryBroker(node, name), settings=ours)) for name in names)
        yield clients


def secret_address(victim: kaasq.Client, secret: np.ndarray) -> int:
    """Has a tenant's kernel use its secret, which stays on the device; the address it has there."""
    graph = kaasq.Graph("test.leak")
    held = graph.input("secret", shape=SECRETS, dtype="uint32", const=True)
    where = graph.output("where", shape=1, dtype="uint64")
    graph.launch(kaasq.Module.from_source(LEAK).kernel("leak"), grid=1, block=1, args=[held, where])
    return int(victim.run(graph, secret=victim.put(secret), timeout=60)["where"][0])


def pry(thief: kaasq.Client, address: int) -> np.ndarray:
    """What another tenant's kernel finds at an address that was not given to it. Raises KernelFailed if it crashed."""
    graph = kaasq.Graph("test.pry")
    where = graph.scalar("where", "uint64")
    found = graph.output("found", shape=SECRETS, dtype="uint32")
    kernel = kaasq.Module.from_source(PRY).kernel("pry")
    graph.launch(kernel, grid=1, block=1, args=[where, found, np.int32(SECRETS)])
    return np.asarray(thief.run(graph, where=address, timeout=60)["found"])
