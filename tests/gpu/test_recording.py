"""Launches replayed as a CUDA graph give what they give one by one: with other memory, other scalars, any count."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import kaasq
from kaasq_workers.executor import launching

pytestmark = pytest.mark.gpu

SOURCE = r"""
extern "C" __global__ void step(float a, const float* x, float* y, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = a * x[i] + y[i]; }
extern "C" __global__ void scale(float* y, float factor, int n)
{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = y[i] * factor; }
extern "C" __global__ void wide(float* y, int n)
{
  extern __shared__ float part[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) part[i] = y[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = part[n - 1 - i];
}
extern "C" __global__ void crash(float* y) { *(volatile float*)(size_t)(blockIdx.x + 8) = 1; y[0] = 1; }
"""
MODULE = kaasq.Module.from_source(SOURCE)
N = 1000


@pytest.fixture(scope="module")
def client() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cuda:0") as client:
        yield client


def chain(count: int, iterations: int = 1, *, builtin: bool = False, n: int = N) -> kaasq.Graph:
    """y += a x, ``count`` times, each followed by y *= 0.5."""
    graph = kaasq.Graph(f"chain.{count}.{iterations}.{builtin}".lower())
    x = graph.input("x", shape=n, dtype="float32")
    y = graph.inout("y", shape=n, dtype="float32")
    a = graph.scalar("a", "float32", default=1.0)
    for _ in range(count):
        args = [a, x, y, np.int32(n)]
        graph.launch(MODULE.kernel("step"), grid=-(-n // 128), block=128, args=args)
        if builtin:
            graph.call("axpy", x, y, a)
        args = [y, np.float32(0.5), np.int32(n)]
        graph.launch(MODULE.kernel("scale"), grid=-(-n // 128), block=128, args=args)
    graph.iterations = iterations
    return graph


def expected(x: np.ndarray, y: np.ndarray, a: float, rounds: int, *, twice: bool = False) -> np.ndarray:
    y = y.astype(np.float64)
    for _ in range(rounds):
        y = (y + a * x * (2 if twice else 1)) * 0.5
    return y


@pytest.mark.parametrize("builtin", [False, True])
@pytest.mark.parametrize(("count", "iterations"), [(1, 1), (5, 1), (50, 1), (1, 700), (3, 1001)])
def test_replays_give_what_single_launches_give(client, count, iterations, builtin):
    graph = chain(count, iterations, builtin=builtin)
    random = np.random.default_rng(count)
    others = [client.submit(chain(2, n=each), x=np.ones(each, "f4"), y=np.ones(each, "f4")) for each in (100, 7777)]
    for round_, a in enumerate([1.0, 1.0, 2.5, 2.5, -1.0]):  # the memory moves when others run in between
        x, y = random.random((2, N), dtype=np.float32)
        result = client.run(graph, x=x, y=y, a=a)
        answer = expected(x, y, a, count * iterations, twice=builtin)
        np.testing.assert_allclose(result["y"], answer, rtol=1e-4, atol=1e-5, err_msg=f"round {round_}")
        if round_ == 2:
            client.run(chain(1, n=100_000 + round_), x=np.ones(100_002, "f4"), y=np.ones(100_002, "f4"))
    for each in others:
        each.result(30)


def test_stored_inputs_that_move_on_the_device_are_followed(client):
    graph = chain(10)
    for round_ in range(4):
        x = np.full(N, round_, np.float32)
        ref = client.put(x)
        result = client.run(graph, x=ref, y=np.zeros(N, np.float32))
        np.testing.assert_allclose(result["y"], expected(x, np.zeros(N), 1.0, 10), rtol=1e-5)


def test_large_dynamic_shared_memory_is_recorded_too(client):
    n = 20_000  # floats: 80 KB
    graph = kaasq.Graph("wide")
    y = graph.inout("y", shape=n, dtype="float32")
    for _ in range(5):
        graph.launch(MODULE.kernel("wide"), grid=1, block=1024, args=[y, np.int32(n)], shared_bytes=4 * n)
    data = np.arange(n, dtype=np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(client.run(graph, y=data)["y"], data[::-1])


def test_recordings_are_really_made(monkeypatch):
    made = []
    record = launching.Launches._record

    def counted(self, stream, changed):
        record(self, stream, changed)
        made.append(self._recording)

    monkeypatch.setattr(launching.Launches, "_record", counted)
    with kaasq.local(device="cuda:0") as client:
        for builtin in (False, True):
            for _ in range(3):
                client.run(chain(20, builtin=builtin), x=np.ones(N, "f4"), y=np.ones(N, "f4"))
    assert len(made) == 4  # from the second run on
    assert all(each is not None for each in made)


def test_a_crash_within_a_recording_is_told(tmp_path):
    graph = kaasq.Graph("crash")
    y = graph.output("y", shape=1, dtype="float32")
    bad = graph.scalar("times", "float32", default=1.0)
    small = chain(10)
    graph.launch(MODULE.kernel("scale"), grid=1, block=1, args=[y, bad, np.int32(1)])
    graph.launch(MODULE.kernel("crash"), grid=1, block=1, args=[y])
    graph.iterations = 2500  # recorded at once
    with kaasq.local(device="cuda:0", isolate=True) as client:
        with pytest.raises(kaasq.KernelFailed):
            client.run(graph, timeout=60)
        result = client.run(small, x=np.ones(N, "f4"), y=np.ones(N, "f4"), timeout=60)
        np.testing.assert_allclose(result["y"], expected(np.ones(N), np.ones(N), 1.0, 10), rtol=1e-5)
