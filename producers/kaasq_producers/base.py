"""What clients for threads and for event loops have in common: settings, store, one connection, one process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from kaasq.broker import Broker
from kaasq.errors import BrokerLost, KaasqError
from kaasq.served import is_served
from kaasq.settings import Settings
from kaasq_producers.client_core import ClientCore
from kaasq_producers.insisting import insist
from kaasq_producers.opening import buffers_of, merged_settings, open_core
from kaasq_producers.prepare import Preparer
from kaasq_storage.protocol import BufferStore

CLOSE_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 1.0  # for the broker to confirm cancellations that were just sent
HURRY_S = 0.5  # for all of it, once somebody insists on the end


class ClientBase:
    """A client's parts, put together; its methods block."""

    def __init__(
        self,
        broker: str | Broker | None = None,
        *,
        store: str | Path | BufferStore | None = None,
        pool: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings = merged_settings(broker, store, pool, timeout, settings)
        self._broker = None if isinstance(broker, str) else broker
        self.tenant = settings.tenant if self._broker is None else self._broker.tenant
        self.buffers = buffers_of(settings, store, self.tenant)
        self._preparer = Preparer(settings, self.buffers)
        self._core: ClientCore | None = None
        self._closed = False
        self._pid: int | None = None  # where it connected: neither threads nor locks survive a fork
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._core else "not connected yet"
        return f"<{type(self).__name__.lstrip('_')} of pool {self.settings.pool!r} as {self.tenant!r}, {state}>"

    @property
    def _forked(self) -> bool:
        """Whether this process is a child, forked from the one that connected."""
        return self._pid is not None and self._pid != os.getpid()

    def _check_process(self) -> None:
        if self._forked:
            raise KaasqError(
                "the client was connected before the fork, and its connection belongs to the parent process: make one "
                "client per process, after the fork"
            )

    def _usable(self) -> ClientCore:
        """The core, connected if need be. Raises BrokerLost, BrokerRefused."""
        self._check_process()  # before any lock: the thread that held it stayed in the parent
        return self._core or self._connected()

    def _is_served(self, timeout_s: float) -> bool:
        """Whether anybody takes requests of the pool now, as far as the broker says so in time."""
        return is_served(self._usable().broker, self.settings.pool, timeout_s)

    def _connected(self) -> ClientCore:
        with self._lock:
            if self._core is None:
                if self._closed:
                    raise BrokerLost("the client is closed")
                self._pid = os.getpid()
                try:
                    self._core = open_core(self._broker, self.buffers, self.settings)
                except BaseException:
                    self._pid = None
                    raise
            return self._core

    def _close(self) -> None:
        """Close broker and store. Idempotent. In a forked child it leaves the parent's connection alone.

        A second Ctrl-C ends the waiting: but for a moment, in which the broker is told what it can still be told. What
        was cancelled and has not reached it by then is logged.
        """
        try:
            self._shut(CANCEL_TIMEOUT_S, CLOSE_TIMEOUT_S)
        except BaseException:
            until = time.monotonic() + HURRY_S
            insist(lambda: self._shut(left := max(0.0, until - time.monotonic()), left))
            raise

    def _shut(self, told_s: float, close_s: float) -> None:
        """May be interrupted anywhere, and done again."""
        if self._forked:
            self._closed = True
            return
        with self._lock:
            self._closed = True
            core = self._core
        if core is not None:
            if threading.get_ident() != core.io_thread:  # which brings the confirmations
                core.wait_until_told(told_s)
            core.stop()
            core.broker.close(close_s)
        self.buffers.close()
