"""Requests to kaasq with everything bound, one at a time, taken apart into where their time went."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kaasq import Graph
from kaasq_bench.graphs import Program
from kaasq_bench.peers.resident import Once
from kaasq_bench.serving import Serving


class KaasqProgram:
    """One graph with its bindings. A run ends when all outputs are arrays in this process."""

    def __init__(self, serving: Serving, graph: Graph, bound: Mapping[str, Any]) -> None:
        self._client, self._graph, self._bound = serving.client, graph, bound

    @classmethod
    def of(cls, serving: Serving, program: Program) -> KaasqProgram:
        """What is resident in a peer lies in the store; on the device it is cached from the first request on."""
        resident = {name: serving.put(array) for name, array in program.resident.items()}
        return cls(serving, program.graph(), {**resident, **program.given})

    def run(self) -> Once:
        start = time.perf_counter()
        result = self._client.run(self._graph, bind=self._bound)
        outputs = dict(result)
        whole_us = (time.perf_counter() - start) * 1e6
        return Once(result.timings.kernel, result.timings.total, whole_us, outputs)
