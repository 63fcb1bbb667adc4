"""A client on an in-memory broker, for tests that script its worker (``tests/support/fake_worker.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_producers import Client


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
