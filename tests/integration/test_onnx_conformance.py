"""ONNX's own test cases of its operators, on the cpu device: right, or refused for a reason that is known."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

import kaasq
from kaasq.importers.onnx import OnnxModel, load
from kaasq.importers.onnx.folding import FOLDED
from kaasq.importers.onnx.operators import OPERATORS

REFUSED = [
    "3 dimensions beside batch and channels",
    "training_mode",
    r"only its first output is supported",
    "strings are not supported",
    r"is (bfloat16|u?int[24]|float(8|4)\w+|complex\d+)(;| and)",
    "of int(32|64) only the constant powers",
    r"'(x|values)' is u?int8; x may be float",
    r"'\w+' is bool; x may be float16",  # reductions of truths
    "only tensors can be inputs",
    "is of opset 1;",
    "open dimensions|is empty",  # inputs and results without elements
    r"(Range|ConstantOfShape) .* the shape of '\w+' depends on data",
    "the operator is supported on constants only",
]
RIGHT = 870
"""Of onnx 1.23's cases; another version may have some fewer, not hundreds."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning:onnx.*")  # of the cases' own making
def test_official_cases_are_right_or_refused_for_a_known_reason() -> None:
    supported = set(OPERATORS) | FOLDED
    right, wrong, refused = 0, [], []
    with kaasq.local(device="cpu") as client:
        for case in collect_testcases(None):
            if not {each.op_type for each in case.model.graph.node} <= supported or not case.data_sets:
                continue
            inputs, outputs = case.data_sets[0]
            try:
                given = run(client, case.model, inputs)
            except kaasq.BadRequest as error:
                refused.append(f"{case.name}: {error.message}")
                continue
            try:
                compare(given, outputs, case)
                right += 1
            except AssertionError as error:
                wrong.append(f"{case.name}: {error}")
    assert not wrong
    unknown = [each for each in refused if not re.search("|".join(REFUSED), each)]
    print(f"\n{right} right, {len(refused)} refused")
    assert not unknown, "\n".join(unknown)
    assert right >= RIGHT


def run(client: kaasq.Client, model: ModelProto, inputs: list[Any]) -> list[np.ndarray]:
    arrays = {each.name: array_of(value) for each, value in zip(model.graph.input, inputs)}
    imported, arrays = imported_with(model, arrays)
    weights = imported.upload(client, "case")
    bound = {imported.inputs[name]: array for name, array in arrays.items() if name in imported.inputs}
    result = client.run(imported.graph, bind={**weights, **bound})
    return [result[imported.outputs[each.name]] for each in model.graph.output]


def imported_with(model: ModelProto, arrays: dict[str, Any]) -> tuple[OnnxModel, dict[str, Any]]:
    """The model as it is; or, since the cases give axes and pads as inputs, with all but its first input constant."""
    try:
        return load(model), arrays
    except kaasq.BadRequest:
        first, *others = arrays
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        fixed.graph.initializer.extend([numpy_helper.from_array(np.asarray(arrays[name]), name) for name in others])
        return load(fixed), {first: arrays[first]}


def array_of(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def compare(given: list[np.ndarray], expected: list[Any], case: Any) -> None:
    for ours, theirs in zip(given, map(array_of, expected)):
        half = theirs.dtype == np.float16
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=max(case.rtol, 2e-3 * half), atol=max(case.atol, 1e-3 * half))
