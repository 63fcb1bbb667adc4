"""Describes the machine and what runs on it: figures mean nothing without."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PACKAGES = ("kaasq", "numpy", "pika", "lmdb", "msgspec", "celery", "cupy-cuda12x", "cupy-cuda13x", "cuda-core")
SMI_TIMEOUT_S = 30.0
FREE_CORES = 1.5  # of two: no machine is idle


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """``load`` is the one-minute load average before the suite began: above 1 others were at work."""

    cpu: str
    cores: int
    memory_gib: int
    gpu: str | None
    python: str
    system: str
    packages: dict[str, str]
    load: float

    @property
    def busy(self) -> bool:
        """Whether others were at work on the two cores that the bars are for."""
        return self.cores - self.load < FREE_CORES

    @property
    def words(self) -> str:
        """What it is, in a line."""
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}, {self.cores} cores, {self.memory_gib} GiB{gpu}; load {self.load}"

    @property
    def tag(self) -> str:
        """A short word for file names: ``2c``, ``h100``."""
        if self.gpu is None:
            return f"{self.cores}c"
        words = [word for word in re.findall(r"[A-Za-z0-9]+", self.gpu) if word.upper() not in {"NVIDIA", "TESLA"}]
        return words[0].lower() if words else "gpu"


def describe(gpu_index: int | None) -> Machine:
    """The machine that this runs on; ``gpu_index`` None where no GPU takes part."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)),
        gpu=None if gpu_index is None else _gpu(gpu_index),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        packages=_versions(),
        load=round(os.getloadavg()[0], 2),
    )


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _gpu(index: int) -> str:
    query = ["nvidia-smi", f"--id={index}", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return f"GPU {index} (nvidia-smi does not answer)"
    return asked.stdout.strip() or f"GPU {index} (nvidia-smi: {asked.stderr.strip()[:80]})"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
