"""A process that does nothing else: a program's kernels already loaded, its arrays already in device memory.

Siblings: a loop of CuPy launches and a captured CUDA graph (``cupy_resident``), and here a loop over the device itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from kaasq.model import Module
from kaasq_bench.graphs import Floats, Program
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.arguments import PackedArguments, pointer


class Once(NamedTuple):
    """One run. ``device_us``: from the first launch to the end of the last; ``executor_us``: with copies, in the
    process that has the device; ``whole_us``: until who asked for it has the outputs, here the same.
    """

    device_us: float
    executor_us: float
    whole_us: float
    outputs: dict[str, Floats]


class Resident(Protocol):
    """Runs the program as often as asked."""

    def run(self) -> Once: ...


class DeviceLoop:
    """The program's launches one after another on one of kaasq's own devices, with nothing around them."""

    def __init__(self, device: Device, program: Program) -> None:
        self._program = program
        self._stream = device.stream()
        sizes = {**program.temps, **program.outputs}
        sizes |= {name: array.size for name, array in {**program.resident, **program.given}.items()}
        self._memory = {name: device.allocate(4 * size) for name, size in sizes.items()}
        for name, array in program.resident.items():
            self._stream.copy_in(self._memory[name], array.reshape(-1).data.cast("B"))
        kernels = tuple({step.kernel for step in program.steps})
        self._module = device.load(Module.from_source(program.source), kernels)
        self._launches = []
        for step in program.steps:
            packed = PackedArguments(
                [pointer(self._memory[a].address) if isinstance(a, str) else a.tobytes() for a in step.args]
            )
            self._launches.append((self._module.kernel(step.kernel), (step.grid, 1, 1), (step.block, 1, 1), packed))

    def run(self) -> Once:
        start = time.perf_counter()
        stream, program = self._stream, self._program
        for name, array in program.given.items():
            stream.copy_in(self._memory[name], array.reshape(-1).data.cast("B"))
        for name in [*program.temps, *program.outputs]:
            stream.zero(self._memory[name])
        began = stream.mark()
        for _ in range(program.iterations):
            for kernel, grid, block, arguments in self._launches:
                stream.launch(kernel, grid, block, arguments, 0)
        ended = stream.mark()
        outputs = {name: np.empty(size, np.float32) for name, size in program.outputs.items()}
        for name, array in outputs.items():
            stream.copy_out(self._memory[name], array.data.cast("B"))
        stream.synchronize()
        wall_us = (time.perf_counter() - start) * 1e6
        return Once(ended.us_since(began), wall_us, wall_us, outputs)


@contextmanager
def cpu_loop(program: Program, cache: Path) -> Iterator[DeviceLoop]:
    """That loop on the CPU, in this process."""
    device = CpuDevice(cache_dir=cache)
    try:
        yield DeviceLoop(device, program)
    finally:
        device.close()
