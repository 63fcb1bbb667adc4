"""Runs a cluster of private RabbitMQ nodes on this machine, each of which may be killed and started again."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kaasq_bench.children import tied
from kaasq_bench.rabbitmq.api import Management, ManagementError
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.ports import free_ports
from kaasq_bench.rabbitmq.start import node_name


class RabbitCluster:
    """Used as a context manager; once entered, every node serves and knows the others."""

    def __init__(self, size: int = 3, *, root: Path | None = None) -> None:
        self._epmd_port, *ports = free_ports(size + 1)
        config = {"cluster_formation.peer_discovery_backend": "classic_config"}
        config |= {f"cluster_formation.classic_config.nodes.{n}": node_name(port) for n, port in enumerate(ports, 1)}
        cookie = secrets.token_hex(10).upper()
        self.nodes = [
            RabbitNode(port=port, config=config, root=root, schedulers=1, epmd_port=self._epmd_port, cookie=cookie)
            for port in ports
        ]
        self._epmd: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the first node that runs."""
        return self._running().url

    @property
    def urls(self) -> list[str]:
        """Of all nodes."""
        return [each.url for each in self.nodes]

    @property
    def version(self) -> str:
        return self._running().version

    @property
    def management(self) -> Management:
        return self._running().management

    def leader(self, queue: str) -> RabbitNode:
        """The node on which the queue's leader is."""
        found: Any = self.management.call("GET", "queues", "/", queue)
        name = found.get("leader") or found["node"]
        return next(each for each in self.nodes if node_name(each.port) == name)

    def online(self, queue: str) -> int:
        """How many of the queue's members take part."""
        with contextlib.suppress(ManagementError):
            return len(self.management.call("GET", "queues", "/", queue).get("online", ()))
        return 0

    def ctl(self, *args: str) -> str:
        return self._running().ctl(*args)

    def pids(self) -> list[int]:
        """Every process of every node."""
        return [pid for each in self.nodes for pid in each.pids()]

    def kill(self) -> None:
        self._each(RabbitNode.kill)

    def start(self) -> Self:
        """Start what does not run."""
        self._each(RabbitNode.start)
        return self

    def __enter__(self) -> Self:
        # Of its own: that of a node would end with that node, and the others would not find each other again.
        self._epmd = subprocess.Popen(tied("epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)))
        try:
            return self.start()  # at once: on 4.x each waits for the others
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all nodes; their data go with them."""
        self._each(RabbitNode.close)
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def _running(self) -> RabbitNode:
        return next((each for each in self.nodes if each.running), self.nodes[0])

    def _each(self, what: Callable[[RabbitNode], object]) -> None:
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(what, self.nodes))
