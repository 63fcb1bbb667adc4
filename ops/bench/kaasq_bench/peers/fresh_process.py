"""The naive way: a process for each request, which loads what it needs, compiles, computes and ends.

``python -m kaasq_bench.peers.fresh_process DEVICE SERIAL FOLDER`` runs a saxpy whose source nobody has compiled before.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np

from kaasq_bench.sources import SAXPY

N = 1024
C_SAXPY = r"""
void saxpy(float a, const float* x, const float* y, float* out, int n)
{ for (int i = 0; i < n; i++) out[i] = a * x[i] + y[i]; }
"""


def on_gpu(index: int, serial: str) -> float:
    """With CuPy; the first element of the result."""
    import cupy

    cupy.cuda.Device(index).use()
    kernel = cupy.RawKernel(f"{SAXPY}// {serial}\n", "saxpy")
    x, y, out = cupy.arange(N, dtype=np.float32), cupy.ones(N, np.float32), cupy.empty(N, np.float32)
    kernel((-(-N // 256),), (256,), (np.float32(2), x, y, out, np.int32(N)))
    return float(out.get()[0])


def on_cpu(serial: str, folder: Path) -> float:
    """With the machine's C compiler; the first element of the result."""
    source, library = folder / f"{serial}.c", folder / f"{serial}.so"
    source.write_text(f"{C_SAXPY}// {serial}\n")
    subprocess.run(
        ["g++", "-x", "c", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    x, y, out = np.arange(N, dtype=np.float32), np.ones(N, np.float32), np.empty(N, np.float32)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, y, out)]
    ctypes.CDLL(str(library)).saxpy(ctypes.c_float(2), *pointers, ctypes.c_int(N))
    return float(out[0])


if __name__ == "__main__":
    _, device, number, where = sys.argv
    first = on_cpu(number, Path(where)) if device == "cpu" else on_gpu(int(device.partition(":")[2] or 0), number)
    sys.exit(0 if first == 1.0 else 1)
