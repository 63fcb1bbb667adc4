"""The cuda device in this process: launches, copies and modules beside CuPy, cuda.core and the bare driver."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kaasq.ids import new_id
from kaasq.model import Module
from kaasq.units import size as in_words
from kaasq_bench.figures import Row, compare
from kaasq_bench.peers.launches import LaunchPeers
from kaasq_bench.rounds import interleaved, seconds, us_per_call
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.sources import SAXPY
from kaasq_bench.suite import Case
from kaasq_storage import open_store
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.devices.protocol import Memory, Pinned
from kaasq_workers.executor.arguments import PackedArguments, pointer
from kaasq_workers.executor.host_objects import PIECE_BYTES

if TYPE_CHECKING:
    from kaasq_workers.devices.cuda.stream import CudaStream

N = 1024
GRID, BLOCK = (4, 1, 1), (256, 1, 1)
LAUNCHES = 512  # between two synchronisations: the driver's queue never fills
BARE = "bare pinned"


def launches_case(setting: Setting) -> Iterator[Row]:
    """Host time of one launch with five arguments, by each way to launch it."""
    with _device(setting) as device:
        stream = device.stream()
        memory = [device.allocate(4 * N) for _ in range(3)]
        kernel = device.load(Module.from_source(SAXPY), ("saxpy",)).kernel("saxpy")
        addresses = [each.address for each in memory]
        packed = PackedArguments(
            [np.float32(2).tobytes(), *(pointer(each) for each in addresses), np.int32(N).tobytes()]
        )
        peers = LaunchPeers(setting.gpu_index, stream, kernel, addresses, N, GRID, BLOCK)
        ways: dict[str, Callable[[], object]] = {
            "kaasq": partial(stream.launch, kernel, GRID, BLOCK, packed, 0),
            **peers.ways(),
        }
        given = interleaved(setting.rounds, {name: _per_launch(stream, way) for name, way in ways.items()})
        for name, times in given.items():
            if name != "kaasq":
                yield compare("host time of a launch", "us", given["kaasq"], name, times)


def copies_case(setting: Setting) -> Iterator[Row]:
    """One copy and its synchronisation, by size and kind of host memory, beside the same from pinned memory, bare."""
    with _device(setting) as device:
        from kaasq_bench.peers.pinned import PinnedCopy

        stream = device.stream()
        for nbytes in setting.pick((64 << 10, 64 << 20), (4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20)):
            memory = device.allocate(nbytes)
            with _hosts(nbytes) as hosts:
                for into in (True, False):
                    copy = stream.copy_in if into else stream.copy_out
                    kinds = {kind: data for kind, data in hosts.items() if into or not data.readonly}
                    ways = {
                        kind: _rate(nbytes, partial(_waited, stream, copy, memory, each))
                        for kind, each in kinds.items()
                    }
                    ways[BARE] = _rate(nbytes, PinnedCopy(setting.gpu_index, nbytes, to_device=into).run)
                    given = interleaved(min(3, setting.rounds), ways)
                    for kind in kinds:
                        what = f"copy {'in' if into else 'out'}, {kind}, {in_words(nbytes)}"
                        yield compare(what, "GB/s", given[kind], BARE, given[BARE])
            memory.free()


def pinning_case(setting: Setting) -> Iterator[Row]:
    """Pinning a file in shared memory, newly mapped: one of the store's, one of small pages; beside a pinned copy."""
    if setting.memory is None:
        raise NotHere("there is no shared memory of a gigabyte here")
    nbytes = setting.pick(64 << 20, 256 << 20)
    contents = np.ones(nbytes, np.uint8)
    with (
        _device(setting) as device,
        tempfile.TemporaryFile(dir=setting.memory) as small,
        tempfile.TemporaryDirectory(dir=setting.memory) as folder,
        open_store(Path(folder) / "store", sync=False) as store,
    ):
        from kaasq_bench.peers.pinned import PinnedCopy

        small.write(contents.data)
        small.flush()
        ref = store.put("bench", contents.data)[0].ref

        def small_pages() -> float:
            with mmap.mmap(small.fileno(), nbytes, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
                return _pinning(device, view)

        def stored() -> float:
            with store.open("bench", ref) as reading:
                return _pinning(device, reading.data)

        copy = PinnedCopy(setting.gpu_index, nbytes, to_device=True).run
        sides: dict[str, Callable[[], float]] = {
            "a stored object": stored,
            "a file of small pages": small_pages,
            BARE: lambda: nbytes / seconds(copy) / 1e9,
        }
        given = interleaved(setting.rounds, sides)
        for what in [each for each in sides if each != BARE]:
            yield compare(f"pinning {what} of {in_words(nbytes)}", "GB/s", given[what], BARE, given[BARE])


def modules_case(setting: Setting) -> Iterator[Row]:
    """From source to a kernel that can be launched: new, and compiled before; beside CuPy's RawModule."""

    def fresh() -> str:
        return f"{SAXPY}// {new_id()}\n"

    with _device(setting) as device:
        import cupy

        known = Module.from_source(SAXPY)
        device.load(known, ("saxpy",))
        sides: dict[str, Callable[[], float]] = {
            "new": lambda: seconds(lambda: device.load(Module.from_source(fresh()), ("saxpy",))) * 1e3,
            "on disk": lambda: seconds(lambda: device.load(known, ("saxpy",))) * 1e3,
            "RawModule, new": lambda: seconds(lambda: cupy.RawModule(code=fresh()).get_function("saxpy")) * 1e3,
        }
        given = interleaved(setting.rounds, sides)
    for what in ("new", "on disk"):
        yield compare(f"source to kernel, {what}", "ms", given[what], "RawModule, new", given["RawModule, new"])


def _per_launch(stream: CudaStream, way: Callable[[], object]) -> Callable[[], float]:
    def us() -> float:
        with stream.cupy:  # where CuPy launches
            took = us_per_call(way, 0, at_least=LAUNCHES, batch=LAUNCHES)
        stream.synchronize()
        return took

    return us


def _waited(stream: CudaStream, copy: Callable[[Memory, memoryview], None], memory: Memory, data: memoryview) -> None:
    copy(memory, data)
    stream.synchronize()


def _pinning(device: CudaDevice, data: memoryview) -> float:
    """Gigabytes per second of pinning it, piece by piece as the engine does; then it is given back."""
    pins: list[Pinned | None] = []
    start = time.perf_counter()
    for at in range(0, data.nbytes, PIECE_BYTES):
        with data[at : at + PIECE_BYTES] as piece:
            pins.append(device.pin(piece))
    took_s = time.perf_counter() - start
    for each in pins:
        if each is None:
            raise NotHere("the driver pins no mapped files here")
        each.release()
    return data.nbytes / took_s / 1e9


def _rate(nbytes: int, way: Callable[[], object]) -> Callable[[], float]:
    return lambda: nbytes / us_per_call(way, 0.03) / 1e3


@contextmanager
def _device(setting: Setting) -> Iterator[CudaDevice]:
    """Raises NotHere where the device is no GPU."""
    device = CudaDevice(setting.gpu_index, cache_dir=setting.disk / "cache" / "cuda")
    try:
        yield device
    finally:
        device.close()


@contextmanager
def _hosts(nbytes: int) -> Iterator[dict[str, memoryview]]:
    """Host memory of each kind; a mapped file can only be read."""
    import cupy

    pinned: Any = cupy.cuda.PinnedMemory(nbytes)
    shared = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pinned.ptr))
    shared[:] = 1
    pageable = np.ones(nbytes, np.uint8)
    with tempfile.TemporaryFile() as file:
        file.write(pageable.data)
        file.flush()
        with mmap.mmap(file.fileno(), nbytes, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            yield {"pinned": shared.data, "pageable": pageable.data, "mapped file": view}


CASES = (
    Case("launches", launches_case),
    Case("copies", copies_case),
    Case("pinning", pinning_case),
    Case("modules", modules_case),
)
