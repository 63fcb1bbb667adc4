"""Compiled code on disk, by hash of everything that it was compiled from. Losing it costs time only."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from blake3 import blake3

from kaasq.log import get_logger

log = get_logger()

LIMIT_BYTES = 256 << 20
_KEPT_WHEN_TRIMMED = 0.8  # so that a full cache is not trimmed at every put
_SUFFIX = ".code"
_DIGEST_BYTES = 32


class Compiled(msgspec.Struct, frozen=True):
    """Machine code, and the symbol in it of each kernel that was asked for."""

    code: bytes
    symbols: dict[str, str]


class CodeCache:
    """A folder of compiled modules, bounded in bytes, least recently used dropped first.

    Several processes may share it: entries appear whole (renamed into place) or not at all. Its code runs on the
    device, so the folder must be ours alone. ``folder`` None: nothing is kept.
    """

    def __init__(self, folder: Path | None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._folder: Path | None = None
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid != os.geteuid():
                log.warning("code_cache.not_ours", folder=str(folder))
                return
            folder.chmod(0o700)
        except OSError as error:
            log.warning("code_cache.unusable", folder=str(folder), reason=str(error))
            return
        self._folder = folder

    @property
    def folder(self) -> Path | None:
        """Where it lies; None if nothing is kept."""
        return self._folder

    @staticmethod
    def key(*parts: str | bytes) -> str:
        """The hash of the parts, kept apart from each other."""
        hasher = blake3()
        for part in parts:
            data = part.encode() if isinstance(part, str) else part
            hasher.update(len(data).to_bytes(8, "little"))
            hasher.update(data)
        return hasher.hexdigest()

    def get(self, key: str) -> Compiled | None:
        """What was put under that key, unless it was dropped or damaged."""
        if self._folder is None:
            return None
        path = self._folder / (key + _SUFFIX)
        try:
            data = path.read_bytes()
            os.utime(path)  # used just now
        except OSError:
            return None
        digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if blake3(body).digest() != digest:  # half written when the power went
            log.warning("code_cache.damaged", path=str(path))
            path.unlink(missing_ok=True)
            return None
        try:
            return msgspec.msgpack.decode(body, type=Compiled)
        except msgspec.DecodeError:
            return None

    def put(self, key: str, compiled: Compiled) -> None:
        """Keep it; a full or read-only disk is no error."""
        if self._folder is None:
            return
        body = msgspec.msgpack.encode(compiled)
        draft = self._folder / f".{key}.{os.getpid()}"
        try:
            draft.write_bytes(blake3(body).digest() + body)
            draft.replace(self._folder / (key + _SUFFIX))
            self._trim()
        except OSError as error:
            log.warning("code_cache.not_written", folder=str(self._folder), reason=str(error))
            draft.unlink(missing_ok=True)

    def _trim(self) -> None:
        assert self._folder is not None
        entries = []
        for path in self._folder.glob("*" + _SUFFIX):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process trims too
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= self._limit_bytes:
            return
        for _, size, path in sorted(entries):
            path.unlink(missing_ok=True)
            total -= size
            if total <= self._limit_bytes * _KEPT_WHEN_TRIMMED:
                return
