"""Which GPUs there are. Imports CUDA only when asked."""

from __future__ import annotations


def count_gpus() -> int:
    """CUDA devices that kaasq can use here: 0 without a GPU, a driver or the cuda extra."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) if cupy.is_available() else 0
    except Exception:  # noqa: BLE001 - whatever a half-installed CUDA raises, there is no device to use
        return 0
