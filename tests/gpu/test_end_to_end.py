"""The whole path on a GPU with a real RabbitMQ: the same graphs, the same answers as the CPU device."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

import kaasq
from kaasq.ids import new_id
from kaasq_producers.demo.photo import load_photo
from kaasq_producers.demo.pipeline import build_graph, inputs
from tests.support.graphs import CRASH, ENDLESS, only_output, saxpy, scribble, sum_of_squares
from tests.support.workers import running_worker

pytestmark = pytest.mark.gpu

N = 100_000
X = np.random.default_rng(1).random(N, dtype=np.float32)
Y = np.random.default_rng(2).random(N, dtype=np.float32)


@pytest.fixture(scope="module")
def clients(broker_url, tmp_path_factory) -> Iterator[dict[str, kaasq.Client]]:
    """A pool with a GPU and a pool with a CPU."""
    folder = tmp_path_factory.mktemp("gpu")
    pools = {"cpu": f"t{new_id()[-10:]}", "cuda:0": f"t{new_id()[-11:]}"}
    with (
        running_worker(broker_url, pools["cpu"], folder / "cpu" / "store", device="cpu"),
        running_worker(broker_url, pools["cuda:0"], folder / "gpu" / "store", device="cuda:0"),
        kaasq.Client(broker_url, pool=pools["cpu"], store=folder / "cpu" / "store") as cpu,
        kaasq.Client(broker_url, pool=pools["cuda:0"], store=folder / "gpu" / "store") as gpu,
    ):
        yield {"cpu": cpu, "cuda:0": gpu}


def both(clients: dict[str, kaasq.Client], graph: kaasq.Graph, **bindings: object) -> list[dict[str, np.ndarray]]:
    answers = []
    for device, client in clients.items():
        result = client.run(graph, timeout=120, **bindings)
        assert result.worker.device == device
        answers.append({name: result[name] for name in result})
    return answers


def test_saxpy(clients):
    cpu, gpu = both(clients, saxpy(N), x=X, y=Y, a=1.5)
    np.testing.assert_allclose(gpu["out"], cpu["out"], rtol=1e-6)


def test_temps_and_shared_memory(clients):
    cpu, gpu = both(clients, sum_of_squares(N), x=X)
    np.testing.assert_allclose(gpu["out"], cpu["out"], rtol=1e-4)


def test_a_written_input_stays_pristine(clients):
    gpu = clients["cuda:0"]
    stored = gpu.put(X[:256])
    for _ in range(3):
        np.testing.assert_array_equal(gpu.run(scribble(256), x=stored)["out"], X[:256])


def test_the_demos_picture(clients):
    pixels = load_photo().pixels
    cpu, gpu = both(clients, build_graph(*pixels.shape[:2]), **inputs(pixels))
    assert np.mean(cpu["after"] != gpu["after"]) < 1e-3
    np.testing.assert_allclose(gpu["histogram"].astype(np.int64), cpu["histogram"].astype(np.int64), atol=3)


def test_large_inputs_and_outputs_through_the_store(clients):
    n = 16 << 20
    x = np.arange(n, dtype=np.float32)
    result = clients["cuda:0"].run(saxpy(n), x=x, y=x, timeout=120)
    np.testing.assert_allclose(result["out"], 3 * x, rtol=1e-6)


def test_cached_inputs_are_not_copied_again(clients):
    gpu = clients["cuda:0"]
    x, y = gpu.put(X), gpu.put(Y)
    gpu.run(saxpy(N), x=x, y=y)
    assert gpu.run(saxpy(N), x=x, y=y).cache.hits == 3  # the plan and both inputs


def test_a_chain_through_the_store_gives_both_devices_the_same(clients):
    n = 1 << 20  # 4 MiB: too large for a message, so each step reads the last one's output from the store
    x = np.arange(n, dtype=np.float32) % 1000
    sums = []
    for client in clients.values():
        last = kaasq.Then(sum_of_squares(n), x=kaasq.Output("out"), name="sum")
        then = kaasq.Then(saxpy(n), x=kaasq.Output("out"), y=x, a=1.0, name="added", then=last)
        result = client.run(saxpy(n), x=x, y=x, timeout=120, then=then)
        np.testing.assert_array_equal(result.then["added"].result()["out"], 4 * x)
        sums.append(result.then["sum"].result()["out"])
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-4)


def test_a_loop_ends_after_as_many_runs_on_both_devices(clients):
    n = 1000
    graph = kaasq.Graph("test.halving")
    x, out = graph.input("x", shape=n, dtype="float32"), graph.output("out", shape=n, dtype="float32")
    most = graph.output("most", shape=1, dtype="float32")
    module = kaasq.Module.from_source(
        'extern "C" __global__ void halve(const float* x, float* out, int n)'
        "{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = x[i] / 2; }"
    )
    graph.launch(module.kernel("halve"), grid=-(-n // 256), block=256, args=[x, out, np.int32(n)])
    graph.call("reduce", out, most, op="max", keepdims=True)
    until = kaasq.repeat({"x": "out"}, until=kaasq.Output("most") < 1.0, most=50)
    for client in clients.values():
        result = client.run(graph, x=np.full(n, 100, dtype=np.float32), timeout=120, repeat=until)
        assert (result.runs, result.held) == (7, True)
        np.testing.assert_array_equal(result["out"], np.full(n, 100 / 2**7, dtype=np.float32))


@pytest.mark.parametrize(
    ("source", "kernel", "error"),
    [("oops", "k", kaasq.ModuleRejected), ('extern "C" __global__ void a(int* o) {}', "b", kaasq.ModuleRejected)],
)
def test_modules_are_rejected_with_the_reason(clients, source, kernel, error):
    with pytest.raises(error):
        clients["cuda:0"].run(only_output(source, kernel), timeout=60)


def test_out_of_memory_names_need_and_capacity_and_the_worker_goes_on(clients):
    gpu = clients["cuda:0"]
    graph = kaasq.Graph("test.huge")
    huge = graph.temp("huge", nbytes=1 << 40)
    out = graph.output("out", nbytes=64)
    module = kaasq.Module.from_source('extern "C" __global__ void k(char* huge, char* out) { out[0] = huge[0]; }')
    graph.launch(module.kernel("k"), grid=1, block=1, args=[huge, out])
    with pytest.raises(kaasq.OutOfMemory) as caught:
        gpu.run(graph, timeout=60)
    assert caught.value.needed > caught.value.capacity
    assert gpu.run(saxpy(N), x=X, y=Y)["out"].shape == (N,)


def test_an_illegal_address_is_told_and_the_next_request_served(clients):
    gpu = clients["cuda:0"]
    others = [gpu.submit(saxpy(N), x=X, y=Y, a=float(i), timeout=120) for i in range(5)]
    with pytest.raises(kaasq.KernelFailed):
        gpu.run(only_output(CRASH, "crash"), timeout=120)
    others += [gpu.submit(saxpy(N), x=X, y=Y, a=float(i), timeout=120) for i in range(5, 10)]
    for i, each in enumerate(others):
        np.testing.assert_allclose(each.result(120)["out"], i * X + Y, rtol=1e-5)


def test_an_endless_kernel_is_stopped_at_its_deadline(clients):
    gpu = clients["cuda:0"]
    with pytest.raises((kaasq.DeadlineExceeded, kaasq.ReplyTimeout)):
        gpu.run(only_output(ENDLESS, "endless"), timeout=3)
    np.testing.assert_allclose(gpu.run(saxpy(N), x=X, y=Y, timeout=120)["out"], 2 * X + Y, rtol=1e-5)


def test_a_killed_executor_is_replaced(clients):
    gpu = clients["cuda:0"]
    pid = gpu.run(saxpy(N), x=X, y=Y, timeout=60).worker.pid
    os.kill(pid, signal.SIGKILL)
    assert gpu.run(saxpy(N), x=X, y=Y, timeout=60).worker.pid != pid
