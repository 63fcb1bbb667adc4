"""Locks beside a store that tell the workers apart who share it. The kernel lets go of one when its process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kaasq_storage.errors import Faults
from kaasq_storage.identity import make_folder

FOLDER = "slots"


class SlotLock:
    """A lock that is held. It ends with ``release`` or with the process, however that ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        """Idempotent. The file stays: who waits to remove it could remove the next one's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def lock_slot(store: Path, name: str) -> SlotLock | None:
    """The lock of that name, or None while somebody else holds it. ``name`` is that of a file.

    Raises StoreUnavailable, StoreFull.
    """
    with Faults(store):
        path = store.expanduser().resolve()
        make_folder(path)
        folder = path / FOLDER
        folder.mkdir(exist_ok=True)
        # For reading: the file may be that of another user who served the slot before.
        fd = os.open(folder / name, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        return SlotLock(fd)
