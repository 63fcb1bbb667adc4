"""The host's processor: its name for people, its features for the key of what is compiled for it."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


def processor_name() -> str:
    """Its model, or at least its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


@cache
def processor_features() -> str:
    """Its model and features: code for this one may not run on another that shares the cache's folder."""
    said = [platform.machine()]
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        first = os.uname().version
    for line in first.splitlines():
        label, _, value = line.partition(":")
        if label.strip() in {"model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant"}:
            said.append(value.strip())
    return "\n".join(said)
