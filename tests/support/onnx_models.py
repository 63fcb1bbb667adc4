"""Small ONNX models for tests, and what onnxruntime, or ONNX's own evaluator, makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

Arrays = Mapping[str, np.ndarray]


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    constants: Arrays | None = None,
    *,
    opset: int = 18,
) -> ModelProto:
    """A model. ``inputs`` are arrays, whose types it declares, or (dtype, shape) pairs."""
    described = {
        name: (given.dtype, given.shape) if isinstance(given, np.ndarray) else given for name, given in inputs.items()
    }
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, (dtype, shape) in described.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [
            numpy_helper.from_array(np.ascontiguousarray(each).reshape(each.shape), name)
            for name, each in (constants or {}).items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)


def by_onnxruntime(model: ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """The outputs, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, dict(inputs))]


def by_reference(model: ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """The same by ONNX's own evaluator, for what onnxruntime lacks."""
    return [np.asarray(each) for each in ReferenceEvaluator(model).run(None, dict(inputs))]
