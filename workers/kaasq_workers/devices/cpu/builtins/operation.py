"""A built-in made ready on the CPU: its function, and its operands as NumPy arrays over device memory."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kaasq.builtins import Call
from kaasq.errors import KernelFailed, ModuleRejected, OutOfMemory
from kaasq.model import Number
from kaasq_workers.devices.cpu.builtins.table import FUNCTIONS, Function
from kaasq_workers.devices.cpu.memory import CpuMemory
from kaasq_workers.devices.protocol import Memory

MESSAGE_LENGTH = 600  # of what another package's exception says


class CpuOperation:
    """One built-in of a plan."""

    def __init__(self, call: Call, function: Function) -> None:
        self.call = call
        self._function = function
        # NumPy makes numbers of arrays without axes where it slices them, or computes with them.
        self._least: tuple[int, ...] = () if call.builtin.run is not None else (1,)
        self._read_only = {each.name for each in call.builtin.parameters if each.access == "reads"}

    def run(self, operands: Mapping[str, Memory | Number]) -> None:
        """Run it, to its end. Raises KernelFailed, and OutOfMemory where NumPy finds none."""
        arrays = {name: self._array(name, given) for name, given in operands.items()}
        try:
            with np.errstate(all="ignore"):  # infinities and NaN are results, as on a GPU
                self._function(self.call, arrays)
        except MemoryError as error:
            raise OutOfMemory(f"built-in {self.call.builtin.name!r} needs more host memory: {error}") from error

    def _array(self, name: str, given: Memory | Number) -> Any:
        if not isinstance(given, CpuMemory):
            return given
        operand = self.call.operands[name]
        array = given.bytes[: operand.nbytes].view(operand.dtype).reshape(operand.shape or self._least)
        array.flags.writeable = name not in self._read_only  # what is read may be a copy that others share
        return array


def prepare(call: Call) -> CpuOperation:
    """The operation of a call. Raises ModuleRejected if the CPU has no such built-in."""
    if call.builtin.run is not None:
        return CpuOperation(call, _foreign)
    function = FUNCTIONS.get(call.builtin.name)
    if function is None:
        raise ModuleRejected(f"the cpu device has no built-in {call.builtin.name!r}", kernel=call.builtin.name)
    return CpuOperation(call, function)


def _foreign(call: Call, operands: dict[str, Any]) -> None:
    """Run one of another package, whose failures are the request's and not the worker's."""
    name, run = call.builtin.name, call.builtin.run
    assert run is not None
    try:
        given: object = run(np, operands, dict(call.attrs))
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise KernelFailed(
            f"built-in {name!r} failed: {type(error).__name__}: {error!s:.{MESSAGE_LENGTH}} "
            f"({Path(frame.filename).name}:{frame.lineno})",
            kernel=name,
        ) from error
    if given is not None:
        raise KernelFailed(
            f"built-in {name!r} returned a {type(given).__name__}; it is to write into its operands and return nothing",
            kernel=name,
        )
