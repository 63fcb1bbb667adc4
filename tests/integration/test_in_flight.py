"""A worker with several requests on its device at once: whoever crashes, overruns or does not fit harms nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

import kaasq
from kaasq.settings import Settings
from tests.support.graphs import only_output

N = 256
ADD = kaasq.Module.from_source(
    r"""
extern "C" __global__ void add(const float* x, float* y, int n)
{ for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = x[i] + 1; }
"""
)
CRASH = only_output('extern "C" __global__ void crash(int* out) { *(volatile int*)8 = 1; out[0] = 1; }', "crash")
SPIN = only_output('extern "C" __global__ void spin(int* out) { while (*(volatile int*)out == 0); }', "spin")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def client(request: pytest.FixtureRequest) -> Iterator[kaasq.Client]:
    settings = Settings(in_flight=4, device_memory=64 << 20)
    with kaasq.local(device=request.param, isolate=True, settings=settings) as client:
        yield client


def adding(n: int = N) -> kaasq.Graph:
    graph = kaasq.Graph(f"adding.{n}")
    x, y = graph.input("x", shape=n, dtype="float32"), graph.output("y", shape=n, dtype="float32")
    graph.launch(ADD.kernel("add"), grid=1, block=128, args=[x, y, np.int32(n)])
    return graph


def submitted(client: kaasq.Client, count: int) -> list:
    return [client.submit(adding(), x=np.full(N, index, np.float32), timeout=60) for index in range(count)]


def check(futures: list) -> None:
    for index, each in enumerate(futures):
        np.testing.assert_array_equal(each.result(60)["y"], np.full(N, index + 1))


def test_one_that_crashes_is_found_among_those_that_ran_beside_it(client):
    before = submitted(client, 6)
    crash = client.submit(CRASH, timeout=60)
    after = submitted(client, 6)
    with pytest.raises(kaasq.KernelFailed, match=r"killed its executor 2 times|kernel .crash. failed"):
        crash.result(60)
    check(before)
    check(after)


def test_one_that_overruns_its_time_is_stopped_and_the_others_run_again(client):
    check(submitted(client, 1))
    before = submitted(client, 3)
    late = client.submit(SPIN, timeout=2)
    after = submitted(client, 3)
    started = time.monotonic()
    with pytest.raises(kaasq.DeadlineExceeded):
        late.result(30)
    assert time.monotonic() - started < 15
    check(before)
    check(after)


def test_what_does_not_fit_beside_others_waits_for_them(client):
    large = 7 << 20  # floats: twice 28 MiB, of 64
    x = np.ones(large, np.float32)
    ref = client.put(x)
    graph = adding(large)
    futures = [client.submit(graph, x=ref, y=kaasq.Keep(f"y/{index}"), timeout=60) for index in range(3)]
    small = submitted(client, 5)
    for each in futures:
        each.result(60)
    check(small)
    np.testing.assert_array_equal(client.get("y/2")[:100], np.full(100, 2))
