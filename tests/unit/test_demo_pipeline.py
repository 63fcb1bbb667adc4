"""The demo's graph, its reference in NumPy and its words, without a device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaasq.errors import BadRequest
from kaasq.messages import Timings
from kaasq_producers.demo import pipeline, reference
from kaasq_producers.demo.execution import Execution, Run
from kaasq_producers.demo.photo import load_photo
from kaasq_producers.demo.report import kaasq_command


def photograph(height: int, width: int) -> np.ndarray:
    """Dark on the left, bright on the right: one upright edge in the middle."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[:, width // 2 :] = 200
    return pixels


def test_the_graph_freezes_and_its_hash_depends_on_the_size_alone():
    spec = pipeline.build_graph(60, 50).freeze()
    assert spec.hash == pipeline.build_graph(60, 50).freeze().hash
    assert spec.hash != pipeline.build_graph(50, 60).freeze().hash
    assert len(spec.launches) == 14
    assert len({launch.kernel for launch in spec.launches}) == 9
    assert [each.name for each in spec.buffers if each.returned] == ["after", "edges", "histogram"]


def test_what_a_request_binds_fits_what_the_graph_declares():
    spec = pipeline.build_graph(6, 5).freeze()
    bound = pipeline.inputs(photograph(6, 5))
    assert {each.name: each.nbytes for each in spec.buffers if each.given} == {
        name: array.nbytes for name, array in bound.items()
    }


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(height: int, width: int):
    with pytest.raises(BadRequest, match="nothing to draw"):
        pipeline.build_graph(height, width)


def test_blur_weights_are_symmetric_and_keep_brightness():
    weights = pipeline.gaussian(2.0)
    assert len(weights) == 13
    assert np.array_equal(weights, weights[::-1])
    assert weights.sum() == pytest.approx(1, abs=1e-6)


def test_luma_of_grey_is_grey_and_white_is_255():
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(reference.luma(greys), np.arange(256, dtype=np.float32)[None])


def test_the_histogram_counts_every_pixel_once():
    counts = reference.compute(photograph(20, 30)).histogram
    assert counts[40] == counts[200] == 300
    assert counts.sum() == 600


def test_an_upright_edge_becomes_one_line_of_blue_light():
    answer = reference.compute(photograph(40, 40))
    rows, columns = np.nonzero(answer.edges)
    assert len(set(columns)) == 1
    assert set(rows) == set(range(1, 39))  # the rim is never an edge
    red, _, blue = answer.after[20, columns[0]].astype(int)
    assert blue > red + 50


def test_turning_the_photograph_turns_the_edges():
    pixels = load_photo().pixels[100:180, 200:280]
    edges = reference.compute(pixels).edges > 0
    turned = reference.compute(np.ascontiguousarray(pixels.transpose(1, 0, 2))).edges > 0
    assert np.count_nonzero(edges != turned.T) <= 0.02 * edges.size  # only ties and the sums' order differ


def test_a_flat_photograph_has_no_edges_and_no_light():
    answer = reference.compute(np.full((8, 8, 3), 128, np.uint8))
    assert not answer.edges.any()
    assert (answer.after == answer.after[0, 0]).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (9, 1, 3), (2, 2, 3)])
def test_tiny_photographs_work(shape: tuple[int, int, int]):
    answer = reference.compute(np.full(shape, 255, np.uint8))
    assert answer.after.shape == shape
    assert answer.histogram[255] == shape[0] * shape[1]


def test_weak_pixels_stay_only_beside_an_edge():
    found = np.array([[1, 2, 1, 1, 0, 1]], np.uint8)
    assert reference.grow(found).tolist() == [[2, 2, 2, 1, 0, 1]]
    assert reference.grow(reference.grow(found)).tolist() == [[2, 2, 2, 2, 0, 1]]


class TestCheck:
    @pytest.fixture
    def expected(self) -> reference.Answer:
        return reference.compute(photograph(200, 200))

    @pytest.fixture
    def given(self, expected: reference.Answer) -> dict[str, np.ndarray]:
        return {name: getattr(expected, name).copy() for name in ("after", "edges", "histogram")}

    def test_the_same_answer_is_exact(self, given, expected):
        check = reference.compare(given, expected)
        assert check.passed
        assert check.exact

    def test_rounding_by_one_level_and_a_few_flipped_edge_pixels_pass(self, given, expected):
        given["after"][:, :, 0] += 1
        given["edges"].flat[:4] ^= 255
        check = reference.compare(given, expected)
        assert check.passed
        assert not check.exact
        assert (check.max_difference, check.edges_differing) == (1, 4)

    @pytest.mark.parametrize(("name", "count", "change"), [("after", 121, 2), ("edges", 5, 255), ("histogram", 1, 1)])
    def test_more_than_that_fails(self, given, expected, name: str, count: int, change: int):
        given[name].flat[:count] ^= change
        assert not reference.compare(given, expected).passed

    def test_an_answer_of_zeros_fails(self, given, expected):
        zeros = {name: np.zeros_like(array) for name, array in given.items()}
        assert not reference.compare(zeros, expected).passed


def test_the_shipped_photograph_is_a_real_one_in_colour():
    pixels = load_photo().pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (600, 512, 3)
    assert pixels.std() > 50
    assert (pixels[..., 0] != pixels[..., 2]).mean() > 0.5


def test_a_photograph_of_the_users_is_turned_upright_and_made_rgb(tmp_path: Path):
    image = Image.new("L", (30, 20), 77)
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.save(tmp_path / "mine.jpg", exif=exif)
    photo = load_photo(tmp_path / "mine.jpg")
    assert photo.pixels.shape == (30, 20, 3)
    assert photo.caption == "mine.jpg"


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no pixels here")
    with pytest.raises(BadRequest, match=r"notes\.txt.*as an image"):
        load_photo(tmp_path / "notes.txt")


def test_the_warm_run_is_the_median_of_the_later_ones():
    runs = tuple(Run(us, Timings(kernel=us // 2)) for us in (9000, 300, 100, 200))
    execution = Execution(device="cpu", outputs=(), runs=runs)
    assert execution.cold.request_us == 9000
    assert execution.warm.request_us == 200
    assert execution.warm.client_us == 100


def test_hints_call_kaasq_as_it_can_be_called_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    installed = tmp_path / ".venv" / "bin" / "kaasq"
    installed.parent.mkdir(parents=True)
    installed.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(installed), "demo"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert kaasq_command() == ".venv/bin/kaasq"
    monkeypatch.chdir(installed.parent.parent)
    assert kaasq_command() == "bin/kaasq"
    monkeypatch.chdir("/")
    assert kaasq_command() == str(installed).lstrip("/")
    monkeypatch.setattr("sys.argv", ["/somewhere/python", "demo"])
    assert kaasq_command() == "kaasq"
    monkeypatch.setattr("sys.argv", [str(installed), "demo"])
    monkeypatch.setenv("PATH", str(installed.parent))
    assert kaasq_command() == "kaasq"
