"""Launching kernels on the CPU device itself: its memory is the host's, so NumPy arrays are passed as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from kaasq.model import Dim3, Module, dim3
from kaasq_workers.devices.cpu import CpuDevice
from kaasq_workers.devices.cpu.module import CpuModule
from kaasq_workers.executor.arguments import PackedArguments, pointer

FEATURES = (Path(__file__).parents[1] / "data" / "features.cu").read_text()
FEATURE_NAMES = (
    "div", "constants", "count_calls", "atomics", "block_votes", "shuffles", "votes", "divergent_masks",
    "active_lanes", "tiles", "aliased", "sums<int>", "sums<double>", "inner::power<3>", "vectors", "halves", "bits",
    "mathematics", "conversions", "unsigned_index", "last_block", "big_frame", "checked", "checked_together",
    "diverges",
)  # fmt: skip


def run(
    device: CpuDevice, module: CpuModule, name: str, grid: int | Dim3, block: int | Dim3, *args: Any, shared: int = 0
) -> None:
    """Launch on NumPy arrays, in place."""
    values = [pointer(a.ctypes.data) if isinstance(a, np.ndarray) else a.tobytes() for a in args]
    device.stream().launch(module.kernel(name), dim3(grid), dim3(block), PackedArguments(values), shared)


def load(device: CpuDevice, source: str, *names: str, options: tuple[str, ...] = ()) -> CpuModule:
    """Compile a source."""
    return device.load(Module.from_source(source, options=options), names)


def ints(n: int, value: int = 0) -> np.ndarray:
    """An array of 32-bit integers."""
    return np.full(n, value, np.int32)


def environment() -> dict[str, str]:
    """Variables for another interpreter that is to find what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def python(script: str, folder: Path) -> str:
    """What a script prints, run in an interpreter of its own with a folder as its argument."""
    argv = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=environment()).stdout
