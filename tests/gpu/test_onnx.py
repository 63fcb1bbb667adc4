"""Imported ONNX models on a GPU: the same answers as on the cpu device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import kaasq
from kaasq.importers.onnx import load
from tests.support.digits import TRAINED

pytestmark = pytest.mark.gpu

ERROR = 5e-5  # of logits that reach about 30, in float32 (no TF32)


@pytest.fixture(scope="module")
def clients() -> Iterator[list[kaasq.Client]]:
    with kaasq.local(device="cpu") as cpu, kaasq.local(device="cuda:0") as gpu:
        yield [cpu, gpu]


@pytest.mark.parametrize("name", TRAINED)
def test_trained_model_tells_the_digits_on_both_devices(clients, name) -> None:
    trained = TRAINED[name]()
    model = load(trained.model, name=name, batch=len(trained.held_out))
    answers = []
    for client in clients:
        weights = model.upload(client, f"models/{name}")
        answers.append(client.run(model.graph, bind=weights, x=trained.held_out, timeout=120)["logits"])
    cpu, gpu = answers
    error = float(np.abs(gpu - cpu).max())
    print(f"\ncuda:0 vs cpu: max |error| {error:.1e}, accuracy {trained.accuracy(gpu):.4f} ({name})")
    assert error < ERROR
    assert trained.accuracy(gpu) == trained.accuracy(cpu)


def test_second_request_finds_weights_on_the_gpu(clients) -> None:
    gpu = clients[1]
    trained = TRAINED["convnet"]()
    model = load(trained.model, name="convnet", batch=8)
    weights = model.upload(gpu, "models/cached")
    first = gpu.run(model.graph, bind=weights, x=trained.held_out[:8], timeout=120)
    again = gpu.run(model.graph, bind=weights, x=trained.held_out[:8], timeout=120)
    assert again.cache.misses == 0
    np.testing.assert_array_equal(first["logits"], again["logits"])
