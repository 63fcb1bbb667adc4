"""Built-ins that other packages bring, on the GPU: their ``run`` gets CuPy arrays over the operands' memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cupy

from kaasq.builtins import Call
from kaasq.errors import KaasqError, KernelFailed
from kaasq.model import Number
from kaasq_workers.devices.cuda.builtins.operation import CudaOperation
from kaasq_workers.devices.protocol import Memory

_CUDA_ERRORS = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)


class CustomOperation(CudaOperation):
    """One of them in a plan. What it allocates comes from CuPy's own pool, not from the device's."""

    def __init__(self, call: Call, device: int) -> None:
        super().__init__(call, ())
        assert call.builtin.run is not None
        self._run = call.builtin.run
        self._device = device
        self._attrs = dict(call.attrs)

    def queue(self, operands: Mapping[str, Memory | Number], stream: Any) -> None:
        """Call it with CuPy's current stream being this one. Raises KernelFailed, OutOfMemory, CUDA's errors."""
        given = {name: self._operand(name, each) for name, each in operands.items()}
        try:
            with stream.cupy:
                self._run(cupy, given, dict(self._attrs))
        except (*_CUDA_ERRORS, cupy.cuda.memory.OutOfMemoryError, KaasqError):
            raise
        except Exception as error:  # somebody else's code: whatever it raises, it is this request that failed
            name = self.call.builtin.name
            raise KernelFailed(
                f"built-in {name!r} failed: {type(error).__name__}: {error}", kernel=name, reason=str(error)
            ) from error

    def _operand(self, name: str, given: Memory | Number) -> Any:
        if isinstance(given, (bool, int, float)):
            return given
        operand = self.call.operands[name]
        memory = cupy.cuda.UnownedMemory(given.address, operand.nbytes, given, self._device)
        return cupy.ndarray(operand.shape, operand.dtype, cupy.cuda.MemoryPointer(memory, 0))
