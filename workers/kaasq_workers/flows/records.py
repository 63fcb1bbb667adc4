"""How a workflow stands, as it is kept beside its id in the store: one head, a record per step, one per item."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Protocol

import msgspec

from kaasq.flows.model import State
from kaasq.messages import ErrorBody
from kaasq_storage import BufferStore

_HEAD = b"h"
_STEP = struct.Struct(">cH")
_ITEM = struct.Struct(">cHI")


class Waiter(msgspec.Struct, frozen=True, array_like=True):
    """Who is to be told how the workflow ended: the id that was asked under, and where its reply goes."""

    id: str
    correlation_id: str
    exchange: str
    routing_key: str
    content_type: str


class Head(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Of the workflow as a whole. ``definition`` is the stored object that it began with, whose start said ``digest``.

    ``number`` is the last one that a due step got. ``open``: of its ``steps`` those that have not ended.
    ``concluding``: the number under which it is to be concluded, since ``cause`` ended. ``counts``: items of maps, as
    far as they are known. ``looked``: how often something was published again; ``tries``: to conclude it, that failed.
    ``kept_ms``: until when all that it needs is in the store at least.
    """

    name: str
    definition: str
    digest: str
    started_ms: int
    state: State = "running"
    number: int = 0
    open: int = 0
    concluding: int = 0
    cause: int = 0
    deadline_ms: int | None = None
    ended_ms: int | None = None
    error: ErrorBody | None = None
    counts: dict[str, int] = {}
    waiting: tuple[Waiter, ...] = ()
    remind_ms: int = 0
    looked: int = 0
    tries: int = 0
    steps: int = 0
    kept_ms: int = 0


class StepRecord(msgspec.Struct, omit_defaults=True):
    """Of a step. Item i of a map has the number ``first`` + i, unless it has a record that says another.
    ``runs``: of its graph, for items that have completed, if it is a loop.

    ``items`` None: it is not known how many. ``cause``: the number whose end made it due.
    """

    state: State = "waiting"
    items: int | None = None
    first: int = 0
    cause: int = 0
    completed: int = 0
    failed: int = 0
    skipped: int = 0
    since_ms: int | None = None
    ended_ms: int | None = None
    error: ErrorBody | None = None
    runs: int = 0

    @property
    def ended(self) -> int:
        """Items that have ended."""
        return self.completed + self.failed + self.skipped


class ItemRecord(msgspec.Struct, omit_defaults=True):
    """Of an item. ``number`` 0: it never was due. ``due_ms``: not to be published before."""

    number: int = 0
    attempt: int = 1
    state: State = "running"
    cause: int = 0
    since_ms: int | None = None
    due_ms: int | None = None
    ended_ms: int | None = None
    error: ErrorBody | None = None


class Table(Protocol):
    """Where records are kept: the notes of a transaction, or those that were read."""

    def get(self, key: bytes) -> bytes | None:
        """The record under that key."""

    def put(self, key: bytes, value: bytes) -> None:
        """Put a record in place of the one that there is."""


class Pages(dict[bytes, bytes]):
    """Records that were read all at once, as a table."""

    def put(self, key: bytes, value: bytes) -> None:
        """Here only: what was read is not changed by it."""
        self[key] = value


class Looked:
    """Records of a workflow that are read from the store one by one, when they are needed."""

    def __init__(self, store: BufferStore, tenant: str, flow: str) -> None:
        self._store, self._tenant, self._flow = store, tenant, flow

    def get(self, key: bytes) -> bytes | None:
        """The record under that key, as it is now."""
        return self._store.note(self._tenant, self._flow, key)

    def put(self, key: bytes, value: bytes) -> None:
        """What is only looked at is not written."""
        raise NotImplementedError


_pack = msgspec.msgpack.Encoder().encode
_head = msgspec.msgpack.Decoder(Head).decode
_step = msgspec.msgpack.Decoder(StepRecord).decode
_item = msgspec.msgpack.Decoder(ItemRecord).decode


class Book:
    """The records of one workflow, decoded. What is changed is written by ``save``."""

    def __init__(self, table: Table) -> None:
        self._table = table
        raw = table.get(_HEAD)
        self.known = raw is not None
        self.head = Head(name="", definition="", digest="", started_ms=0) if raw is None else _head(raw)
        self._steps: dict[int, StepRecord] = {}
        self._items: dict[tuple[int, int], ItemRecord] = {}
        self._changed: set[tuple[int, int]] = set()

    def step(self, step: int) -> StepRecord:
        """The record of a step."""
        found = self._steps.get(step)
        if found is None:
            raw = self._table.get(_STEP.pack(b"s", step))
            found = self._steps[step] = StepRecord() if raw is None else _step(raw)
        return found

    def item(self, step: int, item: int) -> ItemRecord:
        """The record of an item of a step; what it is to begin with, if nothing else is known."""
        found = self._items.get((step, item))
        if found is None:
            raw = self._table.get(_ITEM.pack(b"i", step, item))
            found = self.fresh(step, item) if raw is None else _item(raw)
            self._items[step, item] = found
        return found

    def fresh(self, step: int, item: int) -> ItemRecord:
        """An item of which there is no record."""
        of = self.step(step)
        number = of.first + item if of.first else 0
        return ItemRecord(number=number, cause=of.cause, since_ms=of.since_ms)

    def change(self, step: int, item: int) -> ItemRecord:
        """The record of an item, to be changed."""
        self._changed.add((step, item))
        return self.item(step, item)

    def items(self, step: int) -> Iterator[tuple[int, ItemRecord]]:
        """All items of a step, as far as their number is known."""
        for item in range(self.step(step).items or 0):
            yield item, self.item(step, item)

    def save(self) -> None:
        """Write what has changed."""
        self._write(_HEAD, _pack(self.head))
        for step, record in self._steps.items():
            self._write(_STEP.pack(b"s", step), _pack(record))
        for step, item in self._changed:
            self._write(_ITEM.pack(b"i", step, item), _pack(self._items[step, item]))
        self._changed.clear()

    def _write(self, key: bytes, value: bytes) -> None:
        if self._table.get(key) != value:
            self._table.put(key, value)
