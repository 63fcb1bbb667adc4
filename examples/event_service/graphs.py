"""The two graphs of the chain: a photo is smoothed, then its grey values are counted."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kaasq import Graph, Module

BINS = 16

KERNELS = Module.from_source(r"""
extern "C" __global__ void smooth(const float* image, float* out, int rows, int columns)
{
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
  if (x >= columns) return;
  float sum = 0; int count = 0;
  for (int i = max(0, y - 1); i <= min(rows - 1, y + 1); i++)
    for (int j = max(0, x - 1); j <= min(columns - 1, x + 1); j++) { sum += image[(size_t)i * columns + j]; count++; }
  out[(size_t)y * columns + x] = sum / count;
}

extern "C" __global__ void count(const float* image, int* counts, int bins, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int bin = (int)(image[i] * bins);
  atomicAdd(&counts[min(max(bin, 0), bins - 1)], 1);
}
""")


@lru_cache(maxsize=64)
def smooth(rows: int, columns: int) -> Graph:
    """Each pixel as the mean of itself and its neighbours: ``image`` to ``smoothed`` (rows, columns), float32."""
    graph = Graph("photos.smooth")
    image = graph.input("image", shape=(rows, columns), dtype="float32", const=True)
    out = graph.output("smoothed", shape=(rows, columns), dtype="float32")
    graph.launch(
        KERNELS.kernel("smooth"),
        grid=(-(-columns // 128), rows),
        block=128,
        args=[image, out, np.int32(rows), np.int32(columns)],
    )
    return graph


@lru_cache(maxsize=64)
def histogram(rows: int, columns: int) -> Graph:
    """How many pixels of ``image`` (0 to 1) fall into each of 16 ``counts``, int32."""
    graph = Graph("photos.histogram")
    image = graph.input("image", shape=(rows, columns), dtype="float32", const=True)
    counts = graph.output("counts", shape=BINS, dtype="int32")
    pixels = rows * columns
    graph.launch(
        KERNELS.kernel("count"),
        grid=-(-pixels // 128),
        block=128,
        args=[image, counts, np.int32(BINS), np.int32(pixels)],
    )
    return graph
