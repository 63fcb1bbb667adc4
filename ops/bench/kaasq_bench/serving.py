"""Starts what is measured as its users start it: worker processes with a pool and a store of their own, and clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from kaasq import Client, ReplyTimeout, Unroutable
from kaasq.ids import new_id
from kaasq.settings import Settings
from kaasq_bench.graphs import noop
from kaasq_bench.setting import Setting

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05


class ChildFailed(RuntimeError):
    """A process that a measurement needs ended, or did not get ready in time; the message has the end of its log."""


@dataclass(frozen=True)
class Child:
    """A process beside the suite, with what it writes in a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def check(self, what: str) -> None:
        """Raises ChildFailed if it has ended."""
        if self.process.poll() is not None:
            raise self.failure(f"{what} ended with {self.process.returncode}")

    def failure(self, what: str) -> ChildFailed:
        """What happened, with the end of its log."""
        tail = self.log.read_text(errors="replace").strip().splitlines()[-12:]
        return ChildFailed("\n  ".join([what, *tail]))


@contextmanager
def child(setting: Setting, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A Python process, asked to end and then killed at the end of the block. It inherits no KAASQ_* variables."""
    log = setting.disk / f"{new_id()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=_environ(environ)
        )
    try:
        yield Child(process, log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environ(extra: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KAASQ_")}
    path = os.pathsep.join(each for each in sys.path if each)  # so that it finds what this process found
    return {**inherited, "PYTHONPATH": path, "KAASQ_CONFIG": os.devnull, **(extra or {})}


@dataclass(frozen=True)
class Serving:
    """A running worker and how to reach it."""

    client: Client
    settings: Settings
    worker: Child

    def client_of(self, user: str, password: str) -> Client:
        """A client of another tenant of the same pool and store; the caller closes it."""
        parts = urlsplit(self.settings.broker_url)
        place = f"{user}:{password}@{parts.hostname}:{parts.port or 5672}"
        url = parts._replace(netloc=place).geturl()
        return Client(settings=msgspec.structs.replace(self.settings, broker_url=url))


@contextmanager
def serving(
    setting: Setting,
    *,
    device: str | None = None,
    queue_type: str = "classic",
    sync: bool = False,
    folder: Path | None = None,
    inline_limit: int | None = None,
    device_memory: int | None = None,
    spare: str | None = None,
    cache: str = "cache",
) -> Iterator[Serving]:
    """A worker that serves, with its client. ``folder``: where its store lies, on disk unless it says otherwise.

    ``cache`` names the folder of compiled modules, which workers of a run share unless they are given another.
    """
    place = Path(tempfile.mkdtemp(prefix="store-", dir=folder or setting.disk))
    settings = Settings(
        broker_url=setting.broker().url,
        pool=f"bench-{new_id()[-10:]}",
        store=str(place / "store"),
        store_sync=sync,
        timeout=120.0,
        inline_limit=Settings().inline_limit if inline_limit is None else inline_limit,
    )
    arguments = ["-m", "kaasq", "worker", "--broker", settings.broker_url, "--store", settings.store]
    arguments += ["--pool", settings.pool, "--device", device or setting.device, "--queue-type", queue_type]
    arguments += ["--store-sync" if sync else "--no-store-sync", "--log-level", "warning"]
    if device_memory is not None:
        arguments += ["--device-memory", str(device_memory)]
    if spare is not None:
        arguments += ["--spare", spare]
    environ = {"KAASQ_CACHE_DIR": str(setting.disk / cache), "KAASQ_INLINE_LIMIT": str(settings.inline_limit)}
    try:
        with child(setting, arguments, environ) as worker, Client(settings=settings) as client:
            await_worker(client, worker)
            yield Serving(client, settings, worker)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def await_worker(client: Client, worker: Child) -> None:
    """Until the worker answers. Raises ChildFailed if it ends first, or does not within a minute and a half."""
    graph = noop()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.run(graph, timeout=30)
        except (Unroutable, ReplyTimeout) as error:
            worker.check("the worker")
            if time.monotonic() > deadline:
                raise worker.failure(f"the worker did not serve within {START_TIMEOUT_S:.0f} s") from error
            time.sleep(POLL_S)
        else:
            return
