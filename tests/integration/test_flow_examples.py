"""The examples of workflows: what they compute is what NumPy and ONNX Runtime do, and they run as programs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import kaasq
import kaasq.importers.onnx
from examples.digit_sheets import __main__ as digits_program
from examples.digit_sheets import pipeline as digits
from examples.digit_sheets.scans import scans
from examples.image_tiles import __main__ as tiles_program
from examples.image_tiles import pipeline as tiles
from tests.support.onnx_models import by_onnxruntime

DATA = digits_program.DATA


@pytest.fixture(scope="module")
def client():
    with kaasq.local(device="cpu") as made:
        yield made


# ------------------------------------------------------------------------------------------------------------ image


def photo(height: int, width: int) -> np.ndarray:
    """A picture with dark and bright parts: a part of the one that is shipped."""
    with Image.open(tiles_program.SHIPPED) as image:
        return np.asarray(image.convert("RGB"))[100 : 100 + height, 100 : 100 + width]


def brightness(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(int) @ np.array([77, 150, 29])) >> 8


def evened(pixels: np.ndarray, tile: int, clip: float) -> np.ndarray:
    """The whole of it in NumPy."""
    height, width, _ = pixels.shape
    down, across = -(-height // tile), -(-width // tile)
    tone = brightness(pixels)
    padded = np.pad(tone, ((0, down * tile - height), (0, across * tile - width)), "reflect")
    blocks = padded.reshape(down, tile, across, tile).transpose(0, 2, 1, 3).reshape(down, across, -1)
    tables = np.zeros((down, across, 256))
    for i, j in np.ndindex(down, across):
        counts = np.bincount(blocks[i, j], minlength=256)
        clipped = np.minimum(counts, max(1, int(clip * tile * tile / 256)))
        spread = (counts - clipped).sum() * np.arange(1, 257) / 256
        tables[i, j] = np.floor(np.minimum((clipped.cumsum() + spread) / tile**2, 1) * 255 + 0.5)
    v, u = (np.arange(height) + 0.5) / tile - 0.5, (np.arange(width) + 0.5) / tile - 0.5
    top, left = np.floor(v).astype(int), np.floor(u).astype(int)
    wanted = np.zeros((height, width))
    for i in (0, 1):
        for j in (0, 1):
            rows, columns = np.clip(top + i, 0, down - 1), np.clip(left + j, 0, across - 1)
            weight = np.outer(*((part if k else 1 - part) for part, k in ((v - top, i), (u - left, j))))
            wanted += weight * tables[rows[:, None], columns, tone]
    change = np.floor(wanted - tone + 0.5)[..., None]
    return np.clip(pixels + change, 0, 255)


@pytest.mark.parametrize(("height", "width", "tile"), [(100, 130, 32), (64, 64, 64), (65, 33, 16)])
def test_a_photo_cut_and_joined_is_what_numpy_makes_of_it_whole(client, height: int, width: int, tile: int) -> None:
    pixels = photo(height, width)
    result = client.run(tiles.pipeline(height, width, tile), photo=pixels, clip=2.5, timeout=100)
    difference = np.abs(result["out"] - evened(pixels, tile, 2.5))
    assert difference.max() <= 1  # a half rounds either way
    assert (difference > 0).mean() < 0.01
    count = -(-height // tile) * -(-width // tile)
    assert {name: (each.state, each.completed) for name, each in result.steps.items()} == {
        "cut": ("completed", 1),
        "tones": ("completed", count),
        "join": ("completed", 1),
    }


def test_a_tile_whose_tones_are_not_there_keeps_its_own(client) -> None:
    pixels = photo(64, 64)
    nothing = np.zeros((4, 256), np.uint8)
    result = client.run(tiles.join_graph(64, 64, 32), photo=pixels, tables=nothing, there=np.zeros(4, np.uint8))
    np.testing.assert_array_equal(result["out"], pixels)


def test_the_image_example_runs_as_a_program(tmp_path: Path, capsys) -> None:
    before, after, page = (tmp_path / name for name in ("before.png", "after.png", "page.html"))
    Image.fromarray(photo(96, 96)).save(before)
    options = ["--device", "cpu", "--tile", "32", "--output", str(after), "--timeline", str(page)]
    assert tiles_program.main([str(before), *options]) == 0
    with Image.open(after) as image:
        np.testing.assert_allclose(np.asarray(image), evened(photo(96, 96), 32, 2.0), atol=1)
    assert re.search(r"tones +completed +9/9", capsys.readouterr().out)
    assert "tones[8]" in page.read_text()


def test_the_image_example_says_what_is_no_image(tmp_path: Path, capsys) -> None:
    wrong = tmp_path / "photo.jpg"
    wrong.write_text("no photo")
    assert tiles_program.main([str(wrong)]) == 2
    assert "photo.jpg cannot be read as an image" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- digits


def test_each_step_of_the_digits_is_what_numpy_and_onnxruntime_make_of_it(client) -> None:
    images, _ = scans(DATA / "held_out.npz")
    with np.load(DATA / "held_out.npz") as held_out:
        ink = held_out["pixels"][:50].reshape(50, 1, 8, 8) / 16
    x = client.run(digits.prepare_graph(50), scans=images[:50])["x"]
    np.testing.assert_array_equal(x, ink.astype(np.float32))  # light and noise are gone
    (logits,) = by_onnxruntime(onnx.load(DATA / "convnet.onnx"), {"x": x})
    read = client.run(digits.read_graph(50), logits=logits)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(read["digits"], logits.argmax(axis=1))
    np.testing.assert_allclose(read["sure"], shares.max(axis=1), rtol=1e-5)


def test_sheets_go_through_all_steps_and_find_the_weights_on_the_device(client) -> None:
    images, labels = scans(DATA / "held_out.npz")
    model = kaasq.importers.onnx.load(DATA / "convnet.onnx", batch=50)
    weights = model.upload(client, "digits")
    flow = digits.pipeline(model, weights, 3, 50)
    result = client.run(flow, scans=images[:150].reshape(3, 50, 32, 32), timeout=100)
    assert (result["digits"].reshape(-1) == labels[:150]).mean() > 0.9
    np.testing.assert_array_equal(result["counts"], np.bincount(result["digits"].reshape(-1), minlength=10))
    assert result["unsure"][0] == (result["sure"] < np.float32(0.6)).sum()
    again = client.run(model.graph, bind={**weights, "x": np.zeros((50, 1, 8, 8), np.float32)})
    assert again.cache.hits >= len(weights)


def test_the_digits_example_runs_as_a_program(tmp_path: Path, capsys) -> None:
    page = tmp_path / "digits.html"
    assert digits_program.main(["--device", "cpu", "--timeline", str(page)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"classify +completed +9/9", said)
    right = re.search(r"([0-9.]+)% of 450 digits right", said)
    assert right is not None
    assert float(right[1]) > 95
    assert "KiB of weights: loading and copying in took" in said
    assert "classify[8]" in page.read_text()
