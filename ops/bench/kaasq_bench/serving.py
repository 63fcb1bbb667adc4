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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import numpy.typing as npt

from kaasq import BufferRef, Client, ReplyTimeout, Unroutable, local
from kaasq.ids import new_id
from kaasq.settings import Settings
from kaasq.topology import QueueType
from kaasq_bench.children import tied
from kaasq_bench.graphs import noop
from kaasq_bench.rabbitmq.traces import pool_queues, remove_queues
from kaasq_bench.setting import Setting

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.05
TOLD = (
    *("broker_url", "store", "store_sync", "pool", "queue_type", "inline_limit"),
    *("device", "device_memory", "cache_dir", "spare", "busy_poll"),
)
Spare = Literal["none", "imported", "opened"]


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
            tied(sys.executable, *arguments),
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=_environ(environ),
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
    stored: list[BufferRef] = field(default_factory=list)

    def put(self, array: npt.NDArray[Any]) -> BufferRef:
        """Store it for as long as this is served."""
        ref = self.client.put(array)
        self.stored.append(ref)
        return ref

    def client_of(self, user: str, password: str) -> Client:
        """A client of another tenant of the same pool and store; the caller closes it."""
        parts = urlsplit(self.settings.broker_url)
        place = f"{user}:{password}@{parts.hostname}:{parts.port or 5672}"
        return Client(settings=msgspec.structs.replace(self.settings, broker_url=parts._replace(netloc=place).geturl()))


@contextmanager
def served(
    setting: Setting, *, queue_type: QueueType = "classic", sync: bool = False, storing: bool = True
) -> Iterator[Serving]:
    """The pool that is to be measured as it is, else a worker of our own, which is started as asked.

    ``storing``: what is measured reads or keeps objects, so that the pool has to be on this machine.
    """
    pool = setting.pool
    if pool is None or (storing and not pool.here):
        with serving(setting, queue_type=queue_type, sync=sync) as ours:
            yield ours
        return
    with Client(settings=pool.settings) as client:
        theirs = Serving(client, pool.settings)
        try:
            yield theirs
        finally:
            for ref in theirs.stored:
                client.delete(ref)


@contextmanager
def serving(
    setting: Setting,
    *,
    queue_type: QueueType = "classic",
    sync: bool = False,
    folder: Path | None = None,
    inline_limit: int | None = None,
    device_memory: int | None = None,
    spare: Spare | None = None,
    device: str | None = None,
    busy_poll: float | None = None,
) -> Iterator[Serving]:
    """A worker of our own, with its client, for the setting's device unless it says otherwise.

    ``folder``: where its store lies, on disk unless it says otherwise.
    """
    place = Path(tempfile.mkdtemp(prefix="store-", dir=folder or setting.disk))
    settings = Settings(
        pool=f"bench-{new_id()[-10:]}",
        store=str(place / "store"),
        store_sync=sync,
        timeout=120.0,
        inline_limit=Settings().inline_limit if inline_limit is None else inline_limit,
        device=device or setting.device,
        device_memory=device_memory or 0,
        queue_type=queue_type,
        spare=spare or Settings().spare,
        busy_poll=busy_poll,
        cache_dir=str(setting.disk / "cache"),  # workers of a run share what they compile
    )
    try:
        if setting.embedded:
            with local(settings.device, store=settings.store, settings=settings) as client:
                yield Serving(client, settings)
        else:
            settings = msgspec.structs.replace(settings, broker_url=setting.broker().url)
            with _worker_process(setting, settings) as worker, Client(settings=settings) as client:
                await_worker(client, worker)
                yield Serving(client, settings)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _worker_process(setting: Setting, settings: Settings) -> Iterator[Child]:
    """``kaasq worker``, told everything by its environment. Its queues go when it has ended."""
    told = {name: str(value) for name in TOLD if (value := getattr(settings, name)) is not None}
    told["log_level"] = "warning"
    environ = {f"KAASQ_{name.upper()}": value for name, value in told.items()}
    try:
        with child(setting, ["-m", "kaasq", "worker"], environ) as worker:
            yield worker
    finally:
        remove_queues(settings.broker_url, pool_queues(settings.pool, settings.device))


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
