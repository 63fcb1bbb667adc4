"""Files in shared memory that held an object, kept for a while to hold the tenant's next ones.

To find and to zero the pages of a new file of 256 MiB takes longer than to fill it; those of a file that was filled
before are there. It goes to nobody but the tenant whose it was, and only once nobody reads what it held: whoever maps
an object's file holds a shared lock on it, and then looks whether the file is still where the object was; whoever uses
one again needs its exclusive lock.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from pathlib import Path
from typing import Final

FROM_BYTES: Final = 4 << 20
"""Smaller files are as fast to make anew."""
KEPT_S: Final = 120.0
"""How long one is kept that nobody wants."""
MOST_FILES: Final = 32


class Spares:
    """The folder of them, shared by all processes that use the store; ``most_bytes`` together, 0 for none."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes

    def keep(self, path: Path, tenant: str, nbytes: int) -> bool:
        """Take a file that is no object any more; False if it is of no use, and to be removed.

        Others go for it: those that somebody still reads, which could hold up all room for a minute, then the oldest.
        """
        if not FROM_BYTES <= nbytes <= self._most_bytes:
            return False
        kept = self._listed()
        total, count = sum(size for size, _, _ in kept), len(kept)
        if total + nbytes > self._most_bytes or count >= MOST_FILES:
            for size, _, each in sorted(kept, key=lambda each: (not _is_read(each[2]), each[1])):
                if total + nbytes <= self._most_bytes and count < MOST_FILES:
                    break
                each.unlink(missing_ok=True)
                total, count = total - size, count - 1
        try:
            path.rename(self._folder / f"{tenant}.{secrets.token_hex(8)}")
        except OSError:
            return False
        return True

    def take(self, tenant: str, nbytes: int, target: Path) -> int | None:
        """Move one of about that size to the target, if there is one: its descriptor, which has the exclusive lock.

        It still holds what it held.
        """
        if not FROM_BYTES <= nbytes <= 2 * self._most_bytes:
            return None
        fitting = [(size, each) for size, _, each in self._listed(tenant) if nbytes // 2 <= size <= 2 * nbytes]
        # One that is large enough, as tightly as may be; else the largest, which is to grow.
        for _, path in sorted(fitting, key=lambda each: (each[0] < nbytes, abs(each[0] - nbytes))):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # another one took it, or it is another user's
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.stat().st_ino == os.fstat(fd).st_ino:
                    path.rename(target)
                    return fd
            except OSError:
                pass  # somebody reads it, or another one was faster
            os.close(fd)
        return None

    def drop(self, unused_s: float = 0.0) -> int:
        """Remove those that nobody has wanted for so long; their bytes."""
        dropped, before = 0, time.time() - unused_s
        for size, since, path in self._listed():
            if since <= before:
                path.unlink(missing_ok=True)
                dropped += size
        return dropped

    def _listed(self, tenant: str | None = None) -> list[tuple[int, float, Path]]:
        """Sizes, since when, and paths."""
        found: list[tuple[int, float, Path]] = []
        for entry in os.scandir(self._folder):
            if tenant is None or entry.name.partition(".")[0] == tenant:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                found.append((status.st_size, status.st_ctime, Path(entry.path)))
        return found


def _is_read(path: Path) -> bool:
    """Whether it cannot be used again yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
