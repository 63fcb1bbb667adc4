"""The same kernels by hand with CuPy, resident: launched in a loop, and captured once as a CUDA graph."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

import cupy
import numpy as np

from kaasq_bench.graphs import Program
from kaasq_bench.peers.resident import Once

CAPTURED = 100  # launches in a captured graph at most: longer ones are launched several times


class CupyProgram(ABC):
    """What both have in common: arrays in device memory, copies, events around the launches."""

    def __init__(self, index: int, program: Program) -> None:
        cupy.cuda.Device(index).use()
        self._program = program
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._begin, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        with self._stream:
            arrays = {name: cupy.asarray(array) for name, array in {**program.resident, **program.given}.items()}
            arrays |= {n: cupy.zeros(size, np.float32) for n, size in {**program.temps, **program.outputs}.items()}
            self._arrays: dict[str, Any] = arrays
            names = {step.kernel for step in program.steps}
            kernels = {name: cupy.RawKernel(program.source, name) for name in names}
            self._steps = [
                (
                    kernels[step.kernel],
                    (step.grid,),
                    (step.block,),
                    tuple(arrays[each] if isinstance(each, str) else each for each in step.args),
                )
                for step in program.steps
            ]
            for kernel in kernels.values():
                kernel.compile()
        self._stream.synchronize()

    def run(self) -> Once:
        """Copies in, launches, copies out, each on one stream."""
        start = time.perf_counter()
        program, arrays = self._program, self._arrays
        with self._stream:
            for name, array in program.given.items():
                arrays[name].set(array)
            for name in [*program.temps, *program.outputs]:
                arrays[name].fill(0)
            self._begin.record(self._stream)
            self.launch()
            self._end.record(self._stream)
            outputs = {name: arrays[name].get() for name in program.outputs}
        self._stream.synchronize()
        wall_us = (time.perf_counter() - start) * 1e6
        device_us = float(cupy.cuda.get_elapsed_time(self._begin, self._end)) * 1e3
        return Once(device_us, wall_us, wall_us, outputs)

    @abstractmethod
    def launch(self) -> None:
        """Queue the launches in the current stream."""

    def queue(self, iterations: int) -> None:
        """So many iterations, launch by launch."""
        for _ in range(iterations):
            for kernel, grid, block, arguments in self._steps:
                kernel(grid, block, arguments)


class CupyLoop(CupyProgram):
    """One RawKernel launch after another."""

    def launch(self) -> None:
        self.queue(self._program.iterations)


class CupyGraph(CupyProgram):
    """The launches captured in a graph: whole, or a part of the iterations that is launched several times."""

    def __init__(self, index: int, program: Program) -> None:
        super().__init__(index, program)
        self._times = self._repeats()
        with self._stream:
            self._stream.begin_capture()
            self.queue(program.iterations // self._times)
            self._graph = self._stream.end_capture()
            self._graph.upload(self._stream)
        self._stream.synchronize()

    def launch(self) -> None:
        for _ in range(self._times):
            self._graph.launch(self._stream)

    def _repeats(self) -> int:
        """The least number of equal parts that are short enough, or the whole if one iteration is long already."""
        iterations, length = self._program.iterations, len(self._program.steps)
        fitting = (times for times in range(1, iterations + 1) if iterations % times == 0)
        return next((times for times in fitting if iterations // times * length <= CAPTURED), 1)
