"""AsyncClients on an in-memory broker, with stores and brokers that block where a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import Output, Reply
from kaasq.settings import Settings
from kaasq_producers import AsyncClient
from tests.support.fake_worker import INFO, FakeWorker, Held


class Gate:
    """Blocks the threads that pass it until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._open.wait(20), "nobody opened the gate"

    def open(self) -> None:
        self._open.set()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, behind this gate."""

        def call(*args: Any, **named: Any) -> Any:
            self()
            return function(*args, **named)

        return call


class GatedBroker(MemoryBroker):
    """Opens once its gate is open."""

    def __init__(self, node: MemoryNode) -> None:
        super().__init__(node, "ann")
        self.gate = Gate()

    def open(self, timeout_s: float) -> None:
        self.gate()
        super().open(timeout_s)


class Bench:
    """A node, a scripted worker, and clients on it."""

    def __init__(self, folder: Path) -> None:
        self.node = MemoryNode()
        self.worker = FakeWorker(MemoryBroker(self.node, "worker"))
        self._folder = folder

    def client(self, broker: MemoryBroker | None = None, *, fetch: bool = True, **changes: Any) -> AsyncClient:
        fields: dict[str, Any] = {"store": str(self._folder / "store"), "store_capacity": 1 << 30, "store_sync": False}
        settings = Settings(**{**fields, "timeout": 10.0, **changes})
        return AsyncClient(broker or MemoryBroker(self.node, "ann"), settings=settings, fetch=fetch)

    def held(self) -> Held:
        """From now on the worker answers when the test says so."""
        held = Held()
        self.worker.answer = held
        return held

    def answers_with(self, **outputs: Output) -> None:
        """From now on these are every request's outputs."""
        self.worker.answer = lambda _, message: Reply(
            id=message.message_id or "", status="ok", outputs=outputs, worker=INFO
        )


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    made = Bench(folder)
    with made.worker:
        yield made
