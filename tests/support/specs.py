"""Graphs that several tests use."""

from __future__ import annotations

from typing import Any

import kaasq
from kaasq.model import Buffer, GraphSpec, Launch, Module

SOURCE = 'extern "C" __global__ void k(...) {}'
MODULE = Module.from_source(SOURCE)


def saxpy(n: int = 4, name: str = "saxpy") -> kaasq.Graph:
    """out = a * x + y over n floats; the scalar a has the default 2."""
    graph = kaasq.Graph(name)
    x = graph.input("x", shape=(n,), dtype="float32")
    y = graph.input("y", shape=(n,), dtype="float32")
    out = graph.output("out", shape=(n,), dtype="float32")
    a = graph.scalar("a", "float32", default=2.0)
    graph.launch(MODULE.kernel("k"), grid=1, block=n, args=[a, x, y, out])
    return graph


def spec(*buffers: Buffer, **changes: Any) -> GraphSpec:
    """An unchecked graph of one launch that takes all the buffers."""
    fields: dict[str, Any] = {
        "name": "g",
        "buffers": buffers,
        "modules": {"m": MODULE},
        "launches": (Launch(module="m", kernel="k", args=tuple(each.name for each in buffers)),),
    }
    return GraphSpec(**{**fields, **changes})
