"""The engine by itself: a device, a store and an engine between them, without broker and processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kaasq import Graph, Module
from kaasq.messages import Request, Stored
from kaasq.model import GraphSpec
from kaasq_bench.graphs import Floats
from kaasq_bench.setting import Setting
from kaasq_bench.sources import SAXPY
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Executed

TENANT = "bench"
MI = 1 << 20
ROOMY_BYTES = 8 << 30
CPU_BYTES = 1 << 30  # at most, where the device's memory is the host's
INLINE_LIMIT = 64 * MI


class Under(NamedTuple):
    """An engine on a device of its own, with its store."""

    engine: Engine
    store: BufferStore

    def run(self, spec: GraphSpec, asked: Request) -> Executed:
        """Run it and drop what it gives."""
        return dropped(self.engine.run(TENANT, spec, asked))

    def put(self, array: npt.NDArray[Any]) -> Stored:
        """A binding to the array, stored."""
        return Stored(ref=self.store.put(TENANT, array.data.cast("B"))[0].ref)


@contextmanager
def engine_of(setting: Setting, memory: int = ROOMY_BYTES) -> Iterator[Under]:
    """A store in shared memory where there is some, and an engine on a device of its own with so much memory."""
    folder = Path(tempfile.mkdtemp(prefix="store-", dir=setting.memory or setting.disk))
    try:
        with open_store(folder / "store", sync=False) as store:
            device = _device(setting, memory)
            engine = Engine(device, store, inline_limit=INLINE_LIMIT)
            try:
                yield Under(engine, store)
            finally:
                engine.close()
                device.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _device(setting: Setting, memory: int) -> Device:
    cache = setting.disk / "cache"
    if setting.gpu:
        from kaasq_workers.devices.cuda import CudaDevice

        return CudaDevice(setting.gpu_index, memory_limit=memory, cache_dir=cache / "cuda")
    from kaasq_workers.devices.cpu import CpuDevice

    return CpuDevice(cache_dir=cache / "cpu", memory_limit=min(memory, CPU_BYTES))


def add_saxpy(graph: Graph, a: float, x: Any, y: Any, out: Any, *, grid: int, block: int, n: int) -> None:
    """A launch of out = a x + y over n floats."""
    kernel = Module.from_source(SAXPY).kernel("saxpy")
    graph.launch(kernel, grid=grid, block=block, args=[np.float32(a), x, y, out, np.int32(n)])


def dropped(executed: Executed) -> Executed:
    """What it gave, without the outputs that would go into the store."""
    for each in executed.outputs:
        if not isinstance(each.data, bytearray):
            each.data.discard()
    return executed


def first_output(executed: Executed) -> Floats:
    """A small output, as floats."""
    data = executed.outputs[0].data
    assert isinstance(data, bytearray)
    return np.frombuffer(data, np.float32)
