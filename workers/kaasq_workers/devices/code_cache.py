"""Compiled code on disk, bytes by key: shared by the processes of one user, bounded, least recently used out first.

Losing it costs time only: a full disk or a damaged file means compiling again. But its code is run, so a folder that
others could write to is refused. Left out on purpose: asking whether a key is there, which another process may change.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from kaasq.errors import BadRequest
from kaasq.log import get_logger

log = get_logger()

CACHE_BYTES = 512 << 20
LEFTOVER_S = 3600  # longer than any compilation
_SUFFIX = ".code"
_DIGEST_BYTES = 32
_STRIPES = 64


def code_key(*parts: str | bytes) -> str:
    """The hash of all that code is compiled from; the parts are kept apart from each other."""
    hasher = blake3()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


class CodeCache:
    """A folder of compiled code. What a key stands for never changes, so reading takes no lock.

    ``work`` is for drafts and compilers: private like the rest, on the same disk, and swept. Raises BadRequest for a
    folder that cannot be used or that others can write to.
    """

    def __init__(self, folder: Path, capacity: int = CACHE_BYTES) -> None:
        self.folder = folder
        self.capacity = capacity
        self.work = folder / "work"
        self._locks = folder / "locks"
        for each in (folder, self.work, self._locks):
            _private_folder(each)
        self._sweep()

    def get(self, key: str) -> bytes | None:
        """What was put under the key, or None. A damaged file counts as none, and goes."""
        path = self._path(key)
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        digest, code = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        whole = blake3(code).digest() == digest
        with suppress(OSError):  # evicted meanwhile: what was read is good
            if whole:
                _used_now(path)
            else:  # named but not written when the power went
                log.warning("code_cache.damaged", path=str(path))
                path.unlink()
        return code if whole else None

    def put(self, key: str, code: bytes) -> None:
        """Store it, whole or not at all. Another process may do the same at the same time."""
        draft = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.work, delete=False) as file:
                draft = Path(file.name)
                file.write(blake3(code).digest() + code)
            _used_now(draft)
            draft.replace(self._path(key))
            self._evict()
        except OSError as error:
            log.warning("code_cache.not_written", folder=str(self.folder), reason=str(error))
            if draft is not None:
                draft.unlink(missing_ok=True)

    def get_or_make(self, key: str, make: Callable[[], bytes]) -> bytes:
        """What is stored under the key, else what ``make`` compiles: once, while others who want it wait.

        ``make`` must not come back here: keys share locks.
        """
        code = self.get(key)
        if code is not None:
            return code
        with self._locked(key):
            code = self.get(key)
            if code is None:
                code = make()
                self.put(key, code)
        return code

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        with ExitStack() as stack:
            with suppress(OSError):  # no lock to be had: two may compile the same
                file = stack.enter_context((self._locks / str(int(key[:8], 16) % _STRIPES)).open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _evict(self) -> None:
        entries = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # another process evicts too
                status = path.stat()
                entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.capacity:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self.work.iterdir():
            with suppress(OSError):
                if time.time() - path.lstat().st_mtime > LEFTOVER_S:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _used_now(path: Path) -> None:
    """In nanoseconds: the kernel's own idea of now is some milliseconds coarse, and the order of uses counts."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


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
