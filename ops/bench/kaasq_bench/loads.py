"""Closed-loop load: so many requests under way at a time, for so long; its latencies and its throughput."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

import numpy as np

from kaasq import Client, Graph


class Load(NamedTuple):
    """What a window of load gave: milliseconds, and requests per second."""

    p50_ms: float
    p99_ms: float
    per_s: float

    @classmethod
    def of(cls, latencies_s: list[float], elapsed_s: float) -> Load:
        """Of at least one request."""
        p50, p99 = np.percentile(latencies_s, (50, 99)) * 1e3
        return cls(float(p50), float(p99), len(latencies_s) / elapsed_s)


class Loaded(Protocol):
    """A side that load can be put on."""

    def load(self, outstanding: int, seconds: float) -> Load: ...


class Meter:
    """Counts until the time is up and as many have ended as are under way at once; later ones do not count."""

    def __init__(self, outstanding: int, seconds: float) -> None:
        self._at_least = outstanding
        self._latencies: list[float] = []
        self._start = time.perf_counter()
        self._until = self._start + seconds
        self._stopped: float | None = None

    def ended(self, sent: float) -> bool:
        """One that was sent then has ended; whether another one is to be sent."""
        if self._stopped is not None:
            return False
        now = time.perf_counter()
        self._latencies.append(now - sent)
        if now >= self._until and len(self._latencies) >= self._at_least:
            self._stopped = now
        return self._stopped is None

    def load(self) -> Load:
        """What was counted, once nothing more is to be sent."""
        assert self._stopped is not None
        return Load.of(self._latencies, self._stopped - self._start)


class KaasqLoad:
    """Load on a pool of workers by one client, with one graph and its bindings."""

    def __init__(self, client: Client, graph: Graph, **bindings: Any) -> None:
        self._client = client
        self._graph = graph
        self._bindings = bindings

    def load(self, outstanding: int, seconds: float) -> Load:
        """One at a time by ``run``, as a service does; more by ``submit``, the next one from a callback."""
        if outstanding > 1:
            return Window(lambda: self._client.submit(self._graph, **self._bindings), outstanding, seconds).run()
        meter, more = Meter(1, seconds), True
        while more:
            sent = time.perf_counter()
            self._client.run(self._graph, **self._bindings)
            more = meter.ended(sent)
        return meter.load()


class Window:
    """Keeps futures under way until the time is up; each that ends begins the next."""

    def __init__(self, submit: Callable[[], Future[Any]], outstanding: int, seconds: float) -> None:
        self._submit = submit
        self._outstanding = outstanding
        self._meter = Meter(outstanding, seconds)
        self._left = outstanding
        self._lock = threading.Lock()  # callbacks come on the threads of several clients
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> Load:
        """Raises what a request failed with."""
        for _ in range(self._outstanding):
            self._begin()
        self._over.wait()
        if self._failure is not None:
            raise self._failure
        return self._meter.load()

    def _begin(self) -> None:
        sent = time.perf_counter()
        self._submit().add_done_callback(lambda future: self._ended(future, sent))

    def _ended(self, future: Future[Any], sent: float) -> None:
        try:
            future.result()
            with self._lock:
                more = self._meter.ended(sent)
                self._left -= not more
            if more:
                self._begin()
            elif not self._left:
                self._over.set()
        except Exception as error:  # noqa: BLE001 - a future swallows it, and the window would wait for ever
            self._failure = error
            self._over.set()
