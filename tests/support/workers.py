"""Worker processes for tests: started as a user starts them, and awaited until they serve."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kaasq_bench.children import tied

START_TIMEOUT_S = 60.0


class RunningWorker:
    """A ``kaasq worker`` process and the log it writes."""

    def __init__(self, url: str, pool: str, store: Path, *extra: str, device: str = "cpu") -> None:
        store.parent.mkdir(parents=True, exist_ok=True)
        self.log_path = store.parent / f"worker-{time.monotonic_ns()}.log"
        self._log = self.log_path.open("wb")
        arguments = ["--broker", url, "--pool", pool, "--store", str(store), "--device", device]
        self.process = subprocess.Popen(
            tied(sys.executable, "-m", "kaasq", "worker", *arguments, "--log-format", "json", *extra),
            stderr=self._log,
        )

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, event: str, timeout_s: float = START_TIMEOUT_S, *, count: int = 1) -> dict[str, Any]:
        """Wait until it has logged that event so many times."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [each for each in self.events() if each["event"] == event]
            if len(found) >= count:
                return found[count - 1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the worker's log:\n{self.log_path.read_text()}")

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.process.kill()
            self.process.wait()
            self._log.close()


@contextmanager
def running_worker(url: str, pool: str, store: Path, *extra: str, device: str = "cpu") -> Iterator[RunningWorker]:
    """A worker that serves; stopped at the end."""
    worker = RunningWorker(url, pool, store, *extra, device=device)
    try:
        worker.wait_for("worker.started")
        yield worker
    finally:
        worker.stop()
