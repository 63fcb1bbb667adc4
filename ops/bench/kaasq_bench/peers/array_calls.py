"""Calls on CuPy's arrays in one stream: of kaasq's built-ins, of CuPy and, where it is installed, of PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import cupy

from kaasq.builtins import resolve_call
from kaasq.model import BUILTINS, Buffer, Constant, Launch
from kaasq_workers.devices.cuda import CudaDevice

torch: Any = import_module("torch") if find_spec("torch") else None

MEASURED_S = 0.05  # how long the calls between two events take together, about
MOST_CALLS = 2000
HOST_CALLS, HOST_BATCH = 2000, 100
TORCH, CUPY = "PyTorch", "CuPy"

Work = Callable[[], object]


class Subject(NamedTuple):
    """One thing to measure: our call, its peers', and what it does in all (operations or bytes)."""

    name: str
    ours: Work
    peers: dict[str, Work]
    amount: float


class Calls:
    """A device, a stream that everybody works on, and calls made ready."""

    def __init__(self, device: CudaDevice) -> None:
        self.device = device
        self.stream: Any = device.stream()
        self._torch_stream = torch.cuda.ExternalStream(self.stream.pointer) if torch else None
        if torch:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.benchmark = True

    def ours(self, builtin: str, operands: dict[str, Any], **attrs: Any) -> Work:
        """A call on CuPy's arrays, which are on the device already; queued when called."""
        declared: dict[str, Any] = {}
        args: list[str | Constant] = []
        given: dict[str, Any] = {}
        for name, value in operands.items():
            if isinstance(value, cupy.ndarray):
                dtype, shape = value.dtype.name, value.shape
                declared[name] = Buffer(name=name, role="inout", nbytes=value.nbytes, dtype=dtype, shape=shape)
                args.append(name)
                given[name] = _Borrowed(value)
            else:
                args.append(Constant(dtype="float64", value=value))
                given[name] = value
        call = resolve_call(Launch(module=BUILTINS, kernel=builtin, args=tuple(args), attrs=attrs), "bench", declared)
        for each in call.builtin.parameters:
            if isinstance(each.default, (int, float)):
                given.setdefault(each.name, each.default)
        operation = self.device.prepare(call)
        return lambda: self.stream.operate(operation, given)

    def seconds(self, work: Work) -> Callable[[], float]:
        """A function that gives the GPU's time of one call, from events around many. Warms up first."""
        with self.stream.cupy:
            for _ in range(3):
                self._in_stream(work, 1)
            count = max(3, min(MOST_CALLS, int(MEASURED_S / max(self._in_stream(work, 3), 1e-6))))

        def measure() -> float:
            with self.stream.cupy:
                return self._in_stream(work, count)

        return measure

    def host_us(self, work: Work) -> float:
        """Host time of one call, waiting left out."""
        spent = 0.0
        with self.stream.cupy:
            for _ in range(HOST_CALLS // HOST_BATCH):
                begun = time.perf_counter()
                for _ in range(HOST_BATCH):
                    work()
                spent += time.perf_counter() - begun
                self.stream.synchronize()
        return spent / HOST_CALLS * 1e6

    def _in_stream(self, work: Work, count: int) -> float:
        if self._torch_stream is None:
            return self._once(work, count)
        with torch.cuda.stream(self._torch_stream):
            return self._once(work, count)

    def _once(self, work: Work, count: int) -> float:
        start = self.stream.mark()
        for _ in range(count):
            work()
        end = self.stream.mark()
        self.stream.synchronize()
        return float(end.us_since(start)) / count / 1e6


class _Borrowed:
    """CuPy's memory as a device's."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.address = int(array.data.ptr)
        self.nbytes = int(array.nbytes)


def array(dtype: str, *shape: int) -> Any:
    """Random numbers on the device."""
    return cupy.random.default_rng(1).standard_normal(shape, dtype=cupy.float32).astype(dtype)


def shared(value: Any) -> Any:
    """CuPy's array as PyTorch's, the same memory."""
    return torch.from_dlpack(value)
