"""A tenant's own process: loads its weights, then runs its chain of products. It imports nothing that it need not.

``python -m kaasq_bench.peers.tenant_process DEVICE FOLDER once`` runs one and ends, as an exclusive worker does
whose device the next tenant wants. ``... serve`` waits for the file ``go1``, runs for as many seconds as it says,
writes how many it did in a second to ``rate1``, and so on; it need not be asked each time.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

POLL_S = 0.01  # the resident ones look this often while others are measured

Floats = npt.NDArray[np.float32]


class Chain:
    """(((w0 w1) w2) ...) x, weights in place, into arrays that are there; on a GPU x goes in and the result out."""

    def __init__(self, device: str, weights: list[Floats], x: Floats) -> None:
        self._xp = xp = array_library(device)
        self._weights = [xp.asarray(each) for each in weights]
        self._between = [xp.empty_like(self._weights[0]) for _ in range(2)]
        self._given = x
        self._x: Any = xp.empty(x.shape, np.float32)
        self._out: Any = xp.empty(x.shape, np.float32)

    def run(self) -> Floats:
        """The product, in the host's memory."""
        xp, left, x = self._xp, self._weights[0], self._given
        for i, right in enumerate(self._weights[1:]):
            left = xp.matmul(left, right, out=self._between[i % 2])
        if xp is not np:
            self._x.set(x)
            x = self._x
        xp.matmul(left, x, out=self._out)
        result: Floats = self._out if xp is np else self._out.get()
        return result


def array_library(device: str) -> Any:
    """NumPy for the cpu, else CuPy on that GPU."""
    if device == "cpu":
        return np
    import cupy

    cupy.cuda.Device(int(device.partition(":")[2] or 0)).use()
    return cupy


def write(path: Path, text: str) -> None:
    """The file appears whole: it is written under another name first."""
    partial = path.with_suffix(".new")
    partial.write_text(text)
    partial.rename(path)


def serve(chain: Chain, folder: Path) -> None:
    """Until killed."""
    while True:
        go = next(folder.glob("go*[0-9]"), None)
        if go is None:
            time.sleep(POLL_S)
            continue
        serial, seconds = go.name.removeprefix("go"), float(go.read_text())
        go.unlink()
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            chain.run()
            done += 1
        write(folder / f"rate{serial}", str(done / spent))


def run(device: str, folder: Path, mode: str) -> None:
    """The process. The weights are ``w0.npy`` and so on in the folder, x is ``x.npy``."""
    weights = [np.load(folder / f"w{i}.npy") for i in range(len(list(folder.glob("w*.npy"))))]
    chain = Chain(device, weights, np.load(folder / "x.npy"))
    chain.run()
    if mode == "serve":
        serve(chain, folder)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the suite's, which then ends this
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
