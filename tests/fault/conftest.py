"""A broker of its own for the fault tests, which kill it; how they are seeded; what a failure shows."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_faults.parts import broker as private_node

SEED_VARIABLE = "KAASQ_TEST_SEED"


@pytest.fixture(scope="package")
def _node() -> Iterator[RabbitNode]:
    with private_node() as node:
        yield node


@pytest.fixture
def node(_node: RabbitNode) -> RabbitNode:
    return _node.start()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Fixed, so that a schedule is the same every time; KAASQ_TEST_SEED tries others. A failure shows it."""
    return os.environ.get(SEED_VARIABLE, request.node.name)
