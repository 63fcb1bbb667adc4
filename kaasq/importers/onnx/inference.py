"""What ONNX itself says about a node: the types of its outputs, and, where its inputs are known, their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from kaasq.importers.onnx.node import Described, Known, Value
from kaasq.importers.onnx.program import Array, Unsupported

SHAPE_ELEMENTS = 4096
"""Constants up to this size are shown to the inference: shapes, axes, pads. It does not look at others' values."""

LIKE_ITS_INPUT = {"GroupNormalization"}
"""ONNX infers nothing for these; what they give is like their first input."""


def outputs_of(node: NodeProto, opset: int, inputs: Mapping[str, Value]) -> dict[str, Described]:
    """Type and shape of each output of a node. Raises Unsupported if they depend on data, or are none."""
    small = [
        numpy_helper.from_array(np.ascontiguousarray(value.array).reshape(value.shape), name)
        for name, value in inputs.items()
        if isinstance(value, Known) and value.array.size <= SHAPE_ELEMENTS
    ]
    graph = _alone(node, inputs)
    graph.initializer.extend(small)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).rsplit("Error]", 1)[-1].split())
        raise Unsupported(f"ONNX does not accept it: {reason[:300]}") from None
    found = {each.name: each.type for each in inferred.graph.output if each.type.WhichOneof("value")}
    if node.op_type in LIKE_ITS_INPUT:
        found.setdefault(node.output[0], _type(inputs[node.input[0]]))
    return {name: _described(name, found.get(name)) for name in node.output if name}


def evaluate(node: NodeProto, opset: int, inputs: Mapping[str, Known], outputs: Mapping[str, Described]) -> list[Array]:
    """The outputs of a node whose inputs are known, in order. Raises Unsupported."""
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(_alone(node, inputs), opsets={"": opset})
            made = evaluator.run(None, {name: value.array for name, value in inputs.items()})
    except Exception as error:  # noqa: BLE001 - the evaluator raises anything on a node that makes no sense
        raise Unsupported(f"cannot be computed: {' '.join(str(error).split())[:300]}") from None
    names = [name for name in node.output if name]
    return [np.asarray(each, outputs[name].dtype) for name, each in zip(names, made, strict=True)]


def described_bytes(outputs: Sequence[Described]) -> int:
    """How much memory the values will take."""
    return sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in outputs)


def array_of(tensor: onnx.TensorProto) -> Array:
    """A tensor's values. Raises Unsupported if they are no numbers, or damaged."""
    if tensor.data_type == onnx.TensorProto.STRING:
        raise Unsupported("strings are not supported")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise Unsupported(f"its data is damaged: {error}") from None


def dtype_of(elem_type: int) -> str:
    """NumPy's name of ONNX's element type. Raises Unsupported for those that NumPy has no name for."""
    try:
        name: str = helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        raise Unsupported(f"unknown element type {elem_type}") from None
    if name in {"object", "str"}:
        raise Unsupported("strings are not supported")
    return name


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values, texts as str."""
    values: dict[str, Any] = {}
    for each in node.attribute:
        value = helper.get_attribute_value(each)
        values[each.name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return values


def _alone(node: NodeProto, inputs: Mapping[str, Value]) -> GraphProto:
    """A graph of that node only, with the types of its inputs and without those of its outputs."""
    return helper.make_graph(
        [node],
        "alone",
        [helper.make_value_info(name, _type(value)) for name, value in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )


def _type(value: Value) -> TypeProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_type_proto(kind, value.shape)


def _described(name: str, inferred: TypeProto | None) -> Described:
    if inferred is None or not inferred.HasField("tensor_type"):
        raise Unsupported(f"{name!r} is no tensor, or one of unknown type")
    dims = inferred.tensor_type.shape.dim
    if not inferred.tensor_type.HasField("shape") or not all(each.HasField("dim_value") for each in dims):
        raise Unsupported(f"the shape of {name!r} depends on data, or cannot be told")
    dtype = dtype_of(inferred.tensor_type.elem_type)
    return Described(name, dtype, tuple(each.dim_value for each in dims))
