"""What the engine is measured beside on a GPU: launches captured by hand with CuPy, and products with all resident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from kaasq_bench.graphs import Floats


class CapturedLaunches:
    """So many launches of saxpy over n floats, replayed: the device's own time."""

    def __init__(self, index: int, source: str, count: int, n: int) -> None:
        cupy.cuda.Device(index).use()
        kernel = cupy.RawKernel(source, "saxpy")
        x, out = cupy.ones(n, cupy.float32), cupy.zeros(n, cupy.float32)

        def launches() -> None:
            for _ in range(count):
                kernel((-(-n // 256),), (256,), (np.float32(0.5), x, out, out, np.int32(n)))

        self._stream, self._graph = _captured(launches)
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()

    def device_us(self) -> float:
        self._begin.record(self._stream)
        self._graph.launch(self._stream)
        self._end.record(self._stream)
        self._end.synchronize()
        return float(cupy.cuda.get_elapsed_time(self._begin, self._end)) * 1000


class CapturedSweeps:
    """Sweeps of a stencil there and back over two squares, with pinned copies in and out: all that a request does."""

    captured = 1000  # sweeps in the graph, which is launched as often as it takes

    def __init__(self, index: int, source: str, sweeps: int, start: Floats) -> None:
        cupy.cuda.Device(index).use()
        n = start.shape[0]
        kernel = cupy.RawKernel(source, "sweep")
        self._given, self._times = start, sweeps // self.captured
        self._device = here, there = cupy.asarray(start), cupy.asarray(start)

        def steps() -> None:
            for _ in range(self.captured // 2):
                for before, after in ((here, there), (there, here)):
                    kernel((n // 32, n // 8), (32, 8), (before, after, np.int32(n)))

        self._stream, self._graph = _captured(steps)
        pinned = cupy.cuda.alloc_pinned_memory(2 * start.nbytes)
        self._host = [np.frombuffer(pinned, np.float32, n * n, offset=i * start.nbytes).reshape(n, n) for i in range(2)]

    def run(self) -> bytes:
        """Both squares, in memory of their own; the first one."""
        for host, device in zip(self._host, self._device, strict=True):
            host[:] = self._given
            device.set(host, self._stream)
        for _ in range(self._times):
            self._graph.launch(self._stream)
        for host, device in zip(self._host, self._device, strict=True):
            device.get(self._stream, out=host, blocking=False)
        self._stream.synchronize()
        first, _ = (each.tobytes() for each in self._host)
        return first


class ResidentProducts:
    """x multiplied by one weight after the other, and the sum of what comes out."""

    def __init__(self, index: int, weights: list[Floats], x: Floats) -> None:
        cupy.cuda.Device(index).use()
        self._weights: list[Any] = [cupy.asarray(each) for each in weights]
        self._x = cupy.asarray(x)

    def run(self) -> float:
        y = self._x
        for each in self._weights:
            y = y @ each
        return float(y.sum())


def _captured(launches: Callable[[], None]) -> tuple[Any, Any]:
    """A stream, and the launches as a graph to be replayed in it."""
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        launches()
        stream.synchronize()
        stream.begin_capture()
        launches()
        return stream, stream.end_capture()
