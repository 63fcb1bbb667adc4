"""A loop in one request: its graph run again on its own outputs, until a condition holds or it was run often enough.

The loop is one request: it has one outcome, and a worker that dies begins it again.
"""

from __future__ import annotations

import msgspec

from kaasq.continuations import holds
from kaasq.dtypes import itemsize, unpack_number
from kaasq.messages import CacheUse, Repeat, Repeated, Request, Timings
from kaasq_storage import BufferStore
from kaasq_workers.executor.flight import Executed, Produced

EVERYTHING = 1 << 62


class Loop:
    """Where one request's loop stands. All of its runs give their outputs as bytes, the last one's are placed."""

    def __init__(self, request: Request, repeat: Repeat) -> None:
        self._request = request
        self._repeat = repeat
        self._runs = 0
        self._timings = Timings()
        self._cache = CacheUse()

    @property
    def request(self) -> Request:
        """The next run, which keeps nothing."""
        return msgspec.structs.replace(self._request, keep={})

    def ran(self, executed: Executed) -> Repeated | None:
        """Take what a run gave. None: there is to be another one."""
        self._runs += 1
        self._timings = _added(self._timings, executed.timings)
        self._cache = CacheUse(
            hits=self._cache.hits + executed.cache.hits, misses=self._cache.misses + executed.cache.misses
        )
        outputs = {each.buffer.name: bytes(each.data) for each in executed.outputs if isinstance(each.data, bytearray)}
        until, dtypes = self._repeat.until, {each.buffer.name: each.buffer.dtype for each in executed.outputs}
        dtype = dtypes[until.output]
        assert dtype is not None
        size = itemsize(dtype)
        start = (until.index or 0) * size
        held = holds(until, unpack_number(dtype, outputs[until.output][start : start + size]))
        if held or self._runs >= self._repeat.most:
            return Repeated(runs=self._runs, held=held)
        bind = dict(self._request.bind)
        for name, source in self._repeat.bind.items():
            assert source.output is not None
            data, offset = outputs[source.output], source.offset
            if offset is not None:
                assert isinstance(self._request.graph, msgspec.Struct)
                buffer = self._request.graph.buffer(name)
                assert buffer is not None
                data = data[offset : offset + buffer.nbytes]
            bind[name] = data
        self._request = msgspec.structs.replace(self._request, bind=bind)
        return None

    def placed(self, executed: Executed, keep: dict[str, str], store: BufferStore, tenant: str, room: int) -> Executed:
        """What the last run gave, with what is kept or does not fit ``room`` brought to the store."""
        outputs: dict[str, Produced] = {}
        for each in sorted(executed.outputs, key=lambda produced: produced.buffer.nbytes):
            assert isinstance(each.data, bytearray)
            if each.buffer.name not in keep and each.buffer.nbytes <= room:
                room -= each.buffer.nbytes
                outputs[each.buffer.name] = each
                continue
            staged = store.stage(tenant, each.buffer.nbytes)
            staged.data[:] = each.data
            staged.seal()
            outputs[each.buffer.name] = Produced(each.buffer, staged)
        ordered = [outputs[each.buffer.name] for each in executed.outputs]
        return Executed(ordered, self._timings, self._cache)


def _added(one: Timings, other: Timings) -> Timings:
    return Timings(**{name: getattr(one, name) + getattr(other, name) for name in Timings.__struct_fields__})
