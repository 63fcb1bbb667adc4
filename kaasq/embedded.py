"""``kaasq.local``, ``kaasq.local_async``: broker, store, worker and client in this process.

The composition root, above all layers.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings, changed
from kaasq.temporary import STORE, TemporaryFolder
from kaasq_producers import AsyncClient, Client
from kaasq_workers.worker import Worker

TENANT = "local"
POOL = "local"
STOP_TIMEOUT_S = 10.0


def local(
    device: str = "auto",
    *,
    store: str | Path | None = None,
    isolate: bool = False,
    settings: Settings | None = None,
) -> Client:
    """A client of a worker in this process, over an in-memory broker: nothing to install, nothing to start.

    Closing the client (``close()``, or the end of its ``with`` block) stops the worker too; what is left open is closed
    when the interpreter ends. ``device`` is ``cpu``, ``cuda:0`` or ``auto`` (a GPU if there is one). Without ``store``
    the buffer store lies in a temporary folder that is deleted at the end; if the process is killed, when another one
    starts.

    A kernel that crashes takes this process with it, and one that never ends cannot be stopped: the client's next
    requests wait behind it. ``isolate`` runs the kernels in a process of their own, as ``kaasq worker`` does: it may
    crash and is stopped at a request's timeout, but takes a moment more to start. Raises KaasqError if the device
    cannot be used.
    """
    return _LocalClient(_System(device, store, isolate, settings))


@asynccontextmanager
async def local_async(
    device: str = "auto",
    *,
    store: str | Path | None = None,
    isolate: bool = False,
    settings: Settings | None = None,
    fetch: bool = True,
) -> AsyncIterator[AsyncClient]:
    """The same for an event loop: ``async with kaasq.local_async(device="cpu") as client:`` gives an AsyncClient.

    The worker is started and stopped on a thread. ``fetch`` is AsyncClient's.
    """
    starting = asyncio.ensure_future(asyncio.to_thread(_System, device, store, isolate, settings))
    try:
        system = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be stopped, and what it starts has to be ended.
        await asyncio.wait([starting])
        if starting.exception() is None:
            await asyncio.to_thread(starting.result().end)
        raise
    try:
        async with AsyncClient(system.broker(), settings=system.settings, fetch=fetch) as client:
            yield client
    finally:
        await asyncio.shield(asyncio.to_thread(system.end))


class _System:
    """Broker, store and worker, started. Ended at the latest when the interpreter ends."""

    def __init__(self, device: str, store: str | Path | None, isolate: bool, settings: Settings | None) -> None:
        flags: dict[str, Any] = {"device": device, "pool": POOL}
        with ExitStack() as cleanup:
            if store is None:
                folder = TemporaryFolder()
                cleanup.callback(folder.delete)
                flags |= {"store": str(folder.path / STORE), "store_sync": False}
            else:
                flags["store"] = str(store)
            self.settings = changed(settings, flags)
            self._node = MemoryNode()
            self._worker = Worker(self.settings, broker=self.broker(), in_process=not isolate)
            self._worker.start()
            self._cleanup = cleanup.pop_all()
        self._made_in = os.getpid()
        # Later than that, threads are frozen where they are, and waiting for them takes every timeout there is.
        atexit.register(self.end, 0.0)

    def broker(self) -> MemoryBroker:
        """A connection for another program of this process."""
        return MemoryBroker(self._node, TENANT)

    def end(self, drain_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the worker, delete what is temporary. Idempotent; nothing in a forked child, it is all the parent's."""
        if os.getpid() == self._made_in:
            atexit.unregister(self.end)
            with self._cleanup:
                self._worker.stop(drain_s)


class _LocalClient(Client):
    """A client that the rest of the system ends with."""

    def __init__(self, system: _System) -> None:
        super().__init__(system.broker(), settings=system.settings)
        self._system = system
        atexit.register(self._end, 0.0)  # before the system's own end, since it is registered after that

    def close(self) -> None:
        self._end(STOP_TIMEOUT_S)

    def _end(self, drain_s: float) -> None:
        atexit.unregister(self._end)
        try:
            super().close()
        finally:
            self._system.end(drain_s)
