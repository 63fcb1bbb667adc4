"""Walks a model from its inputs to its outputs: computes what is constant, translates the rest, notes all problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from onnx import ModelProto, NodeProto

from kaasq.errors import BadRequest
from kaasq.importers.onnx import inference
from kaasq.importers.onnx.folding import FOLDED, shape_value
from kaasq.importers.onnx.limits import OnnxLimits
from kaasq.importers.onnx.node import Described, Known, Node, Value
from kaasq.importers.onnx.operators import OPERATORS
from kaasq.importers.onnx.program import Program, Shape, Storage, Tensor, Unsupported
from kaasq.importers.onnx.reading import opset_of

SHOWN_PROBLEMS = 50
CONTROL_FLOW = {"If", "Loop", "Scan", "SequenceMap"}


class Translated(NamedTuple):
    """A program, and where the model's inputs and outputs are in it."""

    program: Program
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def translate(model: ModelProto, shapes: Mapping[str, Shape], limits: OnnxLimits) -> Translated:
    """The model as a program. Raises one BadRequest with everything that is not supported."""
    return _Translation(model, limits).run(shapes)


class _Translation:
    def __init__(self, model: ModelProto, limits: OnnxLimits) -> None:
        self.graph = model.graph
        self.opset = opset_of(model)
        self.program = Program(limits.folded_bytes)
        self.values: dict[str, Value] = {}
        self.unknown: set[str] = set()  # what came out of nodes with problems, and all that follows from it
        self.problems: list[str] = []
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(each.name for each in model.graph.output)
        self.aliased: set[Storage] = set()
        self.returned: set[Storage] = set()

    def run(self, shapes: Mapping[str, Shape]) -> Translated:
        inputs = self._inputs(shapes)
        for node in self.graph.node:
            if any(self.uses[name] for name in node.output):
                self._visit(node)
        outputs: dict[str, Tensor] = {}
        for each in self.graph.output:
            if each.name in self.values:
                try:
                    outputs[each.name] = self._output(each.name)
                except Unsupported as error:
                    self._problem(f"output {each.name!r}", str(error), [])
        if self.problems:
            listed = [f"- {each}" for each in self.problems[:SHOWN_PROBLEMS]]
            if len(self.problems) > SHOWN_PROBLEMS:
                listed.append(f"- and {len(self.problems) - SHOWN_PROBLEMS} more")
            raise BadRequest("\n".join(["the model cannot be imported:", *listed]), problems=self.problems)
        return Translated(self.program, inputs, outputs)

    def _output(self, name: str) -> Tensor:
        """An output as a storage of its own: what is an input, a constant or another output is copied."""
        value = self.values[name]
        tensor = self.program.weight(value.array, value.name) if isinstance(value, Known) else value
        if tensor.storage.role == "temp" and tensor.storage not in self.returned:
            self.returned.add(tensor.storage)
            return tensor
        copy = self.program.temp(tensor.dtype, tensor.shape, name)
        self.program.add_into("copy", copy, tensor)
        return copy

    def _inputs(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        inputs: dict[str, Tensor] = {}
        for tensor in self.graph.initializer:
            try:
                self.values[tensor.name] = Known(inference.array_of(tensor), tensor.name)
            except Unsupported as error:
                self._problem(f"initializer {tensor.name!r}", str(error), [tensor.name])
        for each in self.graph.sparse_initializer:
            self._problem(f"initializer {each.values.name!r}", "sparse tensors are not supported", [each.values.name])
        for given in self.graph.input:
            if given.name not in shapes:
                continue
            try:
                dtype = inference.dtype_of(given.type.tensor_type.elem_type)
                inputs[given.name] = self.program.input(given.name, dtype, shapes[given.name])
                self.values[given.name] = inputs[given.name]
            except Unsupported as error:
                self._problem(f"input {given.name!r}", str(error), [given.name])
        return inputs

    def _visit(self, node: NodeProto) -> None:
        label = f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} that gives {node.output[0]!r}"
        try:
            refusal = self._refusal(node)
            if refusal:
                raise Unsupported(refusal)
            if any(name in self.unknown for name in node.input):
                self.unknown.update(node.output)
                return
            inputs = {name: self.values[name] for name in node.input if name}
            if node.op_type in {"Shape", "Size"}:
                self.values[node.output[0]] = Known(shape_value(node, inputs[node.input[0]].shape), node.output[0])
                return
            outputs = inference.outputs_of(node, self.opset, inputs)
            if not self._fold(node, inputs, outputs):
                self._translate(node, outputs)
        except Unsupported as error:
            self._problem(label, str(error), list(node.output))

    def _refusal(self, node: NodeProto) -> str:
        """Why an operator cannot be translated whatever its inputs; empty if it can."""
        if node.domain not in {"", "ai.onnx"}:
            return f"operators of domain {node.domain!r} are not supported"
        if node.op_type in CONTROL_FLOW:
            return "control flow is not supported: a graph runs the same launches whatever the data"
        if node.op_type not in OPERATORS and node.op_type not in FOLDED:
            return "the operator is not supported"
        return ""

    def _fold(self, node: NodeProto, inputs: Mapping[str, Value], outputs: Mapping[str, Described]) -> bool:
        """Compute a node whose inputs are known, if it is one that rather makes constants than calculates."""
        known = {name: value for name, value in inputs.items() if isinstance(value, Known)}
        if node.op_type not in FOLDED or len(known) < len(inputs):
            return False
        self.program.spend(inference.described_bytes(list(outputs.values())))
        made = inference.evaluate(node, self.opset, known, outputs)
        for name, array in zip(outputs, made, strict=True):
            self.values[name] = Known(array, name)
        return True

    def _translate(self, proto: NodeProto, described: Mapping[str, Described]) -> None:
        if proto.op_type not in OPERATORS:
            raise Unsupported("the operator is supported on constants only; its input depends on the model's inputs")
        node = Node(
            op=proto.op_type,
            opset=self.opset,
            attributes=inference.attributes_of(proto),
            inputs=[self.values[name] if name else None for name in proto.input],
            outputs=[described.get(name) for name in proto.output],
            program=self.program,
            used=frozenset(i for i, name in enumerate(proto.output) if name and self.uses[name]),
            lonely=frozenset(i for i, name in enumerate(proto.input) if name and self._lonely(name)),
        )
        try:
            made = OPERATORS[proto.op_type](node)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Of a model that makes no sense: ONNX does not check every attribute, nor all that constants say.
            raise Unsupported(f"its attributes or constants do not fit ({type(error).__name__}: {error})") from error
        unread = node.unread()
        if unread:
            shown = ", ".join(f"{each}={node.attributes[each]!r:.60}" for each in unread)
            raise Unsupported(f"not supported: {shown}")
        results = [made] if isinstance(made, (Tensor, Known)) else made
        given = {each.storage for each in node.inputs if isinstance(each, Tensor)}
        for name, result in zip(proto.output, results, strict=False):
            if not name:
                continue
            if (result.dtype, result.shape) != described[name][1:]:
                raise Unsupported(f"{name!r} would be {result.dtype} {result.shape}; ONNX infers {described[name][1:]}")
            self.values[name] = result
            if isinstance(result, Tensor) and result.storage in given:
                self.aliased.add(result.storage)

    def _lonely(self, name: str) -> bool:
        value = self.values[name]
        return self.uses[name] == 1 and isinstance(value, Tensor) and value.storage not in self.aliased

    def _problem(self, label: str, message: str, names: list[str]) -> None:
        self.problems.append(f"{label}: {message}")
        self.unknown.update(each for each in names if each)
