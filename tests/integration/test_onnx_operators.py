"""Every operator of the importer, run on the cpu device and compared with onnxruntime (or ONNX's own evaluator)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import helper

import kaasq
from kaasq.importers.onnx import load
from kaasq.importers.onnx.folding import FOLDED
from kaasq.importers.onnx.operators import OPERATORS
from tests.support.onnx_models import by_onnxruntime, by_reference, model_of

RNG = np.random.default_rng(7)
FLOATS = RNG.normal(size=(2, 3, 4)).astype("f4")
OTHERS = RNG.normal(size=(3, 1)).astype("f4")
POSITIVE = RNG.random((2, 3, 4), np.float32) + 0.1
WHOLE = RNG.integers(-9, 9, (2, 3, 4))
TRUTHS, MORE_TRUTHS = FLOATS > 0, OTHERS > 0
IMAGE = RNG.normal(size=(2, 4, 7, 6)).astype("f4")
SIGNAL = RNG.normal(size=(2, 4, 9)).astype("f4")
MATRIX = RNG.normal(size=(3, 4)).astype("f4")


class Case(NamedTuple):
    """One node: its run-time inputs, its constants, attributes and opsets."""

    op: str
    inputs: tuple[Any, ...]
    constants: tuple[Any, ...]
    attributes: dict[str, Any]
    opsets: tuple[int, ...]
    outputs: int
    reference: bool

    def __str__(self) -> str:
        shown = ",".join(f"{key}={value}" for key, value in self.attributes.items())
        return f"{self.op}({','.join('x'.join(map(str, np.shape(each))) for each in self.inputs)}){shown}"


def of(
    op: str,
    *inputs: Any,
    constants: tuple[Any, ...] = (),
    opsets: Any = (18,),
    outputs: int = 1,
    reference: bool = False,
    **attributes: Any,
) -> Case:
    return Case(op, inputs, constants, attributes, (opsets,) if isinstance(opsets, int) else opsets, outputs, reference)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


ALL = (11, 13, 18, 21)

ELEMENTWISE = [
    *[
        of(op, FLOATS)
        for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Neg", "Reciprocal", "Round", "Sign", "Sin")
    ],
    *[of(op, POSITIVE) for op in ("Log", "Sqrt")],
    of("Not", TRUTHS),
    of("Round", np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)),
    *[of(op, FLOATS, OTHERS, opsets=ALL) for op in ("Add", "Sub", "Mul", "Div")],
    *[of(op, FLOATS.astype("f8"), OTHERS.astype("f8")) for op in ("Add", "Div")],
    *[of(op, WHOLE, ints(3, -2, 5, 1)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    of("Add", FLOATS, constants=(np.float32(1.5),)),
    of("Sub", MATRIX, constants=(np.ones((4, 2, 3, 1), np.float32),)),
    *[of(op, FLOATS, OTHERS, opsets=(11, 16)) for op in ("Equal", "Greater", "Less")],
    *[of(op, WHOLE, WHOLE[::-1].copy(), opsets=(12, 16)) for op in ("GreaterOrEqual", "LessOrEqual", "Equal")],
    *[of(op, TRUTHS, MORE_TRUTHS) for op in ("And", "Or", "Xor", "Equal")],
    *[of(op, FLOATS, OTHERS, MATRIX) for op in ("Max", "Min", "Sum", "Mean")],
    *[of(op, FLOATS) for op in ("Max", "Mean")],
    *[of("Pow", POSITIVE, constants=(np.float32(power),)) for power in (1, 2, 3, 4, 0.5, -1, 1.7)],
    of("Pow", POSITIVE, OTHERS),
    of("Pow", POSITIVE, ints(1, 2, 3, 4)),
    of("Pow", WHOLE, constants=(ints(2)[0],)),
    of("Pow", FLOATS, constants=(ints(2, 1, 0, 3),)),
    of("Where", TRUTHS, FLOATS, OTHERS),
    of("Where", TRUTHS, WHOLE, constants=(ints(7)[0],)),
    of("IsNaN", np.array([1, np.nan, np.inf], np.float32)),
    of("Clip", FLOATS, constants=(np.float32(-0.5), np.float32(0.6)), opsets=ALL),
    of("Clip", FLOATS, min=-0.5, max=0.6, opsets=10),
    of("Clip", FLOATS, min=0.0, opsets=7),
    of("Clip", FLOATS, constants=(np.float32(0.1),)),
    of("Clip", FLOATS, constants=(None, np.float32(0.1))),
    of("Clip", FLOATS, constants=(np.float32(-np.inf), np.float32(np.inf))),
    of("Clip", FLOATS, constants=(np.float32(0.1), np.float32(-np.inf))),
    of("Clip", FLOATS, np.float32(-0.2), np.float32(0.3)),
    of("Clip", WHOLE, constants=(np.int64(-3), np.int64(4))),
    of("Cast", FLOATS * 4, to=6),
    of("Cast", FLOATS, to=11),
    of("Cast", FLOATS, to=10),
    of("Cast", WHOLE, to=1),
    of("Cast", WHOLE, to=9),
    of("Cast", TRUTHS, to=1),
    of("CastLike", FLOATS, constants=(np.float64(1),)),
]
ACTIVATIONS = [
    *[of(op, FLOATS * 3) for op in ("Relu", "Sigmoid", "Softplus", "Tanh", "Softsign", "Mish")],
    of("HardSwish", FLOATS * 3, opsets=(14, 22)),
    of("Relu", WHOLE),
    *[of(op, FLOATS.astype("f2")) for op in ("Relu", "Sigmoid", "Tanh")],
    of("LeakyRelu", FLOATS, alpha=0.2),
    of("LeakyRelu", FLOATS),
    of("Elu", FLOATS, alpha=0.7),
    of("Selu", FLOATS),
    of("Gelu", FLOATS, opsets=20),
    of("Gelu", FLOATS, approximate="tanh", opsets=20),
    of("HardSigmoid", FLOATS * 3),
    of("HardSigmoid", FLOATS * 3, alpha=0.3, beta=0.4),
    of("PRelu", FLOATS, constants=(OTHERS,)),
    of("Swish", FLOATS, opsets=24, reference=True),
    of("Swish", FLOATS, alpha=1.7, opsets=24, reference=True),
]
LINEAR = [
    of("Gemm", MATRIX, MATRIX.T.copy(), opsets=ALL),
    of("Gemm", MATRIX, MATRIX, transB=1, alpha=0.5),
    of("Gemm", MATRIX, MATRIX, transA=1),
    of("Gemm", MATRIX, MATRIX, OTHERS, transB=1, beta=0.3),
    of("Gemm", MATRIX, MATRIX, transB=1, constants=(np.float32(2),)),
    of("Gemm", MATRIX, MATRIX, transB=1, beta=0.0, constants=(np.ones(3, np.float32),)),
    of("MatMul", MATRIX, MATRIX.T.copy()),
    of("MatMul", MATRIX[0], MATRIX[1]),
    of("MatMul", MATRIX[0], MATRIX.T.copy()),
    of("MatMul", MATRIX, MATRIX[1]),
    of("MatMul", FLOATS, MATRIX.T.copy()),
    of("MatMul", MATRIX, FLOATS.transpose(0, 2, 1).copy()),
    of("MatMul", FLOATS, FLOATS.transpose(0, 2, 1).copy()),
    of("MatMul", RNG.normal(size=(5, 1, 3, 4)), RNG.normal(size=(2, 4, 2))),
    of("MatMul", RNG.normal(size=(2, 1, 3, 4)), RNG.normal(size=(1, 5, 4, 2))),
    of("MatMul", RNG.normal(size=4), RNG.normal(size=(2, 4, 3))),
    of("MatMul", RNG.normal(size=(2, 3, 4)), RNG.normal(size=4)),
    of("MatMul", RNG.normal(size=(1, 3, 4)), RNG.normal(size=(1, 1, 4, 2))),
]
FILTERS = RNG.normal(size=(6, 4, 3, 3)).astype("f4")
CONVOLUTIONS = [
    of("Conv", IMAGE, constants=(FILTERS,), opsets=ALL),
    of("Conv", IMAGE, FILTERS),
    of("Conv", IMAGE, constants=(FILTERS, RNG.random(6, np.float32)), pads=[1, 0, 2, 1], strides=[2, 1]),
    of("Conv", IMAGE, constants=(FILTERS,), dilations=[2, 1], kernel_shape=[3, 3]),
    of("Conv", IMAGE, constants=(FILTERS[:, :2],), group=2),
    of("Conv", IMAGE, constants=(FILTERS[:4, :1],), group=4, pads=[1, 1, 1, 1]),
    *[
        of("Conv", IMAGE, constants=(FILTERS[..., :2],), auto_pad=pad, strides=[2, 2])
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    of("Conv", SIGNAL, constants=(FILTERS[..., 0], RNG.random(6, np.float32)), pads=[1, 2], strides=[2]),
    of("Conv", SIGNAL, constants=(FILTERS[:, :1, :, 0][:4],), group=4, strides=[2], auto_pad="SAME_UPPER"),
]
POOLINGS = [
    of("MaxPool", IMAGE, kernel_shape=[3, 2], opsets=(8, 12, 18)),
    of("MaxPool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    of("MaxPool", IMAGE - 9, kernel_shape=[2, 2], pads=[0, 1, 1, 0], dilations=[2, 1]),
    of("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    of("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    of("MaxPool", SIGNAL, kernel_shape=[3], strides=[2], pads=[1, 0]),
    of("AveragePool", IMAGE, kernel_shape=[3, 2], opsets=(7, 11, 18)),
    of("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
    of("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], count_include_pad=1),
    of("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, opsets=19),
    of("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], opsets=19),
    of("AveragePool", SIGNAL, kernel_shape=[4], strides=[3], auto_pad="SAME_UPPER"),
    *[of(op, each) for op in ("GlobalAveragePool", "GlobalMaxPool") for each in (IMAGE, SIGNAL)],
]
PER_CHANNEL = tuple(RNG.random((4, 4), np.float32) + 0.2)
NORMALISATIONS = [
    of("BatchNormalization", IMAGE, constants=PER_CHANNEL, opsets=(9, 14, 15), epsilon=1e-3),
    of("BatchNormalization", RNG.random((3, 4), np.float32), *PER_CHANNEL),
    of("LayerNormalization", FLOATS, constants=(np.float32([1, 2, 3, 4]),), opsets=17),
    of("LayerNormalization", FLOATS, constants=(np.float32([1, 2, 3, 4]), MATRIX[0]), opsets=17, epsilon=1e-2),
    of("LayerNormalization", FLOATS, constants=(MATRIX, MATRIX), opsets=17, axis=1),
    of("LayerNormalization", FLOATS, constants=(OTHERS, OTHERS), opsets=17, axis=-2, reference=True),
    of("RMSNormalization", FLOATS, constants=(np.float32([1, 2, 3, 4]),), opsets=23, reference=True),
    of("InstanceNormalization", IMAGE, constants=PER_CHANNEL[:2]),
    of("GroupNormalization", IMAGE, constants=PER_CHANNEL[:2], opsets=21, num_groups=2),
    *[of(op, FLOATS * 5, opsets=(11, 13)) for op in ("Softmax", "LogSoftmax")],
    *[of(op, FLOATS * 5, opsets=(11, 13), axis=axis) for op in ("Softmax", "LogSoftmax") for axis in (0, 2, -2)],
]
_ATTRIBUTE = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
REDUCTIONS = [
    *[of(op, FLOATS, axes=[1], opsets=(11, 13)) for op in _ATTRIBUTE],
    *[of(op, FLOATS, constants=(ints(0, -1),), keepdims=0, opsets=18) for op in _ATTRIBUTE],
    *[of(op, FLOATS, opsets=(13, 18)) for op in (*_ATTRIBUTE, "ReduceSum")],
    of("ReduceLogSum", POSITIVE, constants=(ints(2),)),
    of("ReduceLogSumExp", FLOATS * 200, constants=(ints(2),)),
    of("ReduceSum", FLOATS, axes=[0, 2], opsets=11, keepdims=0),
    of("ReduceSum", WHOLE, constants=(ints(-2),), opsets=13),
    of("ReduceSum", FLOATS, noop_with_empty_axes=1, opsets=13),
    of("ReduceSumSquare", FLOATS, noop_with_empty_axes=1, opsets=18, reference=True),
    *[
        of(op, FLOATS, axis=axis, keepdims=keep, opsets=(11, 13))
        for op in ("ArgMax", "ArgMin")
        for axis, keep in ((0, 1), (-1, 0))
    ],
    of("ArgMax", WHOLE),
    *[of(op, WHOLE // 5, axis=1, select_last_index=1, opsets=13) for op in ("ArgMax", "ArgMin")],
]
LAYOUT = [
    of("Identity", FLOATS),
    of("Transpose", FLOATS),
    of("Transpose", FLOATS, perm=[1, 0, 2]),
    of("Transpose", IMAGE[:1, :1], perm=[1, 0, 2, 3]),
    of("Reshape", FLOATS, constants=(ints(0, -1),)),
    of("Reshape", FLOATS, constants=(ints(4, 1, 6),)),
    of("Flatten", IMAGE),
    of("Flatten", IMAGE, axis=0),
    of("Flatten", IMAGE, axis=-1),
    of("Squeeze", FLOATS[:1], opsets=11, axes=[0]),
    of("Squeeze", FLOATS[:1], constants=(ints(0),), opsets=13),
    of("Squeeze", FLOATS[:1, :1]),
    of("Unsqueeze", FLOATS, opsets=11, axes=[0, 4]),
    of("Unsqueeze", FLOATS, constants=(ints(-1, 1),), opsets=13),
    of("Expand", OTHERS, constants=(ints(2, 3, 4),)),
    of("Expand", OTHERS, constants=(ints(1, 1),)),
    of("Tile", FLOATS, constants=(ints(2, 1, 3),)),
    of("Dropout", FLOATS, ratio=0.4, opsets=11),
    of("Dropout", FLOATS, constants=(np.float32(0.4), np.bool_(False))),
    *[of("DepthToSpace", IMAGE, blocksize=2, mode=mode) for mode in ("DCR", "CRD")],
    of("SpaceToDepth", IMAGE[:, :, :6], blocksize=2),
]
JOINING = [
    of("Concat", FLOATS, FLOATS + 1, axis=0),
    of("Concat", FLOATS, FLOATS[:, :1], constants=(FLOATS[:, 1:],), axis=-2),
    of("Concat", FLOATS, axis=1),
    of("Concat", WHOLE, WHOLE, axis=2),
    of("Pad", FLOATS, opsets=10, pads=[0, 1, 2, 0, 0, 3], value=1.5),
    of("Pad", FLOATS, constants=(ints(0, 1, 2, 0, 0, 3), np.float32(-2)), opsets=(11, 18)),
    of("Pad", FLOATS, constants=(ints(0, 1, -2, 0, 0, 3),)),
    of("Pad", FLOATS, constants=(ints(1, 2), np.float32(3), ints(-1)), opsets=18),
    *[of("Pad", FLOATS, constants=(ints(0, 1, 2, 0, 2, 3),), mode=mode) for mode in ("reflect", "edge")],
    of("Pad", FLOATS, constants=(ints(0, 1, 2, 0, 2, 3),), mode="wrap", opsets=19),
]
PICKING = [
    of("Slice", FLOATS, opsets=9, starts=[0, 1], ends=[2, 3], axes=[0, 2]),
    of("Slice", FLOATS, constants=(ints(1), ints(1000), ints(-1)), opsets=ALL),
    of("Slice", FLOATS, constants=(ints(-1, 3), ints(-1000, 0), ints(1, 2), ints(-1, -2))),
    of("Slice", FLOATS, constants=(ints(0, 0), ints(2, 2))),
    of("Slice", FLOATS, constants=(ints(0), ints(2**62))),
    of("Split", FLOATS, opsets=11, split=[1, 3], axis=2, outputs=2),
    of("Split", FLOATS, constants=(ints(2, 1),), opsets=13, axis=1, outputs=2),
    of("Split", FLOATS, opsets=13, axis=-1, outputs=2),
    of("Split", FLOATS, opsets=18, axis=1, num_outputs=2, outputs=2),
    of("Gather", FLOATS, constants=(ints(1, -1, 0).reshape(1, 3),), axis=1),
    of("Gather", FLOATS, constants=(np.int64(1),), axis=2),
    of("Gather", FLOATS, np.int32([[1], [0]])),
    of("Gather", np.float32(MATRIX), ints(2, 0)),
    of("Trilu", FLOATS),
    of("Trilu", FLOATS, constants=(np.int64(1),), upper=1),
    of("Trilu", FLOATS, constants=(np.int64(-1),), upper=0),
    of("OneHot", ints(0, 2, -1), constants=(ints(3), np.float32([0.5, 2]))),
    of("OneHot", WHOLE % 3, constants=(ints(3), np.float32([0, 1])), axis=1),
]  # fmt: skip
CASES = [
    *(*ELEMENTWISE, *ACTIVATIONS, *LINEAR, *CONVOLUTIONS, *POOLINGS),
    *(*NORMALISATIONS, *REDUCTIONS, *LAYOUT, *JOINING, *PICKING),
]


@pytest.fixture(scope="module")
def client() -> Iterator[kaasq.Client]:
    with kaasq.local(device="cpu") as made:
        yield made


def run(client: kaasq.Client, model: Any, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    imported = load(model)
    weights = imported.upload(client, "test")
    bound = {imported.inputs[name]: value for name, value in inputs.items() if name in imported.inputs}
    result = client.run(imported.graph, bind={**weights, **bound})
    return [result[name] for name in imported.outputs.values()]


@pytest.mark.parametrize(
    ("case", "opset"), [pytest.param(each, opset, id=f"{each}-{opset}") for each in CASES for opset in each.opsets]
)
def test_operator(client: kaasq.Client, case: Case, opset: int) -> None:
    inputs = {f"x{i}": np.ascontiguousarray(each).reshape(np.shape(each)) for i, each in enumerate(case.inputs)}
    constants = {f"c{i}": np.asarray(each) for i, each in enumerate(case.constants) if each is not None}
    names = [*inputs, *(f"c{i}" if each is not None else "" for i, each in enumerate(case.constants))]
    outputs = [f"y{i}" for i in range(case.outputs)]
    model = model_of(
        [helper.make_node(case.op, names, outputs, **case.attributes)], inputs, outputs, constants, opset=opset
    )
    expected = (by_reference if case.reference else by_onnxruntime)(model, inputs)
    given = run(client, model, inputs)
    assert len(given) == len(expected)
    for ours, theirs in zip(given, expected):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        tolerance = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-12}.get(theirs.dtype.name, 0)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance * 4, atol=tolerance * 4)


def test_every_operator_of_the_table_is_tried() -> None:
    assert set(OPERATORS) == {each.op for each in CASES}
    assert FOLDED - set(OPERATORS)  # those that only constants may use are tried with the models below
