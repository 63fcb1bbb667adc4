"""How large processes and folders are, and whether a series of sizes is flat."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def pss_bytes(pid: int) -> int:
    """A process's share of the memory it uses: pages shared by several count in parts. 0 for one that is gone."""
    return _rolled_up(pid, "Pss:")


def own_bytes(pid: int) -> int:
    """What of that is in no file: without the pages of the store that it has mapped, which the system may take back."""
    return _rolled_up(pid, "Pss_Anon:", "Pss_Shmem:")


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


def _rolled_up(pid: int, *names: str) -> int:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(names))
