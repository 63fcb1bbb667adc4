"""A chain of matrix products by hand, resident in this process."""

from __future__ import annotations

import time

from kaasq_bench.graphs import Floats
from kaasq_bench.peers.resident import Once
from kaasq_bench.peers.tenant_process import Chain


class Products:
    """The same chain that a tenant's own process runs."""

    def __init__(self, device: str, weights: list[Floats], x: Floats) -> None:
        self._chain = Chain(device, weights, x)

    def run(self) -> Once:
        start = time.perf_counter()
        out = self._chain.run()
        wall_us = (time.perf_counter() - start) * 1e6
        return Once(wall_us, wall_us, wall_us, {"out": out})
