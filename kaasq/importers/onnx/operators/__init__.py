"""How each operator of ONNX becomes built-ins: one function per operator, by ONNX's name of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kaasq.importers.onnx.node import Node, Value
from kaasq.importers.onnx.operators import (
    activations,
    convolution,
    elementwise,
    joining,
    layout,
    linear,
    normalisation,
    picking,
    pooling,
    reductions,
)

OPERATORS: dict[str, Callable[[Node], Value | Sequence[Value]]] = {
    **activations.OPERATORS,
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **joining.OPERATORS,
    **layout.OPERATORS,
    **linear.OPERATORS,
    **normalisation.OPERATORS,
    **picking.OPERATORS,
    **pooling.OPERATORS,
    **reductions.OPERATORS,
}
