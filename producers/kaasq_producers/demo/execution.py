"""Runs the demo's graph through a client, first cold, then warm, and keeps what was measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from kaasq.graph import Graph
from kaasq.messages import Timings
from kaasq_producers.client import Client

TIMEOUT_S = 180.0  # the first request waits for a compiler, perhaps on a busy machine


class Run(msgspec.Struct, frozen=True):
    """One request: ``request_us`` from the call to the arrays in hand, ``timings`` as the worker measured them."""

    request_us: int
    timings: Timings

    @property
    def client_us(self) -> int:
        """What the worker's stages do not explain: storing the inputs, messages, fetching the outputs."""
        stages = self.timings
        explained = stages.queued + stages.load + stages.h2d + stages.kernel + stages.d2h + stages.commit
        return max(0, self.request_us - explained)


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """Every run's outputs by name, and what each took. The first is cold: it loads and compiles, the others do not."""

    device: str
    outputs: tuple[dict[str, Any], ...]
    runs: tuple[Run, ...]

    @property
    def cold(self) -> Run:
        """The first run."""
        return self.runs[0]

    @property
    def warm(self) -> Run:
        """The median of the later runs."""
        later = sorted(self.runs[1:] or self.runs, key=lambda run: run.request_us)
        return later[len(later) // 2]


def execute(client: Client, graph: Graph, bind: Mapping[str, Any], *, warm_runs: int) -> Execution:
    """Run the graph 1 + ``warm_runs`` times. Raises what the client raises."""
    device, outputs, runs = "", [], []
    for _ in range(1 + warm_runs):
        started = time.perf_counter_ns()
        result = client.run(graph, timeout=TIMEOUT_S, bind=bind)
        outputs.append(dict(result))
        runs.append(Run((time.perf_counter_ns() - started) // 1000, result.timings))
        device = result.worker.device
    return Execution(device=device, outputs=tuple(outputs), runs=tuple(runs))
