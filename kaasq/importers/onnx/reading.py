"""From a path, bytes or a parsed model to a model that is whole and well-formed. The only part that opens files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data

from kaasq.errors import BadRequest
from kaasq.importers.onnx.limits import OnnxLimits

OPSETS = range(7, 29)
"""Versions of ONNX's operators that are understood: from the first with NumPy's broadcasting to the last known."""


def read(source: object, limits: OnnxLimits) -> ModelProto:
    """The model with all its data in memory. A model that was given is not changed. Raises BadRequest."""
    folder: Path | None = None
    match source:
        case ModelProto():
            model, place = source, "model"
        case bytes() | bytearray() | memoryview():
            place = "model"
            _within(len(source), limits, place)
            model = _parse(bytes(source), place)
        case str() | os.PathLike():
            path = Path(source)
            place, folder = str(path), path.parent
            model = _parse(_content(path, limits), place)
        case _:
            raise BadRequest(
                f"expected a path, the bytes of a model or an onnx.ModelProto, given a {type(source).__name__}",
                at="model",
            )
    _known(model, limits, place)
    _load_external(model, folder, limits, place)
    try:
        onnx.checker.check_model(_without_weights(model))
    except onnx.checker.ValidationError as error:
        raise BadRequest(f"not a valid ONNX model: {error}", at=place) from None
    return model


def _content(path: Path, limits: OnnxLimits) -> bytes:
    try:
        _within(path.stat().st_size, limits, str(path))
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"cannot be read: {error.strerror}", at=str(path)) from None


def _parse(data: bytes, place: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise BadRequest(
            f"{len(data)} bytes were given that are no ONNX model, or not all of it (a broken download?)", at=place
        ) from None
    return model


def _known(model: ModelProto, limits: OnnxLimits, place: str) -> None:
    if not model.graph.node:
        raise BadRequest("there is no operator in it: an empty or truncated file, or not an ONNX model", at=place)
    if not all(isinstance(each, str) for each in _names(model.graph)):  # protobuf gives bytes for what is no UTF-8
        raise BadRequest("damaged: a name in it is no UTF-8", at=place)
    if len(model.graph.node) > limits.nodes:
        raise BadRequest(f"{len(model.graph.node)} nodes; the limit is {limits.nodes} (OnnxLimits.nodes)", at=place)
    opset = opset_of(model)
    if opset not in OPSETS:
        raise BadRequest(
            f"is of opset {opset or 'unknown'}; understood are {OPSETS[0]} to {OPSETS[-1]}. "
            f"onnx.version_converter makes one of the other",
            at=place,
        )
    if model.functions:
        names = ", ".join(sorted({each.name for each in model.functions})[:20])
        raise BadRequest(
            f"defines functions of its own ({names}); inline them: onnx.inliner.inline_local_functions(model)", at=place
        )


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators that a model uses; 0 if it does not say."""
    return max((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), default=0)


def _within(nbytes: int, limits: OnnxLimits, place: str) -> None:
    if nbytes > limits.model_bytes:
        raise BadRequest(
            f"{nbytes} bytes, external data included; the limit is {limits.model_bytes} (OnnxLimits.model_bytes)",
            at=place,
        )


def _load_external(model: ModelProto, folder: Path | None, limits: OnnxLimits, place: str) -> None:
    total = model.ByteSize()
    for tensor in _tensors(model.graph):
        if not uses_external_data(tensor):
            continue
        if folder is None:
            raise BadRequest(
                f"the data of {tensor.name!r} lies in another file: load the model from its path, or load all of it "
                "with onnx.load(path)",
                at=place,
            )
        try:
            info = ExternalDataInfo(tensor)
            total += info.length if info.length is not None else (folder / info.location).stat().st_size
            _within(total, limits, place)
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            _no_data(tensor, error, place)


def _no_data(tensor: TensorProto, error: Exception, place: str) -> NoReturn:
    location = next((each.value for each in tensor.external_data if each.key == "location"), "")
    raise BadRequest(
        f"the data of {tensor.name!r} should lie in {location!r} beside the model, and cannot be read: {error}",
        at=place,
    ) from None


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Those that an import may read; subgraphs belong to control flow, which is refused."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _names(graph: GraphProto) -> Iterator[object]:
    yield graph.name
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)


def _without_weights(model: ModelProto) -> ModelProto:
    """The same with initialisers as inputs: the checker copies what it checks, and takes no more than 2 GB."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name or "graph"
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    bare.graph.output.extend(model.graph.output)
    declared = {each.name for each in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in declared:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in bare.graph.output:  # nothing here depends on what the model says of them; some say nothing
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # the checker asks for one; here it may come from the caller
    return bare
