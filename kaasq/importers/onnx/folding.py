"""Which operators are computed at import when their inputs are constants, and the value of Shape and Size."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from kaasq.importers.onnx import inference
from kaasq.importers.onnx.program import Array, Shape

# Cheap for the size of what they give. Products and convolutions of constants run on the device instead; what is
# random, or control flow, is not computed at all.
_MAKERS = {"Constant", "ConstantOfShape", "Range", "EyeLike", "Shape", "Size", "OneHot"}
_LAYOUT = {
    *("Cast", "CastLike", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements"),
    *("GatherND", "Identity", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split"),
    *("Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "CumSum", "DequantizeLinear"),
}
_ELEMENTWISE = {
    *("Abs", "Add", "And", "BitShift", "Ceil", "Clip", "Cos", "Div", "Equal", "Erf", "Exp", "Floor", "Greater"),
    *("GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mod", "Mul", "Neg"),
    *("Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Sub", "Sum", "Tanh"),
    *("Xor",),
}
_REDUCTIONS = {
    *("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"),
    *("ReduceSumSquare",),
}
FOLDED = frozenset(_MAKERS | _LAYOUT | _ELEMENTWISE | _REDUCTIONS)


def shape_value(node: NodeProto, shape: Shape) -> Array:
    """What Shape or Size give for a value of that shape, known or not."""
    if node.op_type == "Size":
        return np.asarray(math.prod(shape), np.int64)
    attributes = inference.attributes_of(node)
    return np.asarray(shape[slice(attributes.get("start", 0), attributes.get("end"))], np.int64)
