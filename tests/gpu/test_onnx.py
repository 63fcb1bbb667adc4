"""Imported ONNX models on a GPU: the same answers as on the cpu device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import kaasq
from kaasq.importers.onnx import OnnxModel, load

pytestmark = pytest.mark.gpu

FOLDER = Path(__file__).parents[1] / "data" / "digits"
SHAPES = {"mlp": (64,), "convnet": (1, 8, 8), "transformer": (8, 8)}
ERROR = 5e-5  # of logits that reach about 30, in float32 (no TF32)


class Digits(NamedTuple):
    images: np.ndarray
    labels: np.ndarray

    def accuracy(self, logits: np.ndarray) -> float:
        return float((logits.argmax(axis=1) == self.labels).mean())


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = np.load(FOLDER / "held_out.npz")
    return Digits(data["pixels"].astype(np.float32) / 16, data["labels"])


@pytest.fixture(scope="module")
def clients() -> Iterator[list[kaasq.Client]]:
    with kaasq.local(device="cpu") as cpu, kaasq.local(device="cuda:0") as gpu:
        yield [cpu, gpu]


def model_of(name: str, batch: int) -> OnnxModel:
    return load(FOLDER / f"{name}.onnx", batch=batch)


@pytest.mark.parametrize("name", SHAPES)
def test_trained_model_tells_the_digits_on_both_devices(clients, digits, name) -> None:
    model = model_of(name, len(digits.images))
    x = digits.images.reshape(-1, *SHAPES[name])
    cpu, gpu = [
        client.run(model.graph, bind=model.upload(client, f"models/{name}"), x=x, timeout=120)["logits"]
        for client in clients
    ]
    error = float(np.abs(gpu - cpu).max())
    print(f"\ncuda:0 vs cpu: max |error| {error:.1e}, accuracy {digits.accuracy(gpu):.4f} ({name})")
    assert error < ERROR
    assert digits.accuracy(gpu) == digits.accuracy(cpu) > 0.9


def test_second_request_finds_weights_on_the_gpu(clients, digits) -> None:
    gpu = clients[1]
    model = model_of("convnet", 8)
    weights = model.upload(gpu, "models/cached")
    x = digits.images[:8].reshape(8, 1, 8, 8)
    first = gpu.run(model.graph, bind=weights, x=x, timeout=120)
    again = gpu.run(model.graph, bind=weights, x=x, timeout=120)
    assert again.cache.misses == 0
    np.testing.assert_array_equal(first["logits"], again["logits"])
