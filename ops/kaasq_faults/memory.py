"""How large processes and folders are, and whether a series of sizes is flat."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def pss_bytes(pid: int) -> int:
    """A process's share of the memory it uses: pages shared by several count in parts. 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def folder_bytes(folder: Path) -> int:
    """What the files below take on disk."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # it was there a moment ago
            total += path.stat().st_blocks * 512
    return total


def growth(sizes: Sequence[float]) -> float:
    """By how much a series grows from its first to its last, by its straight line, in its own unit."""
    if len(sizes) < 2:
        return 0.0
    at = np.arange(len(sizes), dtype=float)
    slope = np.polyfit(at, np.asarray(sizes, dtype=float), 1)[0]
    return float(slope) * (len(sizes) - 1)
