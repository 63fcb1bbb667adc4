"""A loop in one request: its graph run again on its own outputs, until a condition holds or it was run often enough.

The loop is one request: it has one outcome, and a worker that dies begins it again. What goes round stays on the
device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

import msgspec

from kaasq.continuations import holds
from kaasq.dtypes import itemsize, unpack_number
from kaasq.messages import CacheUse, Repeat, Repeated, Request, Timings
from kaasq.model import Buffer, GraphSpec
from kaasq_storage import BufferStore
from kaasq_workers.executor.bringing import bring
from kaasq_workers.executor.flight import Executed
from kaasq_workers.executor.resident import Resident, Taken

EVERYTHING = 1 << 62
SMALL_BYTES = 4 << 10  # which are copied as the request is queued, instead of being asked for when it has run


class Loop:
    """Where one request's loop stands. All of its runs leave their outputs on the device, the last one's are placed."""

    def __init__(self, request: Request, repeat: Repeat, let_go: Callable[[Resident], None]) -> None:
        """``let_go`` is told of what is not needed there any more."""
        assert isinstance(request.graph, GraphSpec)
        self._graph = request.graph
        self._repeat = repeat
        self.request = msgspec.structs.replace(request, keep={})
        """The next run, which keeps nothing."""
        self.resident: dict[str, Taken] = {}
        """What goes round, and is given to it."""
        self._let_go = let_go
        self._held: Mapping[str, Resident] = {}
        self._runs = 0
        self._timings = Timings()
        self._cache = CacheUse()
        again = {source.output for source in repeat.bind.values()}
        until = self._output(repeat.until.output)
        decides_alone = until.name not in again and until.nbytes <= SMALL_BYTES
        self.hold: AbstractSet[str] = {each.name for each in self._graph.buffers if each.returned} - (
            {until.name} if decides_alone else set()
        )
        """The outputs that a run leaves on the device: all but a small one that is there for the condition alone."""

    def begun(self) -> None:
        """The next run has what it takes; nobody needs the rest."""
        taken = [each.resident for each in self.resident.values()]
        for each in self._held.values():
            if each not in taken:
                self._let_go(each)
        self._held = {}

    def ran(self, executed: Executed) -> Repeated | None:
        """Take what a run gave. None: there is to be another one. Raises KernelFailed."""
        self._runs += 1
        self._held = executed.held
        self._timings = _added(self._timings, executed.timings)
        self._cache = CacheUse(
            hits=self._cache.hits + executed.cache.hits, misses=self._cache.misses + executed.cache.misses
        )
        until = self._repeat.until
        dtype = self._output(until.output).dtype
        assert dtype is not None
        number = bytearray(itemsize(dtype))
        start = (until.index or 0) * len(number)
        if until.output in self._held:
            self._held[until.output].read(start, memoryview(number))
        else:
            (given,) = (each.data for each in executed.outputs if each.buffer.name == until.output)
            assert isinstance(given, bytearray)
            number[:] = given[start : start + len(number)]
        held = holds(until, unpack_number(dtype, bytes(number)))
        if held or self._runs >= self._repeat.most:
            return Repeated(runs=self._runs, held=held)
        if self._runs == 1:
            bind = {name: bound for name, bound in self.request.bind.items() if name not in self._repeat.bind}
            self.request = msgspec.structs.replace(self.request, bind=bind)
        self.resident = {
            name: Taken(self._held[source.output], source.offset or 0, last=True)
            for name, source in self._repeat.bind.items()
            if source.output is not None
        }
        return None

    def placed(self, executed: Executed, keep: dict[str, str], store: BufferStore, tenant: str, room: int) -> Executed:
        """What the last run gave: what is kept or does not fit ``room`` in the store, the rest as bytes."""
        started_ns = time.perf_counter_ns()
        request = msgspec.structs.replace(self.request, keep=keep)
        outputs = bring(store, tenant, request, executed.outputs, self._held, room)
        took_us = (time.perf_counter_ns() - started_ns) // 1000
        timings = msgspec.structs.replace(
            self._timings, d2h=self._timings.d2h + took_us, total=self._timings.total + took_us
        )
        return Executed(outputs, timings, self._cache)

    def close(self) -> None:
        """Nothing of it is needed any more."""
        for each in self._held.values():
            self._let_go(each)
        self._held = {}

    def _output(self, name: str) -> Buffer:
        buffer = self._graph.buffer(name)
        assert buffer is not None
        return buffer


def _added(one: Timings, other: Timings) -> Timings:
    return Timings(**{name: getattr(one, name) + getattr(other, name) for name in Timings.__struct_fields__})
