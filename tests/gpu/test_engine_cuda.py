"""The engine on a GPU with several requests on its streams: what overlaps, and what must not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaasq
from kaasq.messages import Request
from kaasq.model import GraphSpec
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.cuda import CudaDevice
from kaasq_workers.executor.engine import Engine

pytestmark = pytest.mark.gpu

SHARED = r"""
__device__ int value;
extern "C" __global__ void set(int to) { value = to; }
extern "C" __global__ void wait(long long cycles) { long long start = clock64(); while (clock64() - start < cycles); }
extern "C" __global__ void get(int* out) { *out = value; }
"""
ALONE = r"""
extern "C" __global__ void spin(int* out, long long cycles)
{ long long start = clock64(); while (clock64() - start < cycles); *out = *out + 1; }
"""
MILLISECOND = 1_500_000  # cycles, about


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CudaDevice]:
    opened = CudaDevice(0, cache_dir=tmp_path_factory.mktemp("code"), memory_limit=1 << 30)
    yield opened
    assert not opened.poisoned
    opened.close()


@pytest.fixture
def engine(device: CudaDevice, tmp_path: Path) -> Iterator[Engine]:
    store: BufferStore
    with open_store(tmp_path / "store", sync=False) as store:
        made = Engine(device, store, inline_limit=1 << 20)
        yield made
        made.close()


def spinning(launches: int = 1) -> GraphSpec:
    graph = kaasq.Graph("spinning")
    out = graph.output("out", shape=1, dtype="int32")
    kernel = kaasq.Module.from_source(ALONE).kernel("spin")
    for _ in range(launches):
        graph.launch(kernel, grid=1, block=1, args=[out, np.int64(MILLISECOND // launches)])
    return graph.freeze()


def sharing() -> GraphSpec:
    graph = kaasq.Graph("sharing")
    out, to = graph.output("out", shape=1, dtype="int32"), graph.scalar("to", "int32")
    module = kaasq.Module.from_source(SHARED)
    graph.launch(module.kernel("set"), grid=1, block=1, args=[to])
    graph.launch(module.kernel("wait"), grid=1, block=1, args=[np.int64(MILLISECOND // 4)])
    graph.launch(module.kernel("get"), grid=1, block=1, args=[out])
    return graph.freeze()


def test_requests_that_share_a_modules_variables_do_not_meet_in_them(engine: Engine) -> None:
    spec = sharing()
    for _ in range(3):  # from the second round on recorded
        flying = [
            engine.begin("t", spec, Request(graph=spec, scalars={"to": 10 + index}))
            for index in range(engine.in_flight)
        ]
        answers = [int.from_bytes(engine.end(each).outputs[0].data, "little") for each in flying]  # type: ignore[arg-type]
        assert answers == [10 + index for index in range(engine.in_flight)]


@pytest.mark.parametrize("launches", [1, 10])
def test_others_run_beside_each_other(engine: Engine, launches: int) -> None:
    spec = spinning(launches)
    request = Request(graph=spec)

    def run(count: int) -> float:
        flying = [engine.begin("t", spec, request) for _ in range(count)]
        executed = [engine.end(each) for each in flying]
        for each in executed:
            assert int.from_bytes(each.outputs[0].data, "little") == launches  # type: ignore[arg-type]
        return max(each.timings.total for each in executed)

    for _ in range(2):
        run(engine.in_flight)
    assert min(run(engine.in_flight) for _ in range(3)) < 2.5 * min(run(1) for _ in range(3))


def test_only_modules_with_variables_keep_requests_apart(device: CudaDevice) -> None:
    assert device.load(kaasq.Module.from_source(SHARED), ("set",)).stateful
    assert not device.load(kaasq.Module.from_source(ALONE), ("spin",)).stateful


def test_a_recording_is_made_once_for_each_slot_and_never_updated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kaasq_workers.devices.cuda.recording import CudaRecording
    from kaasq_workers.devices.cuda.stream import CudaStream

    made: list[int] = []
    updated: list[int] = []
    record, update = CudaStream.record, CudaRecording.update

    def recorded(self: CudaStream, calls: Any) -> Any:
        made.append(id(self))
        return record(self, calls)

    def noted(self: CudaRecording, index: int, *given: Any) -> bool:
        updated.append(index)
        return update(self, index, *given)

    monkeypatch.setattr(CudaStream, "record", recorded)
    monkeypatch.setattr(CudaRecording, "update", noted)
    spec = spinning(10)
    request = Request(graph=spec)
    for _ in range(5):
        flying = [engine.begin("t", spec, request) for _ in range(engine.in_flight)]
        for each in flying:
            engine.end(each)
    assert len(made) == len(set(made)) == engine.in_flight
    assert updated == []
