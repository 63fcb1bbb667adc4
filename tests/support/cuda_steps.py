"""The steps that the cuda device makes of a built-in, run on the cpu device: its kernels compile for both."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from kaasq.builtins import Call, resolve_call
from kaasq.model import BUILTINS, Buffer, Constant, Launch, Module, Number
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cuda.builtins.sources import module_of
from kaasq_workers.devices.cuda.builtins.steps import (
    SCRATCH,
    Bounds,
    Figure,
    KernelStep,
    Matrix,
    Pointer,
    ProductStep,
    Steps,
)
from kaasq_workers.devices.cuda.builtins.table import PLANS
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.arguments import PackedArguments, pointer


class Case(NamedTuple):
    """A call of a built-in on arrays and numbers, by parameter name."""

    builtin: str
    operands: dict[str, Any]
    attrs: dict[str, Any]
    bounds: Bounds = Bounds()

    def call(self) -> Call:
        """Checked."""
        return call_of(self.builtin, self.operands, self.attrs)

    def numbers(self) -> dict[str, Number]:
        """Those given, and the defaults of those left out."""
        known = self.call().builtin.parameters
        defaults = {each.name: each.default for each in known if isinstance(each.default, (int, float))}
        return defaults | {name: value for name, value in self.operands.items() if not isinstance(value, np.ndarray)}

    def steps(self) -> Steps:
        """What the cuda device runs for it."""
        return PLANS[self.builtin](self.call(), self.bounds)

    def __repr__(self) -> str:
        def shown(value: Any) -> str:
            return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)

        given = ", ".join(f"{name}={shown(value)}" for name, value in (self.operands | self.attrs).items())
        bounds = "" if self.bounds == Bounds() else f", {self.bounds}"
        return f"{self.builtin}({given}{bounds})"


def call_of(builtin: str, operands: Mapping[str, Any], attrs: Mapping[str, Any]) -> Call:
    """A checked call; arrays become buffers of their shape and dtype, numbers constants."""
    declared: dict[str, Any] = {}
    args: list[str | Constant] = []
    for name, value in operands.items():
        if isinstance(value, np.ndarray):
            declared[name] = Buffer(
                name=name, role="inout", nbytes=value.nbytes, dtype=value.dtype.name, shape=value.shape
            )
            args.append(name)
        else:
            args.append(Constant(dtype="float64" if isinstance(value, float) else "int64", value=value))
    return resolve_call(Launch(module=BUILTINS, kernel=builtin, args=tuple(args), attrs=dict(attrs)), "here", declared)


def run_on(device: Device, case: Case) -> dict[str, np.ndarray]:
    """The operands' arrays after the device's own built-in has run; on the cpu device, what NumPy says."""
    operands: dict[str, Any] = dict(case.numbers())
    stream = device.stream()
    arrays = {name: value for name, value in case.operands.items() if isinstance(value, np.ndarray)}
    for name, value in arrays.items():
        operands[name] = device.allocate(value.nbytes)
        stream.copy_in(operands[name], raw(value))
    stream.operate(device.prepare(case.call()), operands)
    found = {name: np.empty_like(value, order="C") for name, value in arrays.items()}
    for name, value in found.items():
        stream.copy_out(operands[name], raw(value))
    stream.synchronize()
    return found


def raw(array: np.ndarray) -> memoryview:
    """An array's bytes; of a contiguous one, where they are."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


LESS_EXACT = {"gemm", "conv2d", "reduce", "log_softmax"}
"""Long sums, added in another order, and differences of them."""


def compare(
    case: Case, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerances: Mapping[str, float]
) -> None:
    """Equal, or floats within a tolerance by dtype, relative to the largest."""
    for operand, array in wanted.items():
        where = f"{operand} of {case}"
        if "float" in array.dtype.name:
            tolerance = tolerances[array.dtype.name] * (8 if case.builtin in LESS_EXACT else 1)
            scale = np.nanmax(np.abs(array[np.isfinite(array)]), initial=1.0)
            np.testing.assert_allclose(found[operand], array, rtol=tolerance, atol=tolerance * scale, err_msg=where)
        else:
            np.testing.assert_array_equal(found[operand], array, err_msg=where)


class StepRunner:
    """Runs steps on a cpu device."""

    def __init__(self, device: CpuDevice) -> None:
        self.device = device
        self._kernels: dict[str, Any] = {}

    def load(self, cases: Iterable[Case]) -> None:
        """Compile what these cases need: each module once for all of them, several at a time."""
        wanted: dict[Module, set[str]] = {}
        for case in cases:
            for step in case.steps():
                if isinstance(step, KernelStep) and step.kernel not in self._kernels:
                    wanted.setdefault(module_of(step.family, step.kernel), set()).add(step.kernel)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            loading = {
                module: pool.submit(self.device.load, module, tuple(sorted(names))) for module, names in wanted.items()
            }
        for module, names in wanted.items():
            self._kernels |= {name: loading[module].result().kernel(name) for name in names}

    def run(self, case: Case) -> dict[str, np.ndarray]:
        """The operands' arrays afterwards."""
        arrays = {name: value for name, value in case.operands.items() if isinstance(value, np.ndarray)}
        numbers = case.numbers()
        memory = {name: self.device.allocate(value.nbytes) for name, value in arrays.items()}
        memory[SCRATCH] = self.device.allocate(case.bounds.scratch_bytes)
        stream = self.device.stream()
        for name, value in arrays.items():
            stream.copy_in(memory[name], raw(value))
        for step in case.steps():
            if isinstance(step, KernelStep):
                values = [_value(each, memory, numbers) for each in step.args]
                sizes = [each.size for each in self._kernels[step.kernel].parameters]
                assert [len(each) for each in values] == sizes, step
                packed = PackedArguments(values)
                stream.launch(self._kernels[step.kernel], step.grid, step.block, packed, 0)
            else:
                _multiply(step, memory, numbers)
        return {
            name: memory[name].bytes[: value.nbytes].view(value.dtype).reshape(value.shape).copy()
            for name, value in arrays.items()
        }


def _value(arg: Pointer | Figure | bytes, memory: Mapping[str, Any], numbers: Mapping[str, Number]) -> bytes:
    match arg:
        case Pointer("", _):
            return pointer(0)
        case Pointer(name, offset):
            return pointer(memory[name].address + offset)
        case Figure(name=name):
            return arg.packed(numbers[name])
    return arg


def _multiply(step: ProductStep, memory: Mapping[str, Any], numbers: Mapping[str, Number]) -> None:
    def view(matrix: Matrix, rows: int, columns: int) -> np.ndarray:
        if matrix.transposed:
            rows, columns = columns, rows
        data = memory[matrix.at.name].bytes[matrix.at.offset :]
        data = data[: data.size // np.dtype(step.dtype).itemsize * np.dtype(step.dtype).itemsize].view(step.dtype)
        last = (step.batch - 1) * matrix.batch_step + (rows - 1) * matrix.row_step + columns
        assert last <= data.size
        strides = tuple(each * data.itemsize for each in (matrix.batch_step, matrix.row_step, 1))
        found = np.lib.stride_tricks.as_strided(data, (step.batch, rows, columns), strides)
        return found.swapaxes(1, 2) if matrix.transposed else found

    alpha, beta = (numbers[each.name] if isinstance(each, Figure) else each for each in (step.alpha, step.beta))
    a, b, c = view(step.a, step.m, step.k), view(step.b, step.k, step.n), view(step.c, step.m, step.n)
    compute = np.result_type(np.float32, step.dtype)
    product = alpha * (a.astype(compute) @ b.astype(compute))
    c[...] = product if beta == 0 else product + beta * c.astype(compute)
