"""Processes of tenants' own, started and asked from here: one at a time, or all side by side."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kaasq.ids import new_id
from kaasq_bench.graphs import Floats
from kaasq_bench.peers.tenant_process import write
from kaasq_bench.rounds import seconds
from kaasq_bench.serving import Child, child
from kaasq_bench.setting import Setting

TIMEOUT_S = 120.0
POLL_S = 0.005


class Place(NamedTuple):
    """Where a tenant's weights lie, and on which device it runs."""

    folder: Path
    device: str

    def arguments(self, mode: str) -> list[str]:
        """Of its process."""
        return ["-m", "kaasq_bench.peers.tenant_process", self.device, str(self.folder), mode]


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
    return seconds(lambda: finished(setting, place.arguments("once")))


def finished(setting: Setting, arguments: Sequence[str]) -> None:
    """Start a process and wait for its end. Raises ChildFailed if that is a failure, or does not come."""
    with child(setting, arguments) as started:
        try:
            code = started.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise started.failure(f"{arguments[1]} did not end within {TIMEOUT_S:.0f} s") from None
        if code:
            raise started.failure(f"{arguments[1]} ended with {code}")


class SideBySide:
    """A resident process for each tenant. Idle until it is asked for a figure."""

    def __init__(self, setting: Setting, places: Sequence[Place], stack: ExitStack) -> None:
        self._processes = [(each, stack.enter_context(child(setting, each.arguments("serve")))) for each in places]
        self._serial = 0

    def per_s(self, seconds: float, count: int) -> float:
        """Requests per second of so many of them together, all at it for so long. Raises ChildFailed."""
        self._serial += 1
        asked = self._processes[:count]
        for place, _ in asked:
            write(place.folder / f"go{self._serial}", str(seconds))
        return sum(self._rate(place, process) for place, process in asked)

    def _rate(self, place: Place, process: Child) -> float:
        path = place.folder / f"rate{self._serial}"
        deadline = time.monotonic() + TIMEOUT_S
        while not path.exists():
            process.check("a tenant's process")
            if time.monotonic() > deadline:
                raise process.failure(f"a tenant's process gave no figure within {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        return float(path.read_text())
