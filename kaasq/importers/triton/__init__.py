"""Triton kernels ahead of time: ``compile`` one to machine code, then launch it in a graph like any other."""

from __future__ import annotations

from kaasq.importers.triton.compiler import compile  # noqa: A004 - what Triton calls it, too
from kaasq.importers.triton.kernel import TritonKernel

__all__ = ["TritonKernel", "compile"]
