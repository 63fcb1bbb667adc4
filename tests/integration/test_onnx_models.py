"""Trained ONNX models from end to end on the cpu device, held against onnxruntime."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import kaasq
from kaasq.importers.onnx import OnnxModel, load
from kaasq.importers.onnx.folding import FOLDED
from kaasq.importers.onnx.operators import OPERATORS
from tests.support.digits import TRAINED, Trained
from tests.support.onnx_models import by_onnxruntime

ROOT = Path(__file__).parents[2]
ERROR = 2e-5  # of logits that reach about 20; measured: a third of that (docs/importers.md)


@pytest.fixture(scope="module")
def client() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cpu") as made:
        yield made


@pytest.fixture(params=TRAINED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def trained(name: str) -> Trained:
    return TRAINED[name]()


def logits(client: kaasq.Client, model: OnnxModel, x: np.ndarray, name: str) -> np.ndarray:
    weights = model.upload(client, f"models/{name}")
    return client.run(model.graph, bind=weights, x=x)["logits"]


def test_trained_model_tells_the_digits_as_onnxruntime_does(client, name, trained) -> None:
    (expected,) = by_onnxruntime(trained.model, {"x": trained.held_out})
    ours = logits(client, load(trained.model, name=name, batch=len(trained.held_out)), trained.held_out, name)
    error = float(np.abs(ours - expected).max())
    accuracy = trained.accuracy(ours)
    print(
        f"\nkaasq vs onnxruntime: max |error| {error:.1e} of logits up to {np.abs(expected).max():.1f}, "
        f"accuracy {accuracy:.4f} ({name})"
    )
    assert error < ERROR
    assert accuracy == trained.accuracy(expected)
    assert accuracy > 0.9


def test_batches_of_one_model_share_their_weights(client, name, trained) -> None:
    small, large = load(trained.model, name=name, batch=3), load(trained.model, name=name, batch=7)
    x = trained.held_out[:7]
    weights = small.upload(client, "models/shared")
    again = large.upload(client, "models/shared")
    assert {key: each.ref for key, each in weights.items()} == {key: each.ref for key, each in again.items()}
    few = client.run(small.graph, bind=weights, x=x[:3])["logits"]
    many = client.run(large.graph, bind=weights, x=x)["logits"]
    np.testing.assert_allclose(few, many[:3], atol=ERROR)


def test_second_request_finds_weights_on_the_device(client, name, trained) -> None:
    model = load(trained.model, name=name, batch=2)
    weights = model.upload(client, "models/cached")
    client.run(model.graph, bind=weights, x=trained.held_out[:2])
    again = client.run(model.graph, bind=weights, x=trained.held_out[2:4])
    assert again.cache.misses == 0
    assert again.cache.hits >= len(weights)


def test_snippet_of_the_page_runs(tmp_path, monkeypatch) -> None:
    page = (ROOT / "docs" / "importers.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python onnx\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    mlp = TRAINED["mlp"]()
    onnx.save(mlp.model, tmp_path / "digits.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"images": mlp.held_out[:8]}
    exec(snippet, names)
    np.testing.assert_allclose(
        names["result"]["logits"], by_onnxruntime(mlp.model, {"x": mlp.held_out[:8]})[0], atol=ERROR
    )


def test_page_names_every_operator() -> None:
    page = (ROOT / "docs" / "importers.md").read_text(encoding="utf-8")
    table = page.split("### Operators")[1].split("###")[0]
    assert set(OPERATORS) | FOLDED <= set(re.findall(r"\w+", table))


def test_example_tells_digits() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits.py"], check=False, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    share = re.search(r"([0-9.]+)% of 450 unseen digits told right", done.stdout)
    assert share is not None
    assert float(share[1]) > 95


def test_file_of_the_gpu_tests_is_such_a_model(name, trained) -> None:
    """Not the same numbers: training amplifies how the machine's BLAS rounds."""
    stored = onnx.load(ROOT / "tests" / "data" / "digits" / f"{name}.onnx")
    assert [each.op_type for each in stored.graph.node] == [each.op_type for each in trained.model.graph.node]
    (logits,) = by_onnxruntime(stored, {"x": trained.held_out})
    assert trained.accuracy(logits) > 0.95


def test_an_asynchronous_client_uploads_and_runs_a_model(client, name, trained) -> None:
    model = load(trained.model, name=name, batch=8)
    expected = logits(client, model, trained.held_out[:8], name)

    async def run() -> np.ndarray:
        async with kaasq.local_async(device="cpu") as other:
            weights = await model.upload_async(other, "models/a")
            return (await other.run(model.graph, bind=weights, x=trained.held_out[:8]))["logits"]

    np.testing.assert_array_equal(asyncio.run(run()), expected)
