"""The workflows that are running, as they were started: kept in the store, and here as long as they are in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

from kaasq import codec
from kaasq.errors import BadRequest, NameNotFound, WorkerFailed
from kaasq.flows.edges import Edges, dependencies
from kaasq.flows.model import FlowStart
from kaasq_storage import BufferStore

KEPT = 64
KEPT_BYTES = 128 << 20  # as they lie in the store


class Definition(NamedTuple):
    """What a workflow was started with, checked then, and its edges."""

    start: FlowStart
    edges: Edges
    nbytes: int


class Definitions:
    """Read from the store, the last few kept. For any thread."""

    def __init__(self, store: BufferStore) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str], Definition] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def of(self, tenant: str, ref: str) -> Definition:
        """Raises WorkerFailed if it is gone, or cannot be read; what the store raises."""
        with self._lock:
            found = self._kept.get((tenant, ref))
            if found is not None:
                self._kept.move_to_end((tenant, ref))
                return found
        try:
            with self._store.open(tenant, ref) as reading:
                body = bytes(reading.data)
        except NameNotFound:
            raise WorkerFailed(f"the workflow's definition, object {ref}, is gone from the store") from None
        try:
            start = codec.decode(body, codec.MSGPACK, FlowStart)
        except BadRequest as error:  # a later version's, or broken
            raise WorkerFailed(f"the workflow's definition, object {ref}, cannot be read: {error.message}") from None
        return self.keep(tenant, ref, start, len(body))

    def keep(self, tenant: str, ref: str, start: FlowStart, nbytes: int) -> Definition:
        """Have it at hand."""
        made = Definition(start, dependencies(start.workflow), nbytes)
        with self._lock:
            if (tenant, ref) not in self._kept:
                self._nbytes += nbytes
                self._kept[tenant, ref] = made
            while len(self._kept) > KEPT or (self._nbytes > KEPT_BYTES and len(self._kept) > 1):
                _, forgotten = self._kept.popitem(last=False)
                self._nbytes -= forgotten.nbytes
        return made
