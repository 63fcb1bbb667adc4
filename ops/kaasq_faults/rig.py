"""A whole kaasq for faults to be injected into: a broker of its own, workers, clients at a steady rate, the ledger."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import numpy as np

from kaasq import codec
from kaasq_bench.rabbitmq.api import Management, ManagementError
from kaasq_faults.audit import Stored, Verdict, audit
from kaasq_faults.ledger import OK, Asked, Ended, Entry, Known, now, read
from kaasq_faults.members import Member, Watch, wait_until
from kaasq_faults.proxy import Proxy
from kaasq_storage import LmdbStore, open_store

HEARTBEAT_S = 2  # so that a fault longer than the heartbeat takes seconds, not minutes
STARTED = "worker.started"
READY_TIMEOUT_S = 90.0
OPS = Path(__file__).parents[1]
KINDS = ("threads", "threads", "asyncio", "amqp")
WITH_FLOWS = (*KINDS, "flows")

MAY_END = {"broker_lost", "broker_refused", "slot_taken", "killed"}
"""Why a worker may give up by itself: its broker is away, or its executor was killed before it ever served. Whoever
looks after it starts it again.
"""


class Node(Protocol):
    """The broker of a rig: a node, or a cluster of some."""

    @property
    def url(self) -> str: ...
    @property
    def urls(self) -> list[str]: ...
    @property
    def management(self) -> Management: ...

    def start(self) -> object: ...
    def kill(self) -> None: ...
    def pids(self) -> list[int]: ...
    def ctl(self, *args: str) -> str: ...


@dataclass(frozen=True)
class Size:
    """How much runs."""

    workers: int = 2
    kinds: Sequence[str] = KINDS
    rate: float = 20.0
    """Requests per second of each client."""
    timeout_s: float = 240.0
    worker_args: Sequence[str] = ()
    device: str = "cpu"
    own: bool = True
    """Whether some outputs are kept under names of their own."""
    env: dict[str, str] = field(default_factory=dict)


class Rig:
    """Used as a context manager. ``node`` is the broker's to be killed and started again."""

    def __init__(self, folder: Path, seed: str, node: Node, size: Size = Size(), *, store: Path | None = None) -> None:
        self.folder = folder
        self.seed = seed
        self.node = node
        self.size = size
        self.pool = f"f{secrets.token_hex(4)}"
        self.store_path = store or folder / "store"
        self.ledgers = folder / "ledgers"
        self.ledgers.mkdir(parents=True)
        self.proxy = Proxy(node.url, others=[each for each in node.urls if each != node.url])
        self.url = f"{self.proxy.url}?heartbeat={HEARTBEAT_S}"
        self.workers = [self._worker(number) for number in range(size.workers)]
        self.clients = [self._client(number, kind) for number, kind in enumerate(size.kinds)]
        self._watch = Watch([*self.workers, *self.clients])
        self.began = now()

    def __enter__(self) -> Self:
        self.proxy.__enter__()
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            if not wait_until(lambda: self._started(worker), READY_TIMEOUT_S):  # noqa: B023  # asked at once
                self.close()
                raise RuntimeError(f"{worker.name} did not start:\n{worker.log_path.read_text()[-2000:]}")
        for client in self.clients:
            client.start()
        self._watch.start()
        if not wait_until(lambda: len(self.clients) == sum(map(bool, self.ends_by_client().values())), READY_TIMEOUT_S):
            self.close()
            raise RuntimeError(f"a client got no answer: {self.ends_by_client()}")
        self.began = now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything but the broker."""
        self._watch.stop()
        for each in (*self.clients, *self.workers):
            each.end()
        self.proxy.__exit__()

    def settle(self, timeout_s: float, allowed: dict[str, int | None] | None = None) -> Verdict:
        """Have the clients finish, then the workers; hold the ledger against the store."""
        for client in self.clients:
            client.finish()
        problems: list[str] = []
        deadline = time.monotonic() + timeout_s
        for client in self.clients:
            code = client.wait(max(0.1, deadline - time.monotonic()))
            if code != 0:
                problems.append(
                    f"{client.name} was told to finish and {'goes on' if code is None else f'ended {code}'}"
                )
        if not wait_until(lambda: self.queued() == 0, 30.0, 0.2):
            problems.append(f"{self.queued()} requests are still in the pool's queues")
        for worker in self.workers:
            worker.finish()
        for worker in self.workers:
            code = worker.wait(60.0)
            if code != 0:
                problems.append(f"{worker.name} was told to end and {'goes on' if code is None else f'ended {code}'}")
        self._watch.stop()
        verdict = self._audit({**(allowed or {}), "kernel_failed": self.killed_twice()})
        verdict.problems += problems + self._ends()
        return verdict

    def note(self, line: str) -> None:
        """Write down what was done, beside the logs."""
        with (self.folder / "faults.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    def entries(self) -> dict[str, list[Entry]]:
        """The ledger."""
        return {path.stem: list(read(path)) for path in sorted(self.ledgers.glob("*.ledger"))}

    def ends(self) -> list[float]:
        """When requests ended well, in order."""
        found = [e.at for each in self.entries().values() for e in each if isinstance(e, Ended) and e.end == OK]
        return sorted(found)

    def ends_by_client(self) -> dict[str, list[float]]:
        """The same, by client."""
        return {
            name: sorted(e.at for e in entries if isinstance(e, Ended) and e.end == OK)
            for name, entries in self.entries().items()
        }

    def queued(self) -> int:
        """Requests in the pool's queues, with a worker or not. -1: the broker does not say."""
        try:
            queues = self.node.management.queues()
        except ManagementError:
            return -1
        prefix = f"kaasq.work.{self.pool}"
        return sum(each.get("messages", 0) for each in queues if str(each["name"]).startswith(prefix))

    def killed_twice(self) -> int:
        """Requests that ran at two kills of their executor, alone: kaasq has to think that they did it."""
        found = [e for worker in self.workers for e in worker.events() if e["event"] == "request.dead"]
        return sum(each.get("how") == "SIGKILL" and each.get("kills") == 2 for each in found)

    def store(self) -> LmdbStore:
        """The pool's store, to look into."""
        return open_store(self.store_path)

    def _audit(self, allowed: dict[str, int | None]) -> Verdict:
        files = self.entries()
        tenant = urlsplit(self.url).username or "guest"
        store = self.store()
        try:
            names: dict[str, tuple[int, float]] = {}
            for each in store.names(tenant):
                with store.open(tenant, ref=each.object.ref) as reading:
                    array = np.frombuffer(bytes(reading.data), np.float32)
                value = float(array[0]) if np.all(array == array[0]) else float("nan")
                names[each.name] = (each.version, value)
            outcomes: dict[str, str] = {}
            for request_id in _ids(files):
                outcome = store.outcome(tenant, request_id)
                if outcome is not None:
                    reply = codec.decode_reply(outcome.reply, codec.MSGPACK)
                    outcomes[request_id] = OK if reply.error is None else reply.error.code
        finally:
            store.close()
        return audit(files, Stored(names, outcomes), allowed)

    def _ends(self) -> list[str]:
        """Processes that ended though nobody had told them to."""
        problems = [
            f"{client.name} (pid {pid}) ended with {code} by itself"
            for client in self.clients
            for pid, code, killed in client.exits
            if not killed
        ]
        for worker in self.workers:
            events = worker.events()
            reasons = [_reason(e) for e in events if e["event"] == "worker.failed"]
            alone = [code for _, code, killed in worker.exits if not killed]
            if len(alone) > len(reasons):
                problems.append(f"{worker.name} ended {len(alone)} times by itself ({alone}), and said why {reasons}")
            problems += [f"{worker.name} gave up: {reason}" for reason in reasons if reason not in MAY_END]
            problems += [
                f"{worker.name} logged {e['event']}: {e.get('exception', '')[-600:]}"
                for e in events
                if e["event"] in BROKE
            ]
        return problems

    def _started(self, worker: Member) -> bool:
        return any(each["event"] == STARTED for each in worker.events())

    def _environment(self, **more: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("KAASQ_")}
        path = os.pathsep.join([str(OPS), str(OPS / "bench"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            **kept,
            "PYTHONPATH": path,
            "KAASQ_CONFIG": os.devnull,
            "PYTHONFAULTHANDLER": "1",
            "KAASQ_TRACEABLE": "true",  # an ordinary user's run looks at its fronts' memory, too
            **self.size.env,
            **more,
        }

    def _worker(self, number: int) -> Member:
        command = [sys.executable, "-m", "kaasq", "worker", "--broker", self.url, "--pool", self.pool]
        command += ["--store", str(self.store_path), "--device", self.size.device, "--slot", f"w{number}"]
        command += ["--log-format", "json", *self.size.worker_args]
        return Member(f"worker-{number}", command, self._environment(), self.folder)

    def _client(self, number: int, kind: str) -> Member:
        name = f"c{number}"
        command = [sys.executable, "-m", "kaasq_faults.client", kind, "--url", self.url, "--pool", self.pool]
        command += ["--name", name, "--seed", self.seed, "--store", str(self.store_path)]
        command += ["--ledger", str(self.ledgers / f"{name}.ledger"), "--rate", str(self.size.rate)]
        command += ["--timeout", str(self.size.timeout_s)]
        command += [] if self.size.own else ["--no-own"]
        return Member(f"client-{number}-{kind}", command, self._environment(), self.folder)


BROKE = {"answer.broke", "request.broke", "callback.failed"}
"""Events of kaasq that nothing from outside may cause."""


def _reason(event: dict[str, Any]) -> str:
    return "killed" if "(SIGKILL)" in event.get("error", "") else str(event.get("code"))


def _ids(files: dict[str, list[Entry]]) -> list[str]:
    found: dict[str, None] = {}
    for entries in files.values():
        for each in entries:
            if isinstance(each, (Asked, Known)) and each.id:
                found[each.id] = None
    return list(found)
