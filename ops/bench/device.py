"""What the cuda device costs beside what it stands on: launches, copies, compiling and loading. One GPU, minutes.

Every figure stands beside another from the same run: launches beside CuPy's and cuda.core's own, copies beside pinned
memory's bandwidth and the host's memcpy. Median of the repeats, with the lowest and highest.

    PYTHONPATH=.:storage:workers:producers python3 ops/bench/device.py --json device.json
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kaasq.model import Module
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.executor.arguments import PackedArguments, pointer

ADD = r"""
extern "C" __global__ void add(float* a, const float* b, const float* c, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) a[i] = b[i] + c[i]; }
"""
LAUNCHES = 20_000
PER_SYNCHRONIZE = 512  # launches between two synchronisations: the queue never fills
SIZES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20]
CUBINS = Path(__file__).parents[2] / "tests" / "data" / "cubins"

Figure = dict[str, float]


def repeated(measure: Callable[[], float], repeats: int) -> Figure:
    """Median, lowest and highest of some measurements, after one that does not count."""
    measure()
    values = sorted(measure() for _ in range(repeats))
    return {"median": statistics.median(values), "low": values[0], "high": values[-1]}


def per_call_us(call: Callable[[], object], synchronize: Callable[[], object], count: int, batch: int) -> float:
    """Microseconds of host time per call, the synchronisations between batches left out."""
    spent = 0.0
    for _ in range(-(-count // batch)):
        start = time.perf_counter()
        for _ in range(batch):
            call()
        spent += time.perf_counter() - start
        synchronize()
    return spent / (-(-count // batch) * batch) * 1e6


def launches(device: CudaDevice, repeats: int) -> dict[str, Figure]:
    """Host time per launch of one small kernel, by each way to launch it."""
    import cupy
    from cuda import core
    from cuda.bindings import driver as bindings

    stream = device.stream()
    memory = [device.allocate(4096) for _ in range(3)]
    kernel = device.load(Module.from_source(ADD), ("add",)).kernel("add")
    packed = PackedArguments([*(pointer(each.address) for each in memory), np.int32(1024).tobytes()])
    grid, block = (4, 1, 1), (256, 1, 1)

    raw = cupy.RawKernel(ADD, "add")
    arrays = (*(cupy.zeros(1024, cupy.float32) for _ in range(3)), np.int32(1024))
    cupy.cuda.Device().synchronize()
    core.Device(int(device.name.partition(":")[2])).set_current()
    core_kernel = core.Kernel.from_handle(kernel.handle)
    core_stream = core.Stream.from_handle(stream.pointer)
    config = core.LaunchConfig(grid=4, block=256)
    addresses = (*(each.address for each in memory), np.int32(1024))
    function, handle = bindings.CUfunction(kernel.function), bindings.CUstream(stream.pointer)

    def ours() -> None:
        stream.launch(kernel, grid, block, packed, 0)

    def raw_kernel() -> None:
        with stream.cupy:
            for _ in range(PER_SYNCHRONIZE):
                raw((4,), (256,), arrays)

    def one_and_synchronize() -> None:
        ours()
        stream.synchronize()

    def measured(call: Callable[[], object]) -> Figure:
        return repeated(lambda: per_call_us(call, stream.synchronize, LAUNCHES, PER_SYNCHRONIZE), repeats)

    def raw_figure() -> float:
        return per_call_us(raw_kernel, stream.synchronize, LAUNCHES // PER_SYNCHRONIZE, 1) / PER_SYNCHRONIZE

    return {
        "kaasq Stream.launch": measured(ours),
        "CuPy RawKernel": repeated(raw_figure, repeats),
        "cuda.bindings cuLaunchKernel": measured(
            lambda: bindings.cuLaunchKernel(function, *grid, *block, 0, handle, packed.pointers, 0)
        ),
        "cuda.core launch": measured(lambda: core.launch(core_stream, config, core_kernel, *addresses)),
        "kaasq launch and synchronize": repeated(
            lambda: per_call_us(one_and_synchronize, lambda: None, LAUNCHES // 10, LAUNCHES // 10), repeats
        ),
    }


def copies(device: CudaDevice, repeats: int) -> list[dict[str, Any]]:
    """Gigabytes per second of one copy and its synchronisation, by size and kind of host memory."""
    import cupy

    stream = device.stream()
    rows = []
    largest = max(SIZES)
    memory = device.allocate(largest)
    pageable, other = np.ones(largest, np.uint8), np.ones(largest, np.uint8)
    pinned_memory = cupy.cuda.PinnedMemory(largest)
    pinned = np.ctypeslib.as_array((ctypes.c_uint8 * largest).from_address(pinned_memory.ptr))
    pinned[:] = 1
    with tempfile.TemporaryFile() as file:
        file.write(pageable.tobytes())
        file.flush()
        mapped = mmap.mmap(file.fileno(), largest, prot=mmap.PROT_READ)
    runtime = cupy.cuda.runtime

    for size in SIZES:

        def rate(work: Callable[[], object], size: int = size) -> Figure:
            count = max(1, min(200, (256 << 20) // size))

            def once() -> float:
                start = time.perf_counter()
                for _ in range(count):
                    work()
                return size * count / (time.perf_counter() - start) / 1e9

            return repeated(once, repeats)

        def copy_in(data: memoryview, size: int = size) -> Callable[[], None]:
            piece = data[:size]

            def work() -> None:
                stream.copy_in(memory, piece)
                stream.synchronize()

            return work

        def copy_out(data: memoryview, size: int = size) -> Callable[[], None]:
            piece = data[:size]

            def work() -> None:
                stream.copy_out(memory, piece)
                stream.synchronize()

            return work

        def bare(to_device: bool, size: int = size) -> Callable[[], None]:
            target, source = (memory.address, pinned_memory.ptr) if to_device else (pinned_memory.ptr, memory.address)
            kind = runtime.memcpyHostToDevice if to_device else runtime.memcpyDeviceToHost

            def work() -> None:
                runtime.memcpyAsync(target, source, size, kind, stream.pointer)
                runtime.streamSynchronize(stream.pointer)

            return work

        def host_copy(size: int = size) -> None:
            ctypes.memmove(other.ctypes.data, pageable.ctypes.data, size)

        rows.append(
            {
                "bytes": size,
                "host memcpy": rate(host_copy),
                "in: bare pinned": rate(bare(True)),
                "in: pinned": rate(copy_in(pinned.data)),
                "in: pageable": rate(copy_in(pageable.data)),
                "in: file map": rate(copy_in(memoryview(mapped))),
                "out: bare pinned": rate(bare(False)),
                "out: pinned": rate(copy_out(pinned.data)),
                "out: pageable": rate(copy_out(other.data)),
            }
        )
    return rows


def modules(device: CudaDevice, repeats: int) -> dict[str, Figure]:
    """Milliseconds from a module to a kernel that can be launched."""
    from kaasq_workers.devices.cuda.compiled import CompiledCache
    from kaasq_workers.devices.cuda.compiler import Compiler

    compiler = Compiler(device._capability, CompiledCache(None))
    image = compiler.compile_source(ADD, (), ("add",))
    ptx = Module(kind="ptx", code=(CUBINS / "add.ptx").read_bytes())
    fatbin = Module(kind="fatbin", code=(CUBINS / "add.fatbin").read_bytes())
    fresh = iter(range(1_000_000))

    def load_ms(module: Callable[[], Module]) -> Figure:
        def once() -> float:
            wanted = module()
            start = time.perf_counter()
            device.load(wanted, ("add",))
            return (time.perf_counter() - start) * 1e3

        return repeated(once, repeats)

    run = os.getpid()
    return {
        "source, new": load_ms(lambda: Module.from_source(f"{ADD}// {run} {next(fresh)}")),
        "source, on disk": load_ms(lambda: Module.from_source(ADD)),
        "source, new, with cooperative groups": load_ms(
            lambda: Module.from_source(f"#include <cooperative_groups.h>\n{ADD}// {run} {next(fresh)}")
        ),
        "PTX, new": load_ms(lambda: Module(kind="ptx", code=ptx.code + f"// {run} {next(fresh)}\n".encode())),
        "PTX, on disk": load_ms(lambda: ptx),
        "cubin": load_ms(lambda: Module(kind="cubin", code=image.code)),
        "fatbin": load_ms(lambda: fatbin),
    }


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", type=int, default=0, help="index of the GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        device = CudaDevice(options.device, cache_dir=Path(cache))
        opened_ms = (time.perf_counter() - start) * 1e3
        figures: dict[str, Any] = {"device": device.description, "open_ms": opened_ms}
        print(f"{device.description}; opened in {opened_ms:.0f} ms, imports included")

        figures["launch_us"] = launches(device, options.repeats)
        print("\nhost time per launch, us               median    low   high")
        for name, figure in figures["launch_us"].items():
            print(f"  {name:36} {figure['median']:6.2f} {figure['low']:6.2f} {figure['high']:6.2f}")

        figures["copy_gbps"] = copies(device, options.repeats)
        columns = [key for key in figures["copy_gbps"][0] if key != "bytes"]
        print("\ncopy and synchronize, GB/s (median)\n     KiB  " + "  ".join(f"{each:>16}" for each in columns))
        for row in figures["copy_gbps"]:
            print(f"{row['bytes'] >> 10:8}  " + "  ".join(f"{row[each]['median']:16.2f}" for each in columns))

        figures["load_ms"] = modules(device, options.repeats)
        print("\nmodule to launchable kernel, ms        median    low   high")
        for name, figure in figures["load_ms"].items():
            print(f"  {name:36} {figure['median']:6.2f} {figure['low']:6.2f} {figure['high']:6.2f}")
        device.close()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
