"""A built-in made ready on the CPU: its function, and its operands as NumPy arrays over device memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq.errors import ModuleRejected
from kaasq.model import Number
from kaasq_workers.devices.cpu.builtins.table import FUNCTIONS
from kaasq_workers.devices.cpu.memory import CpuMemory
from kaasq_workers.devices.protocol import Memory

Run = Callable[[Any, dict[str, Any], dict[str, Any]], None]


class CpuOperation:
    """One built-in of a plan."""

    def __init__(self, call: Call, run: Run) -> None:
        self.call = call
        self._run = run

    def run(self, operands: Mapping[str, Memory | Number]) -> None:
        """Run it, to its end."""
        arrays = {name: self._array(name, given) for name, given in operands.items()}
        self._run(np, arrays, self.call.attrs)

    def _array(self, name: str, given: Memory | Number) -> Any:
        if not isinstance(given, CpuMemory):
            return given
        operand = self.call.operands[name]
        return given.bytes[: operand.nbytes].view(operand.dtype).reshape(operand.shape)


def prepare(call: Call) -> CpuOperation:
    """The operation of a call. Raises ModuleRejected if the CPU has no such built-in."""
    run = call.builtin.run or FUNCTIONS.get(call.builtin.name)
    if run is None:
        raise ModuleRejected(f"the cpu device has no built-in {call.builtin.name!r}", kernel=call.builtin.name)
    return CpuOperation(call, run)
