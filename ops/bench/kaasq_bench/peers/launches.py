"""Other ways to launch the same loaded kernel in the same stream: CuPy, cuda.core, and the driver's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from kaasq.model import Dim3
from kaasq_bench.sources import SAXPY
from kaasq_workers.executor.arguments import PackedArguments, pointer

if TYPE_CHECKING:
    from kaasq_workers.devices.cuda.module import CudaKernel
    from kaasq_workers.devices.cuda.stream import CudaStream


class LaunchPeers:
    """saxpy of n floats, its three arrays at ``addresses``."""

    def __init__(
        self,
        index: int,
        stream: CudaStream,
        kernel: CudaKernel,
        addresses: list[int],
        n: int,
        grid: Dim3,
        block: Dim3,
    ) -> None:
        import cupy
        from cuda import core
        from cuda.bindings import driver

        self._grid, self._block = grid, block
        self._raw = cupy.RawKernel(SAXPY, "saxpy")
        self._arrays = (np.float32(2), *(cupy.zeros(n, cupy.float32) for _ in addresses), np.int32(n))
        cupy.cuda.Device().synchronize()
        core.Device(index).set_current()
        self._core = core
        self._core_stream = core.Stream.from_handle(stream.pointer)
        self._core_kernel = core.Kernel.from_handle(kernel.handle)
        self._config = core.LaunchConfig(grid=grid, block=block)
        self._values = (np.float32(2), *addresses, np.int32(n))
        self._driver = driver
        self._function, self._handle = driver.CUfunction(kernel.function), driver.CUstream(stream.pointer)
        self._packed = PackedArguments(
            [np.float32(2).tobytes(), *(pointer(each) for each in addresses), np.int32(n).tobytes()]
        )

    def ways(self) -> dict[str, Callable[[], object]]:
        """A function for each that queues one launch; CuPy's in the current stream."""
        return {"CuPy RawKernel": self._by_cupy, "cuda.core launch": self._by_core, "cuLaunchKernel": self._by_driver}

    def _by_cupy(self) -> None:
        self._raw(self._grid, self._block, self._arrays)

    def _by_core(self) -> None:
        self._core.launch(self._core_stream, self._config, self._core_kernel, *self._values)

    def _by_driver(self) -> None:
        self._driver.cuLaunchKernel(
            self._function, *self._grid, *self._block, 0, self._handle, self._packed.pointers, 0
        )
