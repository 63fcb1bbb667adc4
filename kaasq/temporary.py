"""Temporary folders of ``kaasq.local``: they go with their process, or with the start of the next if that was killed.

Whoever has one holds a lock on it, which ends with the process, however that ends. (systemd-tmpfiles, too, leaves what
is locked alone, however old it is.)
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

_PREFIX = "kaasq-local-"
_OURS = re.compile(rf"{_PREFIX}[a-z0-9_]{{8}}")
"""As ``mkdtemp`` makes them."""
STORE = "store"
"""All that is in one."""


class TemporaryFolder:
    """A new one. What killed processes left is deleted meanwhile.

    Nothing but ``delete`` deletes it: in a forked child, all ends while it is still the parent's.
    """

    def __init__(self) -> None:
        self.path, self._fd = _make()
        # On a thread that nobody awaits: gigabytes may take a while, and no start is to wait for that.
        threading.Thread(target=remove_left, args=(self.path.parent,), name="kaasq-temporary", daemon=True).start()

    def delete(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)  # not before: it is ours until it is gone


def remove_left(place: Path, *, user: int | None = None) -> None:
    """Delete the folders in ``place`` whose processes are gone: none of another ``user`` (else this process's), none
    that has anything else in it, nothing behind a symbolic link. What cannot be deleted stays, without a word.
    """
    uid = os.geteuid() if user is None else user
    with suppress(OSError), os.scandir(place) as entries:
        for each in entries:
            if _OURS.fullmatch(each.name):
                with suppress(OSError):
                    _remove(Path(each.path), uid)


def _make() -> tuple[Path, int | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            fd = _open(path)
        except FileNotFoundError:
            continue  # taken for one that was left, before there was a lock on it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: then no name that would be looked at
            os.close(fd)
            path.rmdir()
            return Path(tempfile.mkdtemp(prefix="kaasq-")), None
        if _is_at(fd, path):
            return path, fd
        os.close(fd)


def _remove(path: Path, uid: int) -> None:
    fd = _open(path)
    try:
        found = os.fstat(fd)
        if found.st_uid != uid or stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
            return
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.scandir(fd) as inside:
            ours = {each.name for each in inside} <= {STORE}
        if not ours or not _is_at(fd, path):
            return
        shutil.rmtree(STORE, ignore_errors=True, dir_fd=fd)  # in the folder that was looked at, whatever is there now
        path.rmdir()
    finally:
        os.close(fd)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False
