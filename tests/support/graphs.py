"""Graphs that several tests use: ones that any device runs, and one whose kernel only has a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kaasq import Graph, Module
from kaasq.model import Buffer, GraphSpec, Launch

SAXPY = r"""
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i] + y[i]; }
"""

SOURCE = 'extern "C" __global__ void k(...) {}'
MODULE = Module.from_source(SOURCE)  # for tests that run nothing

SCRIBBLE = r"""
extern "C" __global__ void scribble(float* x, float* out, int n)
{ int i = threadIdx.x; if (i < n) { out[i] = x[i]; x[i] = -1.0f; } }
"""

CRASH = r"""
extern "C" __global__ void crash(int* out) { *(volatile int*)(size_t)(blockIdx.x + 8) = 1; out[0] = 1; }
"""

ENDLESS = r"""
extern "C" __global__ void endless(volatile int* out) { while (out[0] == 0) { out[1] = out[1] + 1; } }
"""

HELD = r"""
extern "C" int mkdir(const char* path, unsigned mode);
extern "C" int access(const char* path, int mode);
extern "C" __global__ void held(int* out)
{ mkdir("FOLDER/begun", 0700); while (access("FOLDER/end", 0) != 0) {} out[0] = 7; }
"""

CHAIN = r"""
extern "C" __global__ void square(const float* x, float* t, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) t[i] = x[i] * x[i]; }
extern "C" __global__ void total(const float* t, float* out, int n)
{
  extern __shared__ float part[];
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += t[i];
  part[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned s = blockDim.x / 2; s > 0; s >>= 1) {
    if (threadIdx.x < s) part[threadIdx.x] += part[threadIdx.x + s];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[0] = part[0];
}
"""


def saxpy(n: int = 4, name: str = "saxpy", *, const: bool = True, source: str = SAXPY, kernel: str = "saxpy") -> Graph:
    """out = a x + y over n floats, a rebindable, 2 by default."""
    graph = Graph(name)
    x = graph.input("x", shape=n, dtype="float32", const=const)
    y = graph.input("y", shape=n, dtype="float32", const=const)
    out = graph.output("out", shape=n, dtype="float32")
    a = graph.scalar("a", "float32", default=2.0)
    module = Module.from_source(source)
    graph.launch(module.kernel(kernel), grid=-(-n // 256), block=256, args=[a, x, y, out, np.int32(n)])
    return graph


def sum_of_squares(n: int) -> Graph:
    """Two kernels with a temp between them, and dynamic shared memory."""
    graph = Graph("test.sum-of-squares")
    x = graph.input("x", shape=n, dtype="float32", const=True)
    t = graph.temp("t", shape=n, dtype="float32")
    out = graph.output("out", shape=1, dtype="float32")
    module = Module.from_source(CHAIN)
    graph.launch(module.kernel("square"), grid=-(-n // 256), block=256, args=[x, t, np.int32(n)])
    graph.launch(module.kernel("total"), grid=1, block=256, args=[t, out, np.int32(n)], shared_bytes=256 * 4)
    return graph


def scribble(n: int) -> Graph:
    """A kernel that writes over what the graph calls an input."""
    graph = Graph("test.scribble")
    x = graph.input("x", shape=n, dtype="float32")
    out = graph.output("out", shape=n, dtype="float32")
    graph.launch(Module.from_source(SCRIBBLE).kernel("scribble"), grid=1, block=n, args=[x, out, np.int32(n)])
    return graph


def only_output(source: str, kernel: str, nbytes: int = 64) -> Graph:
    """One launch of one thread with one output."""
    graph = Graph("test." + kernel)
    out = graph.output("out", nbytes=nbytes)
    graph.launch(Module.from_source(source).kernel(kernel), grid=1, block=1, args=[out])
    return graph


def endless() -> Graph:
    """Ends at once if what is bound to ``out`` is not 0, else never: so it can be compiled before it is to hang."""
    graph = Graph("test.endless")
    out = graph.inout("out", shape=16, dtype="int32")
    graph.launch(Module.from_source(ENDLESS).kernel("endless"), grid=1, block=1, args=[out])
    return graph


def held(folder: Path) -> Graph:
    """Says that it runs, by making ``folder/begun``, and runs until there is ``folder/end``: then its output is 7.

    For the cpu device, which has the C library.
    """
    return only_output(HELD.replace("FOLDER", str(folder)), "held", nbytes=4)


def spec(*buffers: Buffer, **changes: Any) -> GraphSpec:
    """An unchecked graph of one launch that takes all the buffers."""
    fields: dict[str, Any] = {
        "name": "g",
        "buffers": buffers,
        "modules": {"m": MODULE},
        "launches": (Launch(module="m", kernel="k", args=tuple(each.name for each in buffers)),),
    }
    return GraphSpec(**{**fields, **changes})
