"""A copy between pinned host memory and the device, and waiting for it: the fastest there is."""

from __future__ import annotations

import cupy
from cupy.cuda import runtime


class PinnedCopy:
    """The same copy again and again."""

    def __init__(self, index: int, nbytes: int, *, to_device: bool) -> None:
        cupy.cuda.Device(index).use()
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._host = cupy.cuda.PinnedMemory(nbytes)
        self._device = cupy.cuda.Memory(nbytes)
        ends = (self._device.ptr, self._host.ptr) if to_device else (self._host.ptr, self._device.ptr)
        kind = runtime.memcpyHostToDevice if to_device else runtime.memcpyDeviceToHost
        self._arguments = (*ends, nbytes, kind, self._stream.ptr)

    def run(self) -> None:
        runtime.memcpyAsync(*self._arguments)
        runtime.streamSynchronize(self._stream.ptr)
