"""The whole demo on the embedded worker: kernels compiled, run, checked, drawn and told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import kaasq
from kaasq_producers.demo import pipeline, reference
from kaasq_producers.demo.cli import demo
from kaasq_producers.demo.execution import execute
from kaasq_producers.demo.photo import load_photo


@pytest.fixture
def crop(tmp_path: Path) -> Path:
    path = tmp_path / "crop.png"
    Image.fromarray(load_photo().pixels[150:246, 180:308]).save(path)
    return path


def run_demo(*arguments: object) -> Any:
    return CliRunner().invoke(demo, [str(each) for each in arguments])


@pytest.mark.parametrize(("height", "width"), [(97, 131), (1, 1), (3, 40), (33, 2)])
def test_the_cpu_device_computes_what_numpy_does_at_any_size(height: int, width: int):
    pixels = np.ascontiguousarray(load_photo().pixels[150 : 150 + height, 180 : 180 + width])
    with kaasq.local(device="cpu") as client:
        execution = execute(client, pipeline.build_graph(height, width), pipeline.inputs(pixels), warm_runs=1)
    assert execution.device == "cpu"
    for outputs in execution.outputs:
        assert reference.compare(outputs, reference.compute(pixels)).passed


def test_scalars_given_with_the_request_change_the_picture_as_in_numpy():
    pixels = np.ascontiguousarray(load_photo().pixels[150:214, 180:244])
    scalars = {"low": 1.5, "high": 3.0, "glow": 0.5, "colour": 1.0}
    with kaasq.local(device="cpu") as client:
        result = client.run(pipeline.build_graph(64, 64), bind=pipeline.inputs(pixels), scalars=scalars)
        assert reference.compare(result, reference.compute(pixels, **scalars)).passed
        assert not reference.compare(result, reference.compute(pixels)).passed


def test_the_demo_draws_a_picture_and_says_what_to_try_next(crop: Path, tmp_path: Path):
    picture = tmp_path / "demo.png"
    done = run_demo("--device", "cpu", "--photo", crop, "--output", picture, "--repeat", 1)
    assert done.exit_code == 0, done.output
    assert "9 kernels in 14 launches" in done.output
    assert "NumPy computes the same" in done.output
    assert "./ops/test" in done.output
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 1500
        assert image.height > 1000


def test_the_demo_prints_what_it_measured_as_json(crop: Path, tmp_path: Path):
    done = run_demo("--device", "cpu", "--photo", crop, "--output", tmp_path / "a.png", "--repeat", 2, "--json")
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)
    assert measured["device"] == "cpu"
    assert (measured["height"], measured["width"], measured["requests"]) == (96, 128, 3)
    assert measured["check"]["passed"] is True
    assert measured["warm"]["kernel"] > 0
    assert measured["warm"]["request"] >= measured["warm"]["kernel"]


def test_the_demo_fails_when_numpy_disagrees(crop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = reference.compute

    def wrong(pixels: np.ndarray) -> reference.Answer:
        return right(255 - pixels)

    monkeypatch.setattr(reference, "compute", wrong)
    done = run_demo("--device", "cpu", "--photo", crop, "--output", tmp_path / "a.png", "--repeat", 1)
    assert done.exit_code == 1
    assert "not what NumPy computes" in done.output


def test_a_folder_that_is_not_there_is_refused_before_anything_runs(crop: Path, tmp_path: Path):
    done = run_demo("--device", "cpu", "--photo", crop, "--output", tmp_path / "nowhere" / "a.png")
    assert isinstance(done.exception, kaasq.BadRequest)
    assert "--output" in str(done.exception)


def test_without_the_extra_the_demo_says_how_to_install_it(tmp_path: Path):
    script = "import sys; sys.modules['matplotlib'] = None; from kaasq.cli import main; main(['demo'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "pip install '.[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
