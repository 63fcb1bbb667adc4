"""Who else lives on a client's connection, and is told of it."""

from __future__ import annotations

import threading
from typing import Protocol

from kaasq.errors import KaasqError


class Listener(Protocol):
    """Told on the broker's I/O thread."""

    def lost(self) -> None:
        """It is gone: what was delivered can no longer be settled."""

    def connected(self) -> None:
        """It is back."""

    def over(self, error: KaasqError) -> None:
        """It will not come back; on any thread, once."""

    def leave(self) -> None:
        """It is about to be closed: remove from the broker what is of no use to anybody afterwards. On any thread."""


class Listeners:
    """All of one connection. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Listener] = []
        self._over: KaasqError | None = None
        self._connected = True
        self._leaving = 0  # queues that the broker has not removed yet
        self._left = threading.Condition(self._lock)

    def attach(self, listener: Listener) -> None:
        """Tell it of the connection from now on."""
        with self._lock:
            over = self._over
            if over is None:
                self._all.append(listener)
        if over is not None:
            listener.over(over)

    def detach(self, listener: Listener) -> None:
        """Tell it no more."""
        with self._lock:
            if listener in self._all:
                self._all.remove(listener)

    def leaving(self) -> None:
        """One of them has the broker remove something; ``left`` follows."""
        with self._lock:
            self._leaving += 1

    def left(self, _: KaasqError | None = None) -> None:
        """The broker has done so, or could not."""
        with self._lock:
            self._leaving -= 1
            self._left.notify_all()

    def leave(self, timeout_s: float) -> None:
        """Have them all leave, and wait for it, at most so long, and only while the broker is there."""
        for each in list(self._all):
            each.leave()
        with self._lock:
            self._left.wait_for(lambda: not self._leaving or not self._connected, timeout_s)

    def lost(self) -> None:
        """Tell them."""
        with self._lock:
            self._connected = False
            self._left.notify_all()
        for each in list(self._all):
            each.lost()

    def connected(self) -> None:
        """Tell them."""
        self._connected = True
        for each in list(self._all):
            each.connected()

    def over(self, error: KaasqError) -> None:
        """Tell them, and who comes later."""
        with self._lock:
            self._over = error
            listeners, self._all = self._all, []
        for each in listeners:
            each.over(error)
