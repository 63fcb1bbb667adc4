"""What a job computes: a closed signal is smoothed, once or again and again, and its sum stays what it was."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

import kaasq

LEAST, MOST = 64, 1 << 26  # numbers
PASSES = {"interactive": 1, "large": 32}
KINDS = tuple(PASSES)
TOLERANCE = 1e-3  # of the sum, in float32

SMOOTH = kaasq.Module.from_source(r"""
extern "C" __global__ void smooth(const float* x, float* out, int n)
{
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = (x[i == 0 ? n - 1 : i - 1] + x[i] + x[i == n - 1 ? 0 : i + 1]) / 3;
}
""").kernel("smooth")


@dataclass(frozen=True, slots=True)
class Job:
    """What is published for one arrival, and what its answer must be."""

    graph: kaasq.Graph
    signal: Any
    total: float

    def holds(self, result: kaasq.Result) -> bool:
        """Whether the answer is right: smoothing moves what there is, and adds nothing."""
        return abs(float(result["total"][0]) - self.total) <= TOLERANCE * self.total


class Jobs:
    """Jobs for arrivals. A large one takes its signal from the store, an interactive one brings its own."""

    def __init__(self, client: kaasq.AsyncClient, seed: int = 0) -> None:
        self._client = client
        self._random = np.random.default_rng(seed)
        self._stored: dict[int, Job] = {}

    async def prepare(self, kind: str, size: int) -> None:
        """Bring what such a job needs to the store, and run one, so that its kernels are compiled."""
        n = padded(size)
        if kind == "large" and n not in self._stored:
            made = self._signal(n)
            self._stored[n] = Job(graph(kind, n), await self._client.put(made), total(made))
        job = self.job(kind, size)
        if not job.holds(await self._client.run(job.graph, signal=job.signal)):
            raise RuntimeError(f"a job of kind {kind!r} gave a wrong answer")

    def job(self, kind: str, size: int) -> Job:
        """The next job of that kind; it must have been prepared."""
        n = padded(size)
        if kind == "large":
            return self._stored[n]
        made = self._signal(n)
        return Job(graph(kind, n), made, total(made))

    def _signal(self, n: int) -> npt.NDArray[np.float32]:
        return self._random.random(n, np.float32)


def total(signal: npt.NDArray[np.float32]) -> float:
    """What the sum of its numbers is."""
    return float(signal.sum(dtype=np.float64))


def padded(size: int) -> int:
    """Sizes are rounded up to powers of two: a graph says the sizes of its buffers, and one for each would be many."""
    return max(LEAST, 1 << (size - 1).bit_length())


@lru_cache(maxsize=64)
def graph(kind: str, n: int) -> kaasq.Graph:
    """``signal`` of n numbers, smoothed as often as its kind is, to ``total``, their sum."""
    made = kaasq.Graph(f"replay.{kind}")
    signal = made.input("signal", shape=n, dtype="float32", const=True)
    now, then = signal, made.temp("one", shape=n, dtype="float32")
    free = made.temp("other", shape=n, dtype="float32") if PASSES[kind] > 1 else then
    for _ in range(PASSES[kind]):
        made.launch(SMOOTH, grid=-(-n // 256), block=256, args=[now, then, np.int32(n)])
        now, then = then, free if now is signal else now
    made.call("reduce", now, made.output("total", shape=1, dtype="float32"), op="sum", keepdims=True)
    return made
