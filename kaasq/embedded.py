"""``kaasq.local``: broker, store, worker and client in this process. The composition root, above all layers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kaasq.settings import Settings, load_settings

if TYPE_CHECKING:
    from kaasq_producers import Client

TENANT = "local"
POOL = "local"
STOP_TIMEOUT_S = 10.0


@contextmanager
def local(
    device: str = "auto", *, store: str | Path | None = None, settings: Settings | None = None
) -> Iterator[Client]:
    """A client of a worker in this process, over an in-memory broker: nothing to install, nothing to start.

    ``device`` is ``cpu``, ``cuda:0`` or ``auto`` (a GPU if there is one). Without ``store`` the buffer store lies in a
    temporary folder that is deleted at the end. A kernel that crashes takes this process with it: a worker of its own
    (``kaasq worker``) is what protects from that. Raises KaasqError if the device cannot be used.
    """
    # Here, so that `import kaasq` loads no worker.
    from kaasq.memory import MemoryBroker, MemoryNode
    from kaasq_producers import Client
    from kaasq_workers.worker import Worker

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
        worker = Worker(settings, broker=MemoryBroker(node, TENANT), in_process=True)
        worker.start()
        cleanup.callback(worker.stop, STOP_TIMEOUT_S)
        yield cleanup.enter_context(Client(MemoryBroker(node, TENANT), settings=settings))
