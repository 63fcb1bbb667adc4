"""Reading ONNX models: what is taken, what is refused and how it is told, and what the graph is like."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import kaasq
from kaasq.importers.onnx import OnnxLimits, load
from kaasq.importers.onnx.folding import FOLDED
from kaasq.importers.onnx.operators import OPERATORS
from tests.support.onnx_models import model_of

DOC = Path(__file__).parents[2] / "docs" / "importers.md"

node = helper.make_node
X = np.zeros((2, 3), np.float32)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)


def linear(batch: Any = 2) -> onnx.ModelProto:
    shape = (batch, 3)
    return model_of(
        [node("MatMul", ["x", "w"], ["y"], name="dense")], {"x": (np.float32, shape)}, ["y"], {"w": WEIGHTS}
    )


def kernels(model: Any) -> list[str]:
    return [each.kernel for each in model.graph.launches]


def refusal(model: Any, **arguments: Any) -> str:
    with pytest.raises(kaasq.BadRequest) as caught:
        load(model, **arguments)
    return caught.value.message


# ------------------------------------------------------------------------------------------------------------- sources
def test_path_bytes_and_parsed_model_give_the_same_graph(tmp_path: Path) -> None:
    model = linear()
    path = tmp_path / "two words.v1.onnx"
    onnx.save(model, path)
    loaded = [load(each, name="n") for each in (path, str(path), path.read_bytes(), model)]
    assert {each.graph.hash for each in loaded} == {loaded[0].graph.hash}
    assert load(path).graph.name == "two_words_v1"
    assert load(model).graph.name == "test"


def test_weights_are_const_inputs_that_nobody_changes() -> None:
    model = load(linear())
    assert model.weights["w"].tolist() == WEIGHTS.tolist()
    assert [(each.name, each.role, each.const) for each in model.graph.buffers] == [
        ("x", "input", False),
        ("y", "output", False),
        ("w", "input", True),
    ]
    with pytest.raises(ValueError, match="read-only"):
        model.weights["w"][0, 0] = 1
    with pytest.raises(TypeError):
        model.weights["other"] = X


@pytest.mark.parametrize("cut", [0, 1, 40, 100])
def test_truncated_file_is_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(linear().SerializeToString()[:cut])
    assert str(path) in refusal(path)


def test_missing_file_names_its_path(tmp_path: Path) -> None:
    assert "missing.onnx: cannot be read: No such file" in refusal(tmp_path / "missing.onnx")


def test_what_is_no_model_is_told() -> None:
    assert "expected a path, the bytes of a model or an onnx.ModelProto, given a int" in refusal(3)
    assert "are no ONNX model" in refusal(b"\xff" * 100)


def test_external_data_is_read_from_beside_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load(path).weights["w"].tolist() == WEIGHTS.tolist()
    assert "lies in another file: load the model from its path" in refusal(path.read_bytes())
    assert "OnnxLimits.model_bytes" in refusal(path, limits=OnnxLimits(model_bytes=path.stat().st_size + 10))
    (tmp_path / "weights.bin").write_bytes(b"short")
    assert "the data of 'w' should lie in 'weights.bin' beside the model" in refusal(path)
    (tmp_path / "weights.bin").unlink()
    assert "the data of 'w' should lie in 'weights.bin' beside the model" in refusal(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link"])
def test_external_data_cannot_lie_outside_of_the_models_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(WEIGHTS.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    model = linear()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "cannot be read" in refusal(folder / "model.onnx")


def test_limits_are_named_where_they_are_exceeded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(linear(), path)
    assert "OnnxLimits.model_bytes" in refusal(path, limits=OnnxLimits(model_bytes=10))
    assert "OnnxLimits.model_bytes" in refusal(path.read_bytes(), limits=OnnxLimits(model_bytes=10))
    assert "OnnxLimits.nodes" in refusal(path, limits=OnnxLimits(nodes=0))


def test_huge_constant_is_not_computed() -> None:
    nodes = [
        node("ConstantOfShape", ["size"], ["zeros"], name="bomb"),
        node("Add", ["x", "zeros"], ["y"]),
    ]
    message = refusal(model_of(nodes, {"x": X}, ["y"], {"size": np.array([1 << 20, 1 << 20, 3])}))
    assert "ConstantOfShape 'bomb'" in message
    assert "OnnxLimits.folded_bytes" in message


def test_without_onnx_the_call_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install '.[onnx]'" in refusal(b"")


def test_importing_the_importer_does_not_import_onnx() -> None:
    code = "import sys, kaasq.importers.onnx; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------------- dimensions
def test_batch_fills_first_dimensions_and_shapes_the_others() -> None:
    nodes = [node("MatMul", ["a", "b"], ["y"])]
    model = model_of(nodes, {"a": (np.float32, ("N", "K")), "b": (np.float32, ("K", 4))}, ["y"])
    loaded = load(model, batch=5, shapes={"b": (3, 4)})
    assert loaded.graph.buffer("a").shape == (5, 3)
    assert loaded.graph.buffer("y").shape == (5, 4)


def test_open_dimensions_are_listed() -> None:
    message = refusal(linear("N"))
    assert "'x' (N, 3)" in message
    assert "batch=" in message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"shapes": {"z": (1, 3)}}, "the model has no input 'z'; it has x"),
        ({"shapes": {"x": (1, 3, 1)}}, "(1, 3, 1) has 3 dimensions; the model says (N, 3)"),
        ({"shapes": {"x": (1, 4)}}, "(1, 4) does not fit: 3 is 3"),
        ({"shapes": {"x": (0, 3)}}, "(0, 3) is no shape"),
        ({"batch": 0}, "batch: is 0"),
    ],
)
def test_shapes_that_do_not_fit_are_told(arguments: dict[str, Any], told: str) -> None:
    assert told in refusal(linear("N"), **arguments)


def test_one_name_is_one_size() -> None:
    model = model_of([node("Add", ["a", "b"], ["y"])], {"a": (np.float32, ("N",)), "b": (np.float32, ("N",))}, ["y"])
    assert load(model, shapes={"a": (4,)}).graph.buffer("b").shape == (4,)
    assert "'N' is 4" in refusal(model, shapes={"a": (4,), "b": (5,)})


def test_input_without_any_shape_needs_one() -> None:
    model = linear()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert "does not say the shape of input 'x'" in refusal(model)
    assert load(model, shapes={"x": (7, 3)}).graph.buffer("y").shape == (7, 4)


# --------------------------------------------------------------------------------------------------------- unsupported
def test_everything_unsupported_is_told_at_once() -> None:
    nodes = [
        node("GRU", ["x", "gw", "gr"], ["gru"], name="recurrent", hidden_size=1),
        node("Relu", ["gru"], ["after"], name="follows"),
        node("FusedMatMul", ["x", "x"], ["fused"], name="fast", domain="com.microsoft"),
        node("MaxPool", ["x"], ["largest"], name="tall", kernel_shape=[2], storage_order=1),
        node("Reshape", ["x", "shape"], ["reshaped"], name="by_data"),
        node("MatMul", ["whole", "whole"], ["product"], name="integers"),
        node("NonZero", ["x"], ["places"], name="count"),
        node("LayerNormalization", ["x", "norm"], ["normal", "mean"], name="statistics"),
    ]
    inputs = {
        "x": np.zeros((2, 3, 3), np.float32),
        "shape": np.array([18]),
        "whole": np.ones((2, 2), np.int64),
    }
    constants = {"gw": np.zeros((1, 3, 3), np.float32), "gr": np.zeros((1, 3, 1), np.float32), "norm": X[0]}
    model = model_of(
        nodes, inputs, ["after", "fused", "largest", "reshaped", "product", "places", "normal", "mean"], constants
    )
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(kaasq.BadRequest) as caught:
        load(model)
    problems = caught.value.problems
    assert problems[0] == "GRU 'recurrent': the operator is not supported"
    assert problems[1] == "FusedMatMul 'fast': operators of domain 'com.microsoft' are not supported"
    assert problems[2] == "MaxPool 'tall': storage_order=1"
    assert "Reshape 'by_data': the shape of 'reshaped' depends on data" in problems[3]
    assert "MatMul 'integers': gemm.args[0]" in problems[4]
    assert "is int64; a may be float16, float32, float64" in problems[4]
    assert problems[5] == "NonZero 'count': the operator is not supported"
    assert "LayerNormalization 'statistics': only its first output is supported; mean is used" in problems[6]
    assert len(problems) == 7
    assert all(each in caught.value.message for each in problems)


def test_attribute_that_nobody_honours_is_refused() -> None:
    model = model_of([node("Cast", ["x"], ["y"], to=1, round_mode="up")], {"x": X.astype("f8")}, ["y"], opset=25)
    assert "round_mode='up'" in refusal(model)


def test_names_that_are_no_text_are_told() -> None:
    damaged = linear().SerializeToString().replace(b"dense", b"d\xff\xffse")
    assert "a name in it is no UTF-8" in refusal(damaged)


def test_damaged_model_is_refused_or_read_but_breaks_nothing() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], group=1),
        node("Reshape", ["c", "shape"], ["r"]),
        node("Slice", ["r", "low", "high", "low"], ["s"]),
        node("Pad", ["s", "pads"], ["p"], mode="reflect"),
        node("Softmax", ["p"], ["y"], axis=1),
    ]
    constants = {
        "w": np.ones((2, 1, 3, 3), np.float32),
        "shape": np.array([4, -1]),
        "low": np.array([0]),
        "high": np.array([2]),
        "pads": np.array([0, 1, 0, 1]),
    }
    whole = model_of(nodes, {"x": np.zeros((1, 1, 4, 4), np.float32)}, ["y"], constants).SerializeToString()
    assert kernels(load(whole)) == ["conv2d", "slice", "gather", "softmax"]
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        try:
            load(bytes(damaged), limits=OnnxLimits(folded_bytes=1 << 20))
        except kaasq.BadRequest:
            refused += 1
    assert refused > 100


def test_constants_that_make_no_sense_are_told() -> None:
    slices = {"starts": np.array([0]), "ends": np.array([1]), "axes": np.array([7])}
    model = model_of([node("Slice", ["x", *slices], ["y"], name="cut")], {"x": X}, ["y"], slices)
    assert "Slice 'cut': " in refusal(model)
    mask = {"depth": np.array(1 << 40), "values": np.float32([0, 1])}
    model = model_of([node("OneHot", ["i", *mask], ["y"], name="many")], {"i": np.array([1])}, ["y"], mask)
    message = refusal(model)
    assert "OneHot 'many'" in message
    assert "OnnxLimits.folded_bytes" in message


def test_unused_first_output_costs_nothing() -> None:
    model = model_of([node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)], {"x": np.zeros((2, 4), "f4")}, ["b"])
    assert [each.attrs["starts"] for each in load(model).graph.launches] == [(0, 2)]


def test_empty_values_are_refused() -> None:
    nodes = [node("Shape", ["x"], ["none"], start=2), node("Relu", ["x"], ["y"])]
    message = refusal(model_of(nodes, {"x": X}, ["y", "none"]))
    assert "output 'none': 'none' of shape (0,) is empty" in message


@pytest.mark.parametrize(
    ("op", "constants", "attributes", "told"),
    [
        ("MatMul", 1, {}, "MatMul that gives 'y': ONNX does not accept it: Incompatible dimensions"),
        ("AveragePool", 0, {"kernel_shape": [1, 1], "pads": [-1, 0, 0, 0]}, "pads must not contain negative values"),
        ("AveragePool", 0, {"kernel_shape": [1, 1], "auto_pad": "MOST"}, "auto_pad='MOST'; known are"),
        ("Conv", 1, {}, "ONNX does not accept it"),
        ("Gelu", 0, {}, "No Op registered for Gelu"),
        ("Pad", 0, {"mode": "constant"}, "has input size 1 not in range [min=2, max=4]"),
    ],
)
def test_what_an_operator_cannot_do_is_told(op: str, constants: int, attributes: dict[str, Any], told: str) -> None:
    given = {f"c{i}": np.ones(3, np.float32) for i in range(constants)}
    model = model_of([node(op, ["x", *given], ["y"], **attributes)], {"x": np.zeros((2, 3, 4, 4), "f4")}, ["y"], given)
    assert told in refusal(model)


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph([node("Relu", ["x"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [2, 3])])
    nodes = [node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)]
    message = refusal(model_of(nodes, {"x": X, "c": np.array(True)}, ["y"]))
    assert "If 'choice': control flow is not supported" in message


def test_random_is_not_computed() -> None:
    nodes = [node("RandomNormal", [], ["r"], shape=[2, 3], name="noise"), node("Add", ["x", "r"], ["y"])]
    assert "RandomNormal 'noise': the operator is not supported" in refusal(model_of(nodes, {"x": X}, ["y"]))


def test_types_without_buffers_are_refused() -> None:
    model = model_of([node("Identity", ["x"], ["y"])], {"x": (np.float32, (2,))}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert "input 'x': strings are not supported" in refusal(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    assert "bfloat16" in refusal(model)
    model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2])))
    assert "input 'x': is a sequence; only tensors can be inputs" in refusal(model)


def test_damaged_weights_are_named() -> None:
    model = linear()
    model.graph.initializer[0].raw_data = b"1234"
    assert "initializer 'w': its data is damaged" in refusal(model)


def test_opsets_outside_of_what_is_understood_are_refused() -> None:
    for opset in (6, 99):
        model = linear()
        model.opset_import[0].version = opset
        assert f"is of opset {opset}; understood are 7 to" in refusal(model)


def test_functions_of_the_model_are_refused_with_advice() -> None:
    model = linear()
    model.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)])
    )
    assert "inline_local_functions" in refusal(model)


def test_invalid_model_is_told_as_the_checker_tells_it() -> None:
    model = linear()
    model.graph.node[0].input[0] = "nowhere"
    assert "not a valid ONNX model" in refusal(model)


# --------------------------------------------------------------------------------------------------------------- graphs
def test_shape_arithmetic_leaves_no_launch() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Constant", [], ["rest"], value_ints=[-1]),
        node("Concat", ["n1", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["flat"]),
        node("Relu", ["flat"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axis": np.array([0])}
    model = load(model_of(nodes, {"x": np.zeros((2, 3, 4), np.float32)}, ["y"], constants))
    assert kernels(model) == ["relu"]
    assert not model.weights
    assert model.graph.buffer("y").shape == (2, 12)


def test_batch_normalization_disappears_into_the_convolution() -> None:
    constants = {"w": np.ones((4, 1, 3, 3), np.float32), **{each: np.ones(4, np.float32) for each in "sbmv"}}
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", *"sbmv"], ["y"])]
    inputs = {"x": np.zeros((1, 1, 5, 5), np.float32)}
    folded = load(model_of(nodes, inputs, ["y"], constants))
    assert kernels(folded) == ["conv2d"]
    assert sorted(folded.weights) == ["w.normalised", "y.bias"]
    # The convolution's own result is asked for, too: it must stay what it is.
    both = load(model_of(nodes, inputs, ["y", "c"], constants))
    assert kernels(both) == ["conv2d", "batchnorm"]
    # Statistics that a request brings are not known now.
    variance = constants.pop("v")
    asked = load(model_of(nodes, {**inputs, "v": variance}, ["y"], constants))
    assert kernels(asked) == ["conv2d", "batchnorm"]


def test_alias_keeps_a_convolution_from_being_changed() -> None:
    constants = {"w": np.ones((4, 1, 3, 3), np.float32), **{each: np.ones(4, np.float32) for each in "sbmv"}}
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Identity", ["c"], ["same"]),
        node("BatchNormalization", ["same", *"sbmv"], ["n"]),
        node("Add", ["n", "c"], ["y"]),
    ]
    model = load(model_of(nodes, {"x": np.zeros((1, 1, 5, 5), np.float32)}, ["y"], constants))
    assert kernels(model) == ["conv2d", "batchnorm", "add"]


def test_temps_are_shared_by_what_is_not_needed_at_once() -> None:
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(20)]
    model = load(model_of(nodes, {"t0": np.zeros((8, 8), np.float32)}, ["t20"]))
    assert len(model.graph.launches) == 20
    assert model.temp_bytes == 2 * 8 * 8 * 4


def test_value_used_late_keeps_its_buffer() -> None:
    nodes = [
        node("Exp", ["x"], ["early"]),
        *[node("Relu", ["early" if i == 0 else f"t{i}"], [f"t{i + 1}"]) for i in range(4)],
        node("Add", ["t4", "early"], ["y"]),
    ]
    model = load(model_of(nodes, {"x": X}, ["y"]))
    exp, *between, _ = model.graph.launches
    assert all(exp.args[1] not in each.args[1:] for each in between)


def test_equal_constants_are_one_weight() -> None:
    nodes = [node("Add", ["x", "a"], ["s"]), node("Mul", ["s", "b"], ["t"]), node("Sub", ["t", "c"], ["y"])]
    two = np.full(3, 2, np.float32)
    model = load(model_of(nodes, {"x": X}, ["y"], {"a": two, "b": two.reshape(1, 3), "c": two + 1}))
    assert sorted(model.weights) == ["a", "c"]


def test_nodes_and_inputs_that_no_output_depends_on_are_left_out() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Exp", ["other"], ["unused"]), node("Exp", ["unused"], ["more"])]
    model = load(model_of(nodes, {"x": X, "other": X}, ["y"]))
    assert kernels(model) == ["relu"]
    assert dict(model.inputs) == {"x": "x"}


def test_outputs_that_are_inputs_constants_or_each_other_are_copied() -> None:
    nodes = [node("Identity", ["x"], ["same"]), node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["b"])]
    model = load(model_of(nodes, {"x": X}, ["same", "a", "b", "w"], {"w": WEIGHTS}))
    assert [each.name for each in model.graph.buffers if each.role == "output"] == ["same", "a", "b", "w"]
    assert kernels(model).count("copy") == 3
    assert list(model.outputs) == ["same", "a", "b", "w"]


def test_names_that_no_buffer_can_have_are_changed_and_mapped() -> None:
    long = "n" * 300
    nodes = [node("Add", ["a\tb", "a_b"], [long])]
    model = load(model_of(nodes, {"a\tb": X, "a_b": X}, [long]))
    assert dict(model.inputs) == {"a\tb": "a_b", "a_b": "a_b.2"}
    assert model.graph.buffer(model.outputs[long]).role == "output"


def test_initializer_that_is_also_an_input_is_a_constant() -> None:
    model = linear()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert list(load(model).inputs) == ["x"]


def test_mistake_in_the_graphs_name_is_told() -> None:
    assert "no graph name" in refusal(linear(), name="two words")


def test_operators_that_the_documentation_lists_are_those_there_are() -> None:
    section = DOC.read_text().partition("### Operators")[2].partition("\n###")[0]
    rows = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    assert set(re.findall(r"\b[A-Z]\w+", " ".join(rows))) == set(OPERATORS) | FOLDED


# --------------------------------------------------------------------------------------------------------------- upload
class Shelf:
    """A client that keeps what is put."""

    def __init__(self) -> None:
        self.kept: dict[str, np.ndarray] = {}

    def put(self, value: Any, name: str | None = None) -> Any:
        self.kept[str(name)] = value
        return f"ref of {name}"


class AsyncShelf(Shelf):
    async def put(self, value: Any, name: str | None = None) -> Any:  # type: ignore[override]
        return super().put(value, name)


def test_upload_names_each_weight_below_the_prefix() -> None:
    model = load(linear())
    shelf, other = Shelf(), AsyncShelf()
    refs: list[Any] = [model.upload(shelf, "models/a"), asyncio.run(model.upload_async(other, "models/a"))]
    assert refs == [{"w": "ref of models/a/w"}] * 2
    assert shelf.kept["models/a/w"] is other.kept["models/a/w"] is model.weights["w"]
