"""What is scarce or wrong for a while: the broker's memory, the store's disk, its capacity, the clock.

Each gives clear errors or none, spoils nothing, and is over when it is over, without anybody's help.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kaasq.errors import KaasqError
from kaasq_faults.audit import Verdict
from kaasq_faults.campaign import BACK_S, WARM_S, WINDOW_S, gap_s
from kaasq_faults.faults import MemoryAlarm
from kaasq_faults.ledger import Ended, now
from kaasq_faults.rig import Node, Rig, Size

STORE_BYTES = 96 << 20  # of the small file system
ROOM_BYTES = 16 << 20  # of the small capacity
HOLD_S = 6.0
STEPS_S = (3600, -3600, 90)  # how wrong the clock is, one after another


@dataclass
class ConditionReport:
    """What one of them gave."""

    verdict: Verdict = field(default_factory=Verdict)
    told: dict[str, int] = field(default_factory=dict)
    """Errors that clients got while it lasted."""
    gap_s: float = 0.0
    """From its end until requests ended well at the usual rate."""


def memory_alarm(rig: Rig) -> ConditionReport:
    """Publishers wait, nobody is told anything, all is served afterwards."""
    fault = MemoryAlarm()

    def begin() -> None:
        fault.inject(rig, random.Random(rig.seed))

    return _last(rig, begin, lambda: fault.heal(rig), allowed={})


def full_disk(folder: Path, seed: str, node: Node, size: Size) -> ConditionReport:
    """The store's file system has no block left."""
    with small_file_system(folder / "disk") as disk, Rig(folder, seed, node, size, store=disk / "store") as rig:
        filler = disk / "filler"

        def fill() -> None:
            with filler.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                        file.flush()
                except OSError:
                    pass  # full

        return _last(rig, fill, filler.unlink, allowed={"store_full": None})


def full_store(rig: Rig) -> ConditionReport:
    """The store is at its capacity, most of it taken by one object that goes away later."""
    tenant = "guest"
    filler: list[str] = []

    def fill() -> None:
        store = rig.store()
        try:
            usage = store.usage()
            room = usage.capacity - usage.used
            while room > 1 << 16:  # until not even a file fits
                try:
                    filler.append(store.put(tenant, os.urandom(room - (1 << 15)))[0].ref)
                    break
                except KaasqError:
                    room -= 1 << 16
        finally:
            store.close()

    def empty() -> None:
        store = rig.store()
        try:
            store.delete(tenant, ref=filler[0])  # a name would have left a mark on versions
        finally:
            store.close()

    return _last(rig, fill, empty, allowed={"store_full": None})


def clock_steps(folder: Path, seed: str, node: Node, size: Size) -> ConditionReport:
    """The clock of workers and clients jumps an hour ahead, an hour back, and about."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(folder / "clock")
    env = {**size.env, "LD_PRELOAD": str(clock.library), "KAASQ_FAULTS_CLOCK": str(clock.path)}
    with Rig(folder, seed, node, replace(size, env=env)) as rig:

        def step() -> None:
            for seconds in STEPS_S:
                clock.be_wrong_by(seconds)
                time.sleep(HOLD_S)

        # A request whose deadline a step has passed: the wall clock is the only one that two machines share.
        allowed: dict[str, int | None] = {"deadline_exceeded": None}
        return _last(rig, step, lambda: clock.be_wrong_by(0), allowed=allowed)


class Clock:
    """The wall clock of processes that preload ``library``, with ``path`` in their environment (see clock.cpp)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.be_wrong_by(0)
        self.library = path.with_suffix(".so")
        compiler = next(filter(None, map(shutil.which, ("g++", "clang++"))), None)
        if compiler is None:
            raise RuntimeError("no C++ compiler: apt-get install g++")
        source = Path(__file__).with_name("clock.cpp")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self.library, source], check=True)

    def be_wrong_by(self, seconds: int) -> None:
        """From now on."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(fd, seconds.to_bytes(8, sys.byteorder, signed=True), 0)
        os.close(fd)


@contextmanager
def small_file_system(where: Path) -> Iterator[Path]:
    """A tmpfs of its own. Needs root, or a sudo that asks for no password; raises PermissionError without."""
    where.mkdir(parents=True)
    as_root = [] if os.geteuid() == 0 or shutil.which("sudo") is None else ["sudo", "-n"]
    mounted = subprocess.run(
        [*as_root, "mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES},mode=0777", "kaasq-faults", str(where)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if mounted.returncode != 0:
        raise PermissionError(mounted.stderr.strip())
    try:
        yield where
    finally:
        subprocess.run([*as_root, "umount", "-l", str(where)], check=True)


def _last(
    rig: Rig, begin: Callable[[], None], end: Callable[[], object], *, allowed: dict[str, int | None]
) -> ConditionReport:
    report = ConditionReport()
    time.sleep(WARM_S)
    began = now()
    begin()
    time.sleep(HOLD_S)
    end()
    healed = now()
    time.sleep(BACK_S + WINDOW_S + 1.0)
    stopped = now()
    report.verdict = rig.settle(120.0, allowed)
    for entries in rig.entries().values():
        for each in entries:
            if isinstance(each, Ended) and began <= each.at and each.end != "ok":
                report.told[each.end] = report.told.get(each.end, 0) + 1
    late = [
        each for entries in rig.entries().values() for each in entries
        if isinstance(each, Ended) and each.end != "ok" and each.at > healed + 10.0
    ]  # fmt: skip
    if late:
        report.verdict.problems.append(f"{len(late)} requests failed long after it was over: {late[0].detail}")
    report.gap_s = gap_s(rig.ends(), began, healed, stopped, rig.size.rate * len(rig.clients))
    return report
