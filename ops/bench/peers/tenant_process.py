"""A tenant's own process: loads its weights, then runs its chain of products, with no message in between.

``python -m bench.peers.tenant_process DEVICE FOLDER once`` runs one and ends, as an exclusive worker does whose device
the next tenant wants; ``... FOLDER GO`` waits for that file again and again and runs for as many seconds as it says.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.graphs import Floats
from bench.peers.products import products_on
from bench.serving import Child, child
from bench.setting import Setting
from kaasq.ids import new_id

ONCE_TIMEOUT_S = 120.0
READY_TIMEOUT_S = 120.0
POLL_S = 0.01  # the resident ones look this often while others are measured


class Place(NamedTuple):
    """Where a tenant's weights lie, and on which device it runs."""

    folder: Path
    device: str


def save(parent: Path, device: str, weights: list[Floats], x: Floats) -> Place:
    """Write a tenant's arrays into a folder of its own."""
    folder = parent / f"tenant-{new_id()}"
    folder.mkdir()
    for i, each in enumerate(weights):
        np.save(folder / f"w{i}.npy", each)
    np.save(folder / "x.npy", x)
    return Place(folder, device)


def restarted_s(setting: Setting, place: Place) -> float:
    """Seconds of one request by a process that is started for it and then gives the device back."""
    start = time.perf_counter()
    with child(setting, _arguments(place, "once")) as process:
        try:
            code = process.process.wait(ONCE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise process.failure(f"the tenant's process did not end within {ONCE_TIMEOUT_S:.0f} s") from None
        took = time.perf_counter() - start
        if code:
            raise process.failure(f"the tenant's process ended with {code}")
    return took


class SideBySide:
    """A resident process for each tenant. Idle until it is asked for a figure."""

    def __init__(self, setting: Setting, places: Sequence[Place], stack: ExitStack) -> None:
        self._places = places
        self._processes = [stack.enter_context(child(setting, _arguments(each, "serve"))) for each in places]
        self._serial = 0

    def per_s(self, seconds: float) -> float:
        """Requests per second of all of them together, all at it for so long. Raises ChildFailed."""
        self._serial += 1
        for place in self._places:
            _write(place.folder / f"go{self._serial}", str(seconds))
        done = 0.0
        for place, process in zip(self._places, self._processes, strict=True):
            done += float(_awaited(place.folder / f"rate{self._serial}", READY_TIMEOUT_S + seconds, process))
        return done


def _arguments(place: Place, mode: str) -> list[str]:
    return ["-m", "bench.peers.tenant_process", place.device, str(place.folder), mode]


def _write(path: Path, text: str) -> None:
    """Appears whole: it is written under another name first."""
    partial = path.with_suffix(".new")
    partial.write_text(text)
    partial.rename(path)


def _awaited(path: Path, timeout_s: float, process: Child | None = None) -> str:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if process is not None:
            process.check("a tenant's process")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return path.read_text()


def run(device: str, folder: Path, mode: str) -> None:
    """The process."""
    weights = [np.load(folder / f"w{i}.npy") for i in range(len(list(folder.glob("w*.npy"))))]
    chain = products_on(device, weights, np.load(folder / "x.npy"))
    chain.run()
    if mode == "once":
        return
    serial = 1
    while True:
        seconds = float(_awaited(folder / f"go{serial}", sys.maxsize))
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            chain.run()
            done += 1
        _write(folder / f"rate{serial}", str(done / spent))
        serial += 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the suite's, which then ends this
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
