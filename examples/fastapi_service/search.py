"""What the service computes: how similar each stored vector is to a query, as a kernel graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kaasq import Graph, Module

SIMILARITY = Module.from_source(r"""
extern "C" __global__ void similarity(const float* vectors, const float* query, float* scores, int rows, int width)
{
  int row = blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  float dot = 0, norm = 0, length = 0;
  for (int i = 0; i < width; i++) {
    float v = vectors[(size_t)row * width + i], q = query[i];
    dot += v * q; norm += v * v; length += q * q;
  }
  scores[row] = dot / fmaxf(sqrtf(norm * length), 1e-12f);
}
""")


def similarity(rows: int, width: int) -> Graph:
    """Cosine similarity of ``query`` (width) to each of ``vectors`` (rows, width): ``scores`` (rows), all float32."""
    graph = Graph("search.similarity")
    vectors = graph.input("vectors", shape=(rows, width), dtype="float32", const=True)
    query = graph.input("query", shape=width, dtype="float32", const=True)
    scores = graph.output("scores", shape=rows, dtype="float32")
    graph.launch(
        SIMILARITY.kernel("similarity"),
        grid=-(-rows // 128),
        block=128,
        args=[vectors, query, scores, np.int32(rows), np.int32(width)],
    )
    return graph


def best(scores: npt.NDArray[np.float32], count: int) -> list[dict[str, Any]]:
    """The ids (row numbers) with the highest scores, best first."""
    ids = np.argsort(-scores, kind="stable")[:count]
    return [{"id": int(each), "score": float(scores[each])} for each in ids]
