"""Counts the GPUs, without touching them: whoever asks (a front, a command) must not end up with a CUDA context."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

COUNT_TIMEOUT_S = 60.0

_COUNT = "import cupy; print(cupy.cuda.runtime.getDeviceCount() if cupy.is_available() else 0)"


def count_gpus() -> int:
    """CUDA devices that kaasq can use here: 0 without a GPU, a driver or the cuda extra. Asks in another process."""
    if importlib.util.find_spec("cupy") is None:
        return 0
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", _COUNT], capture_output=True, text=True, timeout=COUNT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    said = asked.stdout.strip()
    return int(said) if asked.returncode == 0 and said.isdecimal() else 0
