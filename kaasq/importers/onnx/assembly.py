"""From a translated program to a graph: drops what nobody needs, gives every storage a buffer, shares temps."""

from __future__ import annotations

from types import MappingProxyType

from kaasq.checks import GraphLimits, check_graph
from kaasq.dtypes import itemsize
from kaasq.importers.onnx.model import OnnxModel
from kaasq.importers.onnx.naming import Names
from kaasq.importers.onnx.program import Shape, Step, Storage, Tensor
from kaasq.importers.onnx.sharing import share
from kaasq.importers.onnx.translation import Translated
from kaasq.model import Buffer, GraphSpec, Role


def assemble(translated: Translated, name: str, limits: GraphLimits) -> OnnxModel:
    """The graph with its weights. Raises BadRequest where the graph is beyond the limits."""
    program, inputs, outputs = translated
    steps = _needed(program.steps, {each.storage for each in outputs.values()})
    used = {each for step in steps for each in step.touched("reads", "writes", "updates")}

    names = Names()
    buffers: dict[Storage, Buffer] = {}

    def declare(storage: Storage, wanted: str, role: Role, shape: Shape) -> str:
        buffers[storage] = Buffer(
            name=names.take(wanted),
            role=role,
            nbytes=storage.elements * itemsize(storage.dtype),
            dtype=storage.dtype,
            shape=shape,
            const=storage.role == "weight",
        )
        return buffers[storage].name

    input_names = {
        given: declare(tensor.storage, given, "input", tensor.shape)
        for given, tensor in inputs.items()
        if tensor.storage in used
    }
    output_names = {given: declare(each.storage, given, "output", each.shape) for given, each in outputs.items()}
    weights = {}
    for storage, array in program.arrays.items():
        if storage in used:
            array.flags.writeable = False
            weights[declare(storage, storage.name, "input", array.shape)] = array
    for storage, owner in share(steps, keep=buffers.keys()).items():
        if storage is owner:
            declare(storage, storage.name, "temp", _first_shape(steps, storage))
        else:
            buffers[storage] = buffers[owner]
    spec = GraphSpec(
        name=name,
        buffers=tuple(dict.fromkeys(buffers.values())),
        launches=tuple([step.launch(buffers.__getitem__) for step in steps]),
    )
    return OnnxModel(
        graph=check_graph(spec, limits),
        weights=MappingProxyType(weights),
        inputs=MappingProxyType(input_names),
        outputs=MappingProxyType(output_names),
    )


def _needed(steps: list[Step], wanted: set[Storage]) -> list[Step]:
    """Those steps that the outputs depend on."""
    needed: list[Step] = []
    live = set(wanted)
    for step in reversed(steps):
        if live.intersection(step.touched("writes", "updates")):
            live.update(step.touched("reads", "updates"))
            needed.append(step)
    return needed[::-1]


def _first_shape(steps: list[Step], storage: Storage) -> Shape:
    """As the step sees it that writes to it first, so that most launches need no view."""
    return next(arg.shape for step in steps for arg in step.args if isinstance(arg, Tensor) and arg.storage is storage)
