"""``kaasq.local``: broker, store, worker and client in this process. The composition root, above all layers."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings, load_settings
from kaasq_producers import Client
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
    the buffer store lies in a temporary folder that is deleted at the end.

    A kernel that crashes takes this process with it, and one that never ends cannot be stopped: the client's next
    requests wait behind it. ``isolate`` runs the kernels in a process of their own, as ``kaasq worker`` does: it may
    crash and is stopped at a request's timeout, but takes a moment more to start. Raises KaasqError if the device
    cannot be used.
    """
    flags: dict[str, Any] = {"device": device, "pool": POOL}
    with ExitStack() as cleanup:
        if store is None:
            folder = Path(tempfile.mkdtemp(prefix="kaasq-"))
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
            flags |= {"store": str(folder / "store"), "store_sync": False}
        else:
            flags["store"] = str(store)
        settings = msgspec.structs.replace(settings, **flags) if settings is not None else load_settings(flags)
        node = MemoryNode()
        worker = Worker(settings, broker=MemoryBroker(node, TENANT), in_process=not isolate)
        worker.start()
        return _LocalClient(MemoryBroker(node, TENANT), settings, worker, cleanup.pop_all())


class _LocalClient(Client):
    """A client that the rest of the system ends with."""

    def __init__(self, broker: MemoryBroker, settings: Settings, worker: Worker, cleanup: ExitStack) -> None:
        super().__init__(broker, settings=settings)
        self._worker = worker
        self._cleanup = cleanup
        self._made_in = os.getpid()
        # Later than that, threads are frozen where they are, and waiting for them takes every timeout there is.
        atexit.register(self._end, 0.0)

    def close(self) -> None:
        self._end(STOP_TIMEOUT_S)

    def _end(self, drain_s: float) -> None:
        with ExitStack() as rest:
            if os.getpid() == self._made_in:  # else a forked child: worker and folder are the parent's
                atexit.unregister(self._end)
                rest.enter_context(self._cleanup)
                rest.callback(self._worker.stop, drain_s)
            super().close()
