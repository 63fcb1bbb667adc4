"""Compiled code on disk, shared by the processes of one user: keyed by hash, bounded in bytes, oldest use out first."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from kaasq.errors import BadRequest

CACHE_BYTES = 512 << 20
LEFTOVER_S = 3600
_DIGEST_BYTES = 32
_STRIPES = 64


class CodeCache:
    """Shared libraries by key. A key's contents never change, so a file needs no lock to be read."""

    def __init__(self, folder: Path, capacity: int = CACHE_BYTES) -> None:
        self.folder = folder
        self.capacity = capacity
        self.work = folder / "work"
        for each in (folder, self.work, folder / "locks"):
            _private_folder(each)
        self._sweep()

    def get(self, key: str) -> bytes | None:
        """The library stored under the key, or None. A damaged file counts as none, and goes."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        library, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if blake3(library).digest() != digest:  # a crash can leave a file that was named but not written
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # evicted meanwhile: what was read is good
            os.utime(path)
        return library

    def put(self, key: str, library: bytes) -> None:
        """Store a library. Another process may do the same at the same time."""
        with tempfile.NamedTemporaryFile(dir=self.work, delete=False) as file:
            file.write(library + blake3(library).digest())
        Path(file.name).replace(self._path(key))
        self._evict(keep=key)

    @contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Held by one process or thread at a time for a key, so that the others find what it built. Do not nest it."""
        stripe = int(key[:8], 16) % _STRIPES
        with (self.folder / "locks" / str(stripe)).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.so"

    def _evict(self, keep: str) -> None:
        entries = []
        for path in self.folder.glob("*.so"):
            with suppress(FileNotFoundError):
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.capacity:
                return
            if path.stem != keep:
                path.unlink(missing_ok=True)
                total -= size

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self.work.iterdir():
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime < LEFTOVER_S:
                    continue
                if path.is_dir():
                    for each in sorted(path.rglob("*"), reverse=True):
                        each.rmdir() if each.is_dir() and not each.is_symlink() else each.unlink()
                    path.rmdir()
                else:
                    path.unlink()


def _private_folder(path: Path) -> None:
    """Create it for this user alone. Raises BadRequest where others could put code into it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise BadRequest(f"the folder for compiled code cannot be used: {error}", at="cache_dir") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise BadRequest(
            f"{path} must be a folder that only this user can write to, since the code in it is run: "
            f"chown it and chmod 700, or name another",
            at="cache_dir",
        )
