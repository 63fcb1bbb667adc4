"""Ports for private nodes."""

from __future__ import annotations

import random
import socket

from kaasq_bench.rabbitmq.installation import NodeError

# Below Linux's range of ephemeral ports: no client socket can take a node's port between its stop and its restart.
PORT_RANGE = (20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Distinct ports on which nothing listens just now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(range(*PORT_RANGE), 400):
        if is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise NodeError(f"no {count} free ports in {PORT_RANGE[0]}-{PORT_RANGE[1]}")


def is_free(port: int) -> bool:
    """Whether nothing listens there."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Erlang does
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
