"""The processes of a run: started, found, stopped in good order, and started again when they end, as services are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kaasq_bench.children import tied

POLL_S = 0.05
AGAIN_S = 0.3  # between an end and the next start


class Member:
    """One process that is started again when it ends, until it is told to finish."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self._command = list(command)
        self._env = dict(env)
        self.log_path = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._killed: set[int] = set()
        self._due = 0.0
        self.exits: list[tuple[int, int, bool]] = []
        """Of every process that ended: its pid, its exit code, and whether it was killed by the run."""

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 if none does."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self) -> None:
        self._wanted = True
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                tied(*self._command),
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def look(self) -> None:
        """Note an end, and start again what is to run."""
        if not self._wanted:
            return
        process = self._process
        if process is not None and process.poll() is not None:
            self._process = None
            self.exits.append((process.pid, process.returncode, process.pid in self._killed))
            self._due = time.monotonic() + AGAIN_S
        if self._process is None and time.monotonic() > self._due:
            self.start()

    def kill(self) -> bool:
        """Kill -9, of the process alone. Whether there was one."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        self._killed.add(process.pid)
        process.kill()
        return True

    def finish(self) -> None:
        """Tell it to end in good order, and start it no more."""
        self._wanted = False
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code of the process that was told to finish; None if it goes on, or there was none."""
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Whatever it does: it ends now, with what it started."""
        self._wanted = False
        process = self._process
        if process is not None:
            for pid in (*descendants(process.pid), process.pid):
                send(pid, signal.SIGCONT)
                send(pid, signal.SIGKILL)
            process.wait()

    def events(self) -> list[dict[str, Any]]:
        """What it has logged as JSON."""
        if not self.log_path.exists():
            return []
        found: list[dict[str, Any]] = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found


class Watch:
    """Looks after members on a thread, so that a killed one is back while the next fault is under way."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = list(members)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Idempotent."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(POLL_S):
            for each in self._members:
                each.look()


def descendants(pid: int) -> list[int]:
    """Children, and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def executors(worker_pid: int) -> list[int]:
    """The executors of a worker."""
    found: list[int] = []
    for pid in descendants(worker_pid):
        with contextlib.suppress(OSError):
            if b"kaasq_workers.executor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def send(pid: int, number: int) -> bool:
    """A signal; whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
