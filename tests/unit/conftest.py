"""A client on an in-memory broker, and a worker that its tests script (``tests/support/fake_worker.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_producers import Client
from tests.support.fake_worker import FakeWorker


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "store"), store_capacity=1 << 26, store_sync=False, timeout=5.0)


@pytest.fixture
def client(node: MemoryNode, settings: Settings) -> Iterator[Client]:
    with Client(MemoryBroker(node, "ann"), settings=settings) as made:
        yield made


@pytest.fixture
def worker(node: MemoryNode) -> Iterator[FakeWorker]:
    with FakeWorker(MemoryBroker(node, "worker")) as made:
        yield made
