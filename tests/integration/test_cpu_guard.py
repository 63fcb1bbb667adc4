"""Guard mode on the CPU: a kernel that goes for unmapped memory fails its request, in words; the worker serves on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kaasq
from kaasq.errors import KernelFailed
from kaasq.settings import Settings

SOURCE = r"""
extern "C" __global__ void write_at(float* out, long long at) { if (threadIdx.x == 7) out[at] = 1; }
extern "C" __global__ void write_together(float* out, long long at) {
    __syncthreads();
    if (threadIdx.x == 7) out[at] = 1;
    __syncthreads();
    out[threadIdx.x] = 2;
}
extern "C" __global__ void read_at(float* out, long long at) { out[threadIdx.x] = out[at + threadIdx.x]; }
extern "C" __global__ void nothing(float* out, long long at) { *(float**)&at = nullptr; out = (float*)at; *out = 1; }
__device__ int sink(volatile char* p, int n) {
    volatile char frame[4096];
    frame[n % 4096] = 1;
    return n ? sink(frame, n - 1) + frame[n % 4096] : p[0];
}
extern "C" __global__ void overflow(float* out, long long at) {
    __syncthreads();
    char first = 0;
    out[0] = sink(&first, 1000 + at);
}
"""
MODULE = kaasq.Module.from_source(SOURCE)
N = 256


def graph_of(kernel: str, at: int) -> kaasq.Graph:
    graph = kaasq.Graph("guarded")
    out = graph.output("out", shape=(N,), dtype="float32")
    graph.launch(MODULE.kernel(kernel), grid=4, block=32, args=[out, np.int64(at)])
    return graph


@pytest.fixture(params=[False, True], ids=["in this process", "isolated"], scope="module")
def client(request: pytest.FixtureRequest):
    with kaasq.local("cpu", isolate=request.param, settings=Settings(guard=True)) as client:
        yield client


@pytest.mark.parametrize("kernel", ["write_at", "write_together", "read_at"])
@pytest.mark.parametrize(
    ("at", "where"), [(1 << 24, r"\d+ bytes past the end"), (-(1 << 24), r"\d+ bytes before the start")]
)
def test_a_far_access_is_told_with_the_nearest_buffer_and_the_worker_goes_on(client, kernel, at, where) -> None:
    said = rf"graph.launches\[0\]: kernel '{kernel}'.*nearest buffer is 'out'.*{where}"
    with pytest.raises(KernelFailed, match=said) as caught:
        client.run(graph_of(kernel, at), timeout=60)
    error = caught.value
    assert (error.buffer, error.kernel, error.launch) == ("out", kernel, "graph.launches[0]")
    assert 4 * at <= error.offset < 4 * at + 128
    assert client.run(graph_of("write_at", 5), timeout=60)["out"][5] == 1


@pytest.mark.parametrize(
    ("kernel", "at", "says"),
    [
        ("nothing", 0, "where no memory is"),
        ("write_at", 1 << 60, "an impossible address"),
        ("overflow", 0, r"thread .* overflowed its stack of 128 KiB"),
    ],
)
def test_an_address_far_from_every_buffer_is_told_without_one(client, kernel, at, says) -> None:
    with pytest.raises(KernelFailed, match=f"'{kernel}' failed: block .*{says}") as caught:
        client.run(graph_of(kernel, at), timeout=60)
    assert "buffer" not in caught.value.detail
    assert client.run(graph_of("write_together", 5), timeout=60)["out"][0] == 2


def test_threads_do_not_pile_up_over_launches() -> None:
    with kaasq.local("cpu") as client:
        source = 'extern "C" __global__ void spin(float* x) { for (int i = 0; i < 3000; i++) x[threadIdx.x] += 1; }'
        graph = kaasq.Graph("busy")
        out = graph.output("out", shape=(1024,), dtype="float32")
        graph.launch(kaasq.Module.from_source(source).kernel("spin"), grid=64, block=256, args=[out])
        client.run(graph)
        before = kernel_threads()
        for _ in range(50):
            client.run(graph)
        assert kernel_threads() == before


def kernel_threads() -> int:
    """All of the process's, those that Python does not know of too."""
    return len(list(Path("/proc/self/task").iterdir()))
