"""``load``: from a model in any form to an OnnxModel. Only from here on is the onnx package needed."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kaasq.errors import BadRequest
from kaasq.extras import install
from kaasq.importers.onnx.limits import OnnxLimits
from kaasq.importers.onnx.model import OnnxModel
from kaasq.names import is_graph_name

if TYPE_CHECKING:
    from onnx import ModelProto

INSTALL = f"importing ONNX models needs the onnx package: {install('onnx')}"


def load(
    source: str | os.PathLike[str] | bytes | ModelProto,
    *,
    name: str | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    limits: OnnxLimits | None = None,
) -> OnnxModel:
    """A model, from its path, its bytes or as onnx has it in memory, as a graph of built-ins.

    ``shapes`` gives inputs of the model their shapes, where the model leaves dimensions open; ``batch`` is the size of
    every first dimension still open. A dimension with a name has one size wherever the name is used. ``name`` is the
    graph's (default: the file's or the model's).

    No GPU is needed, and nothing in the file is executed. Raises BadRequest, naming everything in the model that is
    not supported; or saying what is missing where the onnx package is not installed, the file is damaged, or larger
    than the limits.
    """
    if importlib.util.find_spec("onnx") is None:
        raise BadRequest(INSTALL, at="onnx")
    from kaasq.importers.onnx.assembly import assemble
    from kaasq.importers.onnx.dimensions import input_shapes
    from kaasq.importers.onnx.reading import read
    from kaasq.importers.onnx.translation import translate

    limits = limits or OnnxLimits()
    try:
        model = read(source, limits)
        sizes = input_shapes(model.graph, shapes or {}, batch)
        translated = translate(model, sizes, limits)
    except UnicodeDecodeError as error:
        raise BadRequest(f"damaged: a name in it is no UTF-8 ({error.reason})", at="model") from None
    return assemble(translated, _graph_name(name, source, model.graph.name), limits.graph)


def _graph_name(given: str | None, source: object, model_name: str) -> str:
    """The one given as it is, so that a mistake in it is told; another one made fit for a routing key."""
    if given is not None:
        return given
    stem = Path(source).stem if isinstance(source, (str, os.PathLike)) else ""
    for each in (stem, model_name):
        fit = re.sub(r"[^A-Za-z0-9_-]+", "_", each).strip("_")[:64]
        if is_graph_name(fit):
            return fit
    return "onnx"
