"""Waits for an executor to be gone that has hung up, without blocking the I/O thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from kaasq.broker import Broker
from kaasq_workers.front.handles import Handle

REAP_S = 2.0  # for a process to end after it has hung up, before it is killed
REAP_POLL_S = 0.005


def reap(broker: Broker, handle: Handle, gone: Callable[[str], None]) -> None:
    """Call back with how it ended, for people."""
    until = time.monotonic() + REAP_S

    def look() -> None:
        how = handle.wait(0.0)
        if how is not None:
            gone(how)
            return
        if time.monotonic() > until:
            handle.kill()
        broker.call_later(REAP_POLL_S, look)

    look()
