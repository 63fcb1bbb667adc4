"""What the built-ins of the cuda device reach, beside PyTorch (where it is installed) and CuPy. One GPU, minutes.

Times are the GPU's, from events around many calls, each on the same buffers; every figure stands beside a peer's from
the same run. Median of the repeats, with the lowest and highest. Bandwidth counts what must be read and written once.

    PYTHONPATH=.:storage:workers:producers python3 ops/bench/device_builtins.py --json builtins.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cupy
import numpy as np

from kaasq.builtins import resolve_call
from kaasq.model import BUILTINS, Buffer, Constant, Launch
from kaasq_workers.devices.cuda import CudaDevice

try:
    import torch
except ImportError:
    torch = None

GEMM_SIZES = [256, 512, 1024, 2048, 4096, 8192]
BYTES = [1 << 20, 16 << 20, 256 << 20]  # of one operand
MEASURED_S = 0.05  # how long the calls between two events take together, about
HOST_CALLS = 2000
ROW = 1024

Work = Callable[[], object]


class Subject(NamedTuple):
    """One thing to measure: our call, its peers', and what it does in all (operations or bytes)."""

    name: str
    ours: Work
    peers: dict[str, Work]
    amount: float


class Bench:
    """A device, a stream that everybody works on, and calls made ready."""

    def __init__(self, device: CudaDevice, repeats: int) -> None:
        self.device = device
        self.repeats = repeats
        self.stream: Any = device.stream()
        self.torch_stream = torch.cuda.ExternalStream(self.stream.pointer) if torch else None

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

    def seconds(self, work: Work) -> dict[str, float]:
        """GPU time of one call."""
        with self.stream.cupy:
            if self.torch_stream is None:
                return self._seconds(work)
            with torch.cuda.stream(self.torch_stream):
                return self._seconds(work)

    def _seconds(self, work: Work) -> dict[str, float]:
        for _ in range(3):
            work()
        self.stream.synchronize()
        count = max(3, min(2000, int(MEASURED_S / max(self._once(work, 3), 1e-6))))
        return spread([self._once(work, count) for _ in range(self.repeats)])

    def _once(self, work: Work, count: int) -> float:
        start = self.stream.mark()
        for _ in range(count):
            work()
        end = self.stream.mark()
        self.stream.synchronize()
        return float(end.us_since(start)) / count / 1e6

    def host_us(self, work: Work) -> dict[str, float]:
        """Host time of one call, waiting left out."""
        found = []
        with self.stream.cupy:
            for _ in range(self.repeats + 1):
                spent = 0.0
                for _ in range(HOST_CALLS // 100):
                    begun = time.perf_counter()
                    for _ in range(100):
                        work()
                    spent += time.perf_counter() - begun
                    self.stream.synchronize()
                found.append(spent / HOST_CALLS * 1e6)
        return spread(found[1:])


class _Borrowed:
    """CuPy's memory as a device's."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.address = int(array.data.ptr)
        self.nbytes = int(array.nbytes)


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def array(dtype: str, *shape: int) -> Any:
    """Random numbers on the device."""
    return cupy.random.default_rng(1).standard_normal(shape, dtype=cupy.float32).astype(dtype)


def shared(value: Any) -> Any:
    """CuPy's array as PyTorch's, the same memory."""
    return torch.from_dlpack(value)


def gemms(bench: Bench) -> list[Subject]:
    """Square products, TF32 off."""
    subjects = []
    for dtype in ("float16", "float32", "float64"):
        for n in GEMM_SIZES:
            a, b, c, d = (array(dtype, n, n) for _ in range(4))
            ours = bench.ours("gemm", {"a": a, "b": b, "c": c})
            peers: dict[str, Work] = {"cupy": partial(cupy.matmul, a, b, out=d)}
            if torch:
                ta, tb, td = shared(a), shared(b), shared(d)
                peers["torch"] = partial(torch.matmul, ta, tb, out=td)
            subjects.append(Subject(f"gemm {dtype} {n}", ours, peers, 2.0 * n**3))
    return subjects


def moving(bench: Bench, dtype: str, nbytes: int) -> list[Subject]:
    """What memory's bandwidth bounds."""
    count = nbytes // np.dtype(dtype).itemsize
    x, y, out = (array(dtype, count // ROW, ROW) for _ in range(3))
    row, line, turned = array(dtype, ROW), array(dtype, count // ROW), array(dtype, ROW, count // ROW)
    runtime, pointer = cupy.cuda.runtime, bench.stream.pointer

    def memcpy() -> None:
        runtime.memcpyAsync(out.data.ptr, x.data.ptr, nbytes, runtime.memcpyDeviceToDevice, pointer)

    ours: dict[str, tuple[Work, float]] = {
        "copy": (bench.ours("copy", {"x": x, "out": out}), 2),
        "add": (bench.ours("add", {"a": x, "b": y, "out": out}), 3),
        "add a row": (bench.ours("add", {"a": x, "b": row, "out": out}), 2),
        "gelu": (bench.ours("gelu", {"x": x, "out": out}), 2),
        "transpose": (bench.ours("transpose", {"x": x, "out": turned}), 2),
        "sum of rows": (bench.ours("reduce", {"x": x, "out": line}, op="sum", axes=(1,)), 1),
        "sum of columns": (bench.ours("reduce", {"x": x, "out": row}, op="sum", axes=(0,)), 1),
        "softmax": (bench.ours("softmax", {"x": x, "out": out}), 2),
        "layernorm": (bench.ours("layernorm", {"x": x, "out": out, "scale": row, "bias": row}), 2),
    }
    peers: dict[str, dict[str, Work]] = {
        "copy": {"cupy": lambda: cupy.copyto(out, x), "memcpy": memcpy},
        "add": {"cupy": lambda: cupy.add(x, y, out=out)},
        "add a row": {"cupy": lambda: cupy.add(x, row, out=out)},
        "gelu": {},
        "transpose": {"cupy": lambda: cupy.copyto(turned, x.T)},
        "sum of rows": {"cupy": lambda: cupy.sum(x, axis=1, out=line)},
        "sum of columns": {"cupy": lambda: cupy.sum(x, axis=0, out=row)},
        "softmax": {},
        "layernorm": {},
    }
    if torch:
        tx, ty, tout, trow, tturned, tline = map(shared, (x, y, out, row, turned, line))
        functional = torch.nn.functional
        peers["copy"]["torch"] = lambda: tout.copy_(tx)
        peers["add"]["torch"] = lambda: torch.add(tx, ty, out=tout)
        peers["add a row"]["torch"] = lambda: torch.add(tx, trow, out=tout)
        peers["gelu"]["torch"] = lambda: functional.gelu(tx)
        peers["transpose"]["torch"] = lambda: tturned.copy_(tx.T)
        peers["sum of rows"]["torch"] = lambda: torch.sum(tx, dim=1, out=tline)
        peers["sum of columns"]["torch"] = lambda: torch.sum(tx, dim=0, out=trow)
        peers["softmax"]["torch"] = lambda: torch.softmax(tx, dim=-1, out=tout)
        peers["layernorm"]["torch"] = lambda: functional.layer_norm(tx, (ROW,), trow, trow)
    return [
        Subject(f"{name} {dtype} {nbytes >> 20} MiB", work, peers[name], times * nbytes)
        for name, (work, times) in ours.items()
    ]


def convolutions(bench: Bench) -> list[Subject]:
    """Layers of a ResNet-50, and a depthwise one; beside cuDNN through PyTorch."""
    subjects = []
    for n, channels, size, filters, kernel, groups in [
        (32, 64, 56, 64, 3, 1),
        (32, 256, 56, 64, 1, 1),
        (32, 512, 7, 512, 3, 1),
        (1, 64, 56, 64, 3, 1),
        (32, 144, 56, 144, 3, 144),
    ]:
        for dtype in ("float16", "float32"):
            pad = kernel // 2
            x, w = array(dtype, n, channels, size, size), array(dtype, filters, channels // groups, kernel, kernel)
            out = array(dtype, n, filters, size, size)
            ours = bench.ours("conv2d", {"x": x, "w": w, "out": out}, pads=(pad,) * 4, groups=groups)
            peers: dict[str, Work] = {}
            if torch:
                convolve = torch.nn.functional.conv2d
                peers["torch"] = partial(convolve, shared(x), shared(w), padding=pad, groups=groups)
            work = 2.0 * out.size * (channels // groups) * kernel * kernel
            name = f"conv2d {dtype} {n}x{channels}x{size}x{size} * {filters}x{kernel}x{kernel} groups {groups}"
            subjects.append(Subject(name, ours, peers, work))
    return subjects


def small(bench: Bench) -> dict[str, Work]:
    """Calls on next to nothing: what the host does for each."""
    a, b, c = (array("float32", 32, 32) for _ in range(3))
    return {
        "kaasq add": bench.ours("add", {"a": a, "b": b, "out": c}),
        "kaasq softmax": bench.ours("softmax", {"x": a, "out": c}),
        "kaasq axpy": bench.ours("axpy", {"x": a, "y": c, "alpha": 0.0}),
        "kaasq gemm": bench.ours("gemm", {"a": a, "b": b, "c": c}),
        "cupy add": lambda: cupy.add(a, b, out=c),
        "cupy matmul": lambda: cupy.matmul(a, b, out=c),
    }


def measured(bench: Bench, subjects: list[Subject], scale: float, unit: str) -> list[dict[str, Any]]:
    """Rates, and ours divided by each peer's."""
    rows = []
    for subject in subjects:
        row: dict[str, Any] = {"name": subject.name, "unit": unit}
        for who, work in {"kaasq": subject.ours, **subject.peers}.items():
            times = bench.seconds(work)
            rates = {key: subject.amount / seconds / scale for key, seconds in times.items()}
            row[who] = {"median": rates["median"], "low": rates["high"], "high": rates["low"]}
        row["ratio"] = {who: row["kaasq"]["median"] / row[who]["median"] for who in subject.peers}
        rows.append(row)
        ratios = "  ".join(f"{ratio:.2f} x {who}" for who, ratio in row["ratio"].items())
        print(f"  {subject.name:58} {row['kaasq']['median']:9.1f} {unit}  {ratios}", flush=True)
    return rows


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if torch:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True

    with tempfile.TemporaryDirectory() as cache:
        device = CudaDevice(options.device, memory_limit=1 << 30, cache_dir=Path(cache))
        bench = Bench(device, options.repeats)
        peers = f"PyTorch {torch.__version__}" if torch else "without PyTorch"
        library = device._builtins.products.name
        print(f"{device.description}; {library}; CuPy {cupy.__version__}, {peers}")
        figures: dict[str, Any] = {"device": device.description, "library": library, "peers": peers}

        print("\nmatrix products")
        figures["gemm"] = measured(bench, gemms(bench), 1e12, "TFLOP/s")
        print("\nbandwidth")
        figures["bandwidth"] = []
        for dtype in ("float16", "float32"):
            for nbytes in BYTES:
                figures["bandwidth"] += measured(bench, moving(bench, dtype, nbytes), 1e9, "GB/s")
        print("\nconvolutions")
        figures["conv2d"] = measured(bench, convolutions(bench), 1e12, "TFLOP/s")
        print("\nhost time per call, us                  median    low   high")
        figures["host_us"] = {name: bench.host_us(work) for name, work in small(bench).items()}
        for name, figure in figures["host_us"].items():
            print(f"  {name:36} {figure['median']:6.2f} {figure['low']:6.2f} {figure['high']:6.2f}")
        device.close()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
