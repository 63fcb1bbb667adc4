"""The graph that workers and devices are tried with: one launch, whose answer is known."""

from __future__ import annotations

from kaasq.graph import Graph
from kaasq.model import GraphSpec, Module

_PROBE = 'extern "C" __global__ void probe(int* out) { out[threadIdx.x] = threadIdx.x + 1; }'
ANSWER = list(range(1, 33))


def probe() -> GraphSpec:
    """Its output ``out`` is to be ANSWER, as int32."""
    graph = Graph("doctor")
    out = graph.output("out", shape=32, dtype="int32")
    graph.launch(Module.from_source(_PROBE).kernel("probe"), grid=1, block=32, args=[out])
    return graph.freeze()
