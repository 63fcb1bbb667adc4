"""What clients ask for: small graphs whose answer is known beforehand, the same for the same seed."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np

import kaasq

SAXPY = r"""
extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i] + y[i]; }
"""
X, Y = 3.0, 1.0  # whole numbers: float32 keeps the answers exact
SHARED_NAMES = 3
SIZES = (64, 64, 64, 64, 64, 64, 64, 20_000)  # elements; the last is a file in the store


class Ask(NamedTuple):
    """One request."""

    key: str
    elements: int
    a: float
    name: str | None
    shared: bool

    @property
    def want(self) -> float:
        """Every element of its answer."""
        return self.a * X + Y


def ask(seed: str, key: str, *, own: bool = True) -> Ask:
    """The request of that key: half of them keep their output under a name of its own, a quarter under a shared one.

    Not ``own``: none has a name of its own, so that the store reaches a size and keeps it.
    """
    draw = random.Random(f"{seed}/{key}")
    elements = draw.choice(SIZES)
    a = float(draw.randint(1, 100_000))
    kind = draw.random() if own else draw.uniform(0.5, 1.0)
    if kind < 0.5:
        return Ask(key, elements, a, f"own/{key}", shared=False)
    if kind < 0.75:
        return Ask(key, elements, a, f"shared/{draw.randrange(SHARED_NAMES)}", shared=True)
    return Ask(key, min(elements, 64), a, None, shared=False)


def graph(elements: int) -> kaasq.Graph:
    """Out = a x + y."""
    made = kaasq.Graph(f"faults.saxpy-{elements}")
    x = made.input("x", shape=elements, dtype="float32", const=True)
    y = made.input("y", shape=elements, dtype="float32", const=True)
    out = made.output("out", shape=elements, dtype="float32")
    a = made.scalar("a", "float32", default=2.0)
    kernel = kaasq.Module.from_source(SAXPY).kernel("saxpy")
    made.launch(kernel, grid=-(-elements // 256), block=256, args=[a, x, y, out, np.int32(elements)])
    return made


def inputs(elements: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Its inputs."""
    return {"x": np.full(elements, X, np.float32), "y": np.full(elements, Y, np.float32)}
