"""A chain of matrix products by hand: weights in place, results written into arrays that are there."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from bench.graphs import Floats
from bench.peers.resident import Once


class Products:
    """(((w0 w1) w2) ...) x. ``xp`` is numpy or cupy; with cupy, x goes in and the result out by copies."""

    def __init__(self, xp: Any, weights: list[Floats], x: Floats) -> None:
        self._xp = xp
        self._weights = [xp.asarray(each) for each in weights]
        self._between = [xp.empty_like(self._weights[0]) for _ in range(2)]
        self._given = x
        self._x, self._out = xp.empty(x.shape, np.float32), xp.empty(x.shape, np.float32)

    def run(self) -> Once:
        start = time.perf_counter()
        xp, left = self._xp, self._weights[0]
        copied_in = self._given if xp is np else self._copy_in()
        for i, right in enumerate(self._weights[1:]):
            left = xp.matmul(left, right, out=self._between[i % 2])
        xp.matmul(left, copied_in, out=self._out)
        out: Floats = self._out if xp is np else self._out.get()
        wall_us = (time.perf_counter() - start) * 1e6
        return Once(wall_us, wall_us, wall_us, {"out": out})

    def _copy_in(self) -> Any:
        self._x.set(self._given)
        return self._x


def products_on(device: str, weights: list[Floats], x: Floats) -> Products:
    """With NumPy on the cpu, else with CuPy."""
    if device == "cpu":
        return Products(np, weights, x)
    import cupy

    cupy.cuda.Device(int(device.partition(":")[2] or 0)).use()
    return Products(cupy, weights, x)
