"""One timer for all of a client's deadlines.

A timer per request would cost more than the request's own bookkeeping and would nearly always be cancelled. Instead the
one timer fires at the earliest deadline known, all pending requests are looked through, and it is set for the earliest
of those that remain. With equal timeouts that is one look per timeout, whatever the rate of requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kaasq.broker import Broker

COARSENESS_S = 0.01  # so that many different deadlines do not mean a look at all requests for each


class Deadlines:
    """Calls ``expire(now)`` when a deadline is due; it returns the earliest remaining one. Thread-safe."""

    def __init__(
        self, broker: Broker, expire: Callable[[float], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._broker = broker
        self._expire = expire
        self._clock = clock
        self._next = float("inf")
        self._cancel: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def add(self, deadline: float) -> None:
        """Take a deadline (on that clock) into account."""
        if deadline >= self._next:
            return
        with self._lock:
            if deadline < self._next:
                self._arm(deadline)

    def cancel(self) -> None:
        """Never call again."""
        with self._lock:
            self._disarm()
            self._next = float("-inf")

    def _arm(self, deadline: float) -> None:
        self._disarm()
        self._next = deadline
        self._cancel = self._broker.call_later(max(COARSENESS_S, deadline - self._clock()), self._fire)

    def _disarm(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _fire(self) -> None:
        with self._lock:
            if self._next == float("-inf"):
                return
            self._cancel = None
            self._next = float("inf")  # what is added from here on sets a timer of its own
        earliest = self._expire(self._clock())
        if earliest is not None:
            self.add(earliest)
