"""Bytes on their way into the store: small ones in memory, large ones in a file of the staging folder."""

from __future__ import annotations

import weakref
from typing import Final

import numpy as np
from blake3 import blake3

from kaasq.errors import BadRequest
from kaasq_storage.environment import Environment
from kaasq_storage.mapping import Bytes
from kaasq_storage.records import object_key
from kaasq_storage.staging import StagingFile

MAPPED_BYTES: Final = 32 << 20
"""From this size on a file of small pages is mapped for writing; below, filling memory and writing it out is faster."""
_THREADED_BYTES: Final = 4 << 20


class StagedData:
    """A Staged of either kind. Call ``seal`` before the transaction: it hashes, writes and syncs."""

    def __init__(
        self, store: Environment, tenant: str, nbytes: int, given: Bytes | None = None, *, file: bool = True
    ) -> None:
        self.file: StagingFile | None = None
        self._store = store
        self.tenant = tenant
        self.nbytes = nbytes
        self._ref: str | None = None
        self._written = False
        self._given = given is not None
        if file and nbytes > store.inline_bytes:
            self.file = StagingFile(store.staging, nbytes, tenant, store.spares, memory=store.memory)
        self._mapped = self.file is not None and not self._given and (self.file.huge or nbytes >= MAPPED_BYTES)
        if given is not None:
            self.contents = given
        elif self.file is not None and self._mapped:
            self.contents = self.file.map()
        else:
            self.contents = np.empty(nbytes, np.uint8)
        writable = self.contents.view()
        self._exporter = weakref.ref(writable)  # see kaasq_storage.reading: outlives the view if anything uses it
        self.data = writable.data

    def seal(self, ref: str | None = None) -> str:
        """No more writing; the content hash. Idempotent.

        Raises BufferError while an array made from ``data`` is alive: it could change what the hash stands for.
        """
        if self._ref is not None:
            return self._ref
        self._release()
        self._ref = ref or hash_of(self.contents)
        self.data = self.contents.data.toreadonly()
        if self.file is not None and not self._store.has(object_key(self.tenant, self._ref)):
            self.write_out()
        return self._ref

    def write_out(self) -> None:
        """Bring the bytes to the file, to survive a power cut if the store promises that. Idempotent."""
        if self.file is None or self._written:
            return
        with self._store.faults(self.nbytes):
            if not self._mapped:
                self.file.write(self.contents)
            if self._store.sync:
                self.file.sync()
        self._written = True

    def discard(self, *, reuse: bool = True) -> None:
        """Give the space back, at once or to be used again. Does nothing once published."""
        if self.file is not None:
            self.file.close(reuse=reuse)
            self.file = None

    def __del__(self) -> None:
        if not self._store.forked:  # a child's copy is not the owner of the file
            self.discard()

    def _release(self) -> None:
        if self._given:
            return
        try:
            self.data.release()
        except BufferError:
            pass
        if self._exporter() is not None:
            raise BufferError("something still refers to the staged data (an array made from it?): drop it first")


def hash_of(data: Bytes) -> str:
    """kaasq.model.content_hash, by all cores where that pays."""
    return blake3(data.data, max_threads=blake3.AUTO if data.nbytes >= _THREADED_BYTES else 1).hexdigest()


def as_bytes(data: bytes | bytearray | memoryview) -> Bytes:
    """Any contiguous buffer as plain bytes, without a copy. Raises BadRequest."""
    view = memoryview(data)
    if not view.nbytes:
        raise BadRequest("an object has at least one byte")
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return np.frombuffer(view, np.uint8)
