"""How many processors this process may use, and whether that leaves some for threads that look instead of sleeping."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

BUSY_POLL_S = 2e-3
"""More than a small request takes, so that with one after the other nobody sleeps between two of them."""
ENOUGH = 8
"""Front, executor and client may each keep one busy, and so may the broker, and whatever else runs there."""

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def busy_poll_s(given: float | None, workers: int = 1) -> float:
    """For how long each of so many workers is to look for work before it sleeps: what was given, or what suits."""
    if given is not None:
        return given
    return BUSY_POLL_S if processors() >= ENOUGH * workers else 0.0


def processors(root: Path = _ROOT, own: Path = _OWN) -> float:
    """Those that it may run on, or the share of them that its control groups leave it."""
    return min([float(len(os.sched_getaffinity(0))), *_quotas(root, own)])


def _quotas(root: Path, own: Path) -> list[float]:
    """What the groups that it is in may use, in processors; in a container the root stands for the container's."""
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    quotas: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / controllers
        group = top / path.lstrip("/")
        for each in [group, *group.parents]:
            quotas += _quota(each)
            if each == top:
                break
    return quotas


def _quota(group: Path) -> list[float]:
    """One or none: version 2 of control groups has one file for it, version 1 two."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return [int(quota) / int(period)]
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((group / "cpu.cfs_quota_us").read_text())
        return [quota_us / int((group / "cpu.cfs_period_us").read_text())] if quota_us > 0 else []
    return []
