"""Celery doing the same: a task that gives its argument back. rpc results, solo pool, late acks, prefetch as it comes.

Its chords cannot have rpc results. Of the backends that need no other server and no other package, the folder of files
is the one that can. A worker looks for the end of a chord's tasks once a second, as it comes: more often it is slower.

``python -m kaasq_bench.peers.celery_worker URL QUEUE [BACKEND]`` is the worker.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from typing import Any

from celery import Celery, chain, chord

from kaasq_bench.loads import Load, Meter

ANSWER_TIMEOUT_S = 60.0
RPC = "rpc://"
LOOK_S = 0.05  # how often a client looks whether a chord has ended; Celery's own is 0.5
EXPIRES_MS = 600_000  # the queue's, should nobody be left to remove it


def make_app(url: str, queue: str, backend: str = RPC) -> Celery:
    """The application, the same for worker and client."""
    app = Celery("bench", broker=url, backend=backend)
    app.conf.update(
        task_default_queue=queue,
        task_queues={queue: {"exchange": "", "routing_key": queue, "queue_arguments": {"x-expires": EXPIRES_MS}}},
        task_default_exchange="",
        task_default_routing_key=queue,
        task_acks_late=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
        worker_enable_remote_control=False,  # whose exchanges would stay on a broker that may be somebody's own
    )
    app.task(name="bench.echo")(_echo)
    app.task(name="bench.count")(_count)
    return app


def _echo(body: str) -> str:
    return body


def _count(bodies: list[str]) -> int:
    return len(bodies)


class CeleryLoad:
    """Load on that worker by one client."""

    def __init__(self, url: str, queue: str, body: str) -> None:
        self._app = make_app(url, queue)
        self._body = body

    def load(self, outstanding: int, seconds: float) -> Load:
        """Keep so many under way; the oldest is waited for. Time counts once the first of them were sent."""
        under_way = deque(self._timed() for _ in range(outstanding))
        meter = Meter(outstanding, seconds)
        while under_way:
            result, sent = under_way.popleft()
            result.get(timeout=ANSWER_TIMEOUT_S)
            if meter.ended(sent):
                under_way.append(self._timed())
        return meter.load()

    def answered(self) -> None:
        """One round trip, however long the worker takes to come up."""
        self._send().get(timeout=ANSWER_TIMEOUT_S)

    def close(self) -> None:
        self._app.close()

    def _timed(self) -> tuple[Any, float]:
        sent = time.perf_counter()
        return self._send(), sent

    def _send(self) -> Any:
        return self._app.send_task("bench.echo", (self._body,))


class CeleryChain:
    """A chain of such tasks, each with what the one before gave, by one client."""

    def __init__(self, url: str, queue: str, steps: int) -> None:
        self._app = make_app(url, queue)
        self._first = self._app.signature("bench.echo", args=("",))
        self._more = [self._app.signature("bench.echo") for _ in range(steps - 1)]

    def run(self) -> None:
        """Until the last one's result has come."""
        chain(self._first, *self._more, app=self._app).apply_async().get(timeout=ANSWER_TIMEOUT_S)

    def close(self) -> None:
        self._app.close()


class CeleryChord:
    """So many such tasks at once, and one that takes what all of them gave, by one client."""

    def __init__(self, url: str, queue: str, backend: str, items: int) -> None:
        self._app = make_app(url, queue, backend)
        self._items = items
        self._tasks = [self._app.signature("bench.echo", args=("",)) for _ in range(items)]

    def run(self) -> None:
        """Until the last one's result has come."""
        joined = chord(self._tasks, app=self._app)(self._app.signature("bench.count"))
        assert joined.get(timeout=ANSWER_TIMEOUT_S, interval=LOOK_S) == self._items

    def close(self) -> None:
        self._app.close()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the suite's, which then ends this
    make_app(*sys.argv[1:]).worker_main(
        ["worker", "--pool=solo", "--loglevel=error", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    )
