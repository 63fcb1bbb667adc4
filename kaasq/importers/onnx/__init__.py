"""ONNX models as graphs of built-ins: ``load`` one, upload its weights once, run it like any other graph."""

from __future__ import annotations

from kaasq.importers.onnx.limits import OnnxLimits
from kaasq.importers.onnx.load import load
from kaasq.importers.onnx.model import OnnxModel

__all__ = ["OnnxLimits", "OnnxModel", "load"]
