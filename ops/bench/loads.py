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
        """Raises ValueError where nothing came back in time."""
        if not latencies_s:
            raise ValueError(f"no request ended within {elapsed_s:.1f} s: use a longer window (--seconds)")
        p50, p99 = np.percentile(latencies_s, (50, 99)) * 1e3
        return cls(float(p50), float(p99), len(latencies_s) / elapsed_s)


class Loaded(Protocol):
    """A side that load can be put on."""

    def load(self, outstanding: int, seconds: float) -> Load: ...


class KaasqLoad:
    """Load on a pool of workers by one client, with one graph and its bindings."""

    def __init__(self, client: Client, graph: Graph, **bindings: Any) -> None:
        self._client = client
        self._graph = graph
        self._bindings = bindings

    def load(self, outstanding: int, seconds: float) -> Load:
        """One at a time by ``run``, as a service does; more by ``submit``, the next one from a callback."""
        return self._one_by_one(seconds) if outstanding == 1 else self._window(outstanding, seconds)

    def _one_by_one(self, seconds: float) -> Load:
        latencies: list[float] = []
        start = now = time.perf_counter()
        while now - start < seconds:
            self._client.run(self._graph, **self._bindings)
            ended = time.perf_counter()
            latencies.append(ended - now)
            now = ended
        return Load.of(latencies, now - start)

    def _window(self, outstanding: int, seconds: float) -> Load:
        window = Window(lambda: self._client.submit(self._graph, **self._bindings), outstanding, seconds)
        return window.run()


class Window:
    """Keeps futures under way until the time is up; each that ends begins the next."""

    def __init__(self, submit: Callable[[], Future[Any]], outstanding: int, seconds: float) -> None:
        self._submit = submit
        self._outstanding = outstanding
        self._until = time.perf_counter() + seconds
        self._ended_at: list[float] = []
        self._latencies: list[float] = []
        self._left = outstanding
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> Load:
        """Raises what a request failed with."""
        start = time.perf_counter()
        for _ in range(self._outstanding):
            self._begin()
        self._over.wait()
        if self._failure is not None:
            raise self._failure
        counted = [took for took, at in zip(self._latencies, self._ended_at, strict=True) if at <= self._until]
        return Load.of(counted, self._until - start)

    def _begin(self) -> None:
        started = time.perf_counter()
        self._submit().add_done_callback(lambda future: self._ended(future, started))

    def _ended(self, future: Future[Any], started: float) -> None:
        now = time.perf_counter()
        failure = future.exception()
        with self._lock:
            self._failure = self._failure or failure
            self._latencies.append(now - started)
            self._ended_at.append(now)
            stop = self._failure is not None or now >= self._until
            if stop:
                self._left -= 1
                if not self._left:
                    self._over.set()
        if not stop:
            try:
                self._begin()
            except Exception as error:  # noqa: BLE001 - futures swallow it, and the window would wait for ever
                with self._lock:
                    self._failure = error
                    self._left = 0
                self._over.set()
