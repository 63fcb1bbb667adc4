"""Starts executors, each with its share of the memory, and keeps a process ready to become the next one.

What takes long at the start of a process is what it loads, not the device; so a spare that has loaded everything, and
waits before it touches the device, saves most of it and holds nothing of the device.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

import msgspec

from kaasq.log import followed, get_logger
from kaasq.settings import Settings
from kaasq_workers.front.handles import Handle, ProcessHandle, ThreadHandle
from kaasq_workers.link import Hello, Orders
from kaasq_workers.vitals import Vitals

SPARE_DELAY_S = (
    0.5  # after an executor is up, so that the next spare does not take the processor from its first requests
)

log = get_logger()

Later = Callable[[float, Callable[[], None]], object]


class Starter(Protocol):
    """Where supervisors have their executors from."""

    def start(self) -> Handle:
        """A new executor. Raises OSError: no process or memory to be had just now."""

    def started(self, hello: Hello) -> None:
        """One of them is up."""

    def close(self) -> None:
        """No more will be started."""


class ThreadStarter:
    """Executors that are threads of this process (kaasq.local)."""

    def __init__(self, settings: Settings, serve: Callable[[socket.socket, Vitals, Orders], object]) -> None:
        self._orders = Orders(settings)
        self._serve = serve

    def start(self) -> Handle:
        """See Starter."""
        return ThreadHandle(self._orders, self._serve)

    def started(self, hello: Hello) -> None:
        """See Starter."""

    def close(self) -> None:
        """See Starter."""


class ProcessStarter:
    """Executors that are processes. ``sharing``: so many at once, so each gets that part of the memory.

    Used on one thread, which has to live as long as they do: the kernel ends them with it. ``later`` is how to be
    called back on it.
    """

    def __init__(self, settings: Settings, later: Later, *, sharing: int = 1) -> None:
        # An executor has no business with the broker: its password stays here.
        self._orders = Orders(msgspec.structs.replace(settings, broker_url=""), sharing)
        self._spare_kind = settings.spare
        self._spare: ProcessHandle | None = None
        self._preparing = False
        self._later = later
        self._closed = False

    def start(self) -> Handle:
        """See Starter. The spare, if there is one."""
        handle, self._spare = self._spare, None
        if handle is not None and handle.wait(0.0) is not None:  # it has ended meanwhile
            log.warning("spare.died", how=handle.wait(0.0))
            handle.link.dispose()
            handle = None
        if handle is None:
            handle = ProcessHandle(self._orders.settings.device)
            handle.begin(self._as_logged())
        elif self._spare_kind == "imported":
            handle.begin(self._as_logged())
        return handle

    def started(self, hello: Hello) -> None:
        """See Starter. What the first one found is there is what all later ones share.

        They would find less, with others already there.
        """
        settings, sharing = self._orders.settings, self._orders.sharing
        memory = hello.device_memory * sharing
        self._orders = Orders(msgspec.structs.replace(settings, device_memory=memory), sharing)
        if self._spare_kind != "none" and not self._preparing:
            self._preparing = True
            self._later(SPARE_DELAY_S, self._prepare)

    def close(self) -> None:
        """See Starter."""
        self._closed = True
        if self._spare is not None:
            self._spare.kill()
            self._spare.wait(1.0)
            self._spare.link.dispose()
            self._spare = None

    def _prepare(self) -> None:
        self._preparing = False
        if self._closed or self._spare is not None:
            return
        try:
            self._spare = ProcessHandle(self._orders.settings.device)
        except OSError as error:
            log.warning("spare.not_started", error=str(error))
            return
        if self._spare_kind == "opened":
            self._spare.begin(self._as_logged())

    def _as_logged(self) -> Orders:
        """With the log of this program, which may be anybody's (``kaasq.local``), whatever the settings say."""
        level, style = followed()
        settings = msgspec.structs.replace(self._orders.settings, log_level=level, log_format=style)
        return msgspec.structs.replace(self._orders, settings=settings)
