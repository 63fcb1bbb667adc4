"""Runs one request on a device: resolve its inputs, copy them in, launch, copy the outputs out.

Knows nothing of brokers, and of the store only how to read an object and where to put large outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from kaasq.bindings import check_bindings
from kaasq.checks import GraphLimits
from kaasq.errors import BadRequest, BufferMissing, BufferSize, KaasqError, NameNotFound, OutOfMemory
from kaasq.messages import CacheUse, Request, Stored, Timings
from kaasq.model import Buffer, GraphSpec
from kaasq_storage import BufferStore, Object, Staged
from kaasq_workers.devices.protocol import Device, Memory
from kaasq_workers.executor.device_cache import DeviceCache
from kaasq_workers.executor.guard import Guard
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.plan import PlanCache

CACHE_SHARE = 0.5  # of the device's memory; the rest is for what requests allocate


class Produced(NamedTuple):
    """An output: its bytes inline, or staged in the store."""

    buffer: Buffer
    data: bytearray | Staged


class Executed(NamedTuple):
    """What running a request gave."""

    outputs: list[Produced]
    timings: Timings
    cache: CacheUse


class Part(NamedTuple):
    """Part of a stored object, from ``offset`` on."""

    object: Object
    offset: int


class Engine:
    """One device's engine. Used from one thread."""

    def __init__(
        self,
        device: Device,
        store: BufferStore,
        *,
        inline_limit: int,
        guard_band: int | None = None,
        libraries: Libraries | None = None,
    ) -> None:
        """``guard_band``: guard mode, with bands of that many bytes. ``libraries`` None: those in the store alone."""
        self.device = device
        self._store = store
        self._inline_limit = inline_limit
        self._plans = PlanCache(device, libraries or Libraries("", store, limit=GraphLimits().module_bytes))
        self._stream = device.stream()
        self._guard = Guard(device, self._stream, guard_band) if guard_band is not None else None
        # A copy that is shared could be harmed by one request and be blamed on the next: guard mode has none.
        self._objects = DeviceCache(0 if self._guard else int(device.limits.memory * CACHE_SHARE))

    def run(
        self, tenant: str, graph: GraphSpec, request: Request, proceed: Callable[[], None] | None = None
    ) -> Executed:
        """Run it; ``proceed`` is called between launches, and ends the run by raising.

        Raises a KaasqError; nothing has been published in the store then.
        """
        started = time.perf_counter_ns()
        sources = self._resolve(tenant, graph, request)
        plan, known = self._plans.get(tenant, graph)
        loaded = time.perf_counter_ns()
        hits, misses = (1, 0) if known else (0, 1)
        stream = self._stream
        with ExitStack() as cleanup, ExitStack() as undo:
            cleanup.callback(self._objects.release)
            undo.callback(self._settle)
            begin = stream.mark()
            memory: dict[str, Memory] = {}
            for buffer in graph.buffers:
                source = sources.get(buffer.name)
                if source is None:
                    memory[buffer.name] = self._allocate(buffer.nbytes, cleanup)
                    stream.zero(memory[buffer.name])
                elif isinstance(source, bytes):
                    memory[buffer.name] = self._allocate(buffer.nbytes, cleanup)
                    stream.copy_in(memory[buffer.name], memoryview(source))
                else:
                    shared = buffer.name in plan.unharmed
                    memory[buffer.name], hit = self._stored(tenant, buffer, source, cleanup, shared=shared)
                    hits, misses = hits + hit, misses + (not hit)
            ready = stream.mark()
            plan.bind(memory, request.scalars)
            if self._guard is None:
                plan.launch(stream, proceed=proceed)
            else:
                with self._guard.watch(graph, memory) as check:
                    plan.launch(stream, check, proceed)
            done = stream.mark()
            outputs = self._copy_out(tenant, graph, request, memory, undo)
            end = stream.mark()
            stream.synchronize()
            for each in outputs:
                if not isinstance(each.data, bytearray):
                    each.data.seal()
            undo.pop_all()  # from here on the outputs are the caller's
            timings = Timings(
                load=(loaded - started) // 1000,
                h2d=round(ready.us_since(begin)),
                kernel=round(done.us_since(ready)),
                d2h=round(end.us_since(done)),
                total=(time.perf_counter_ns() - started) // 1000,
            )
            return Executed(outputs, timings, CacheUse(hits=hits, misses=misses))

    def _settle(self) -> None:
        """After a failure: wait for what is still queued, since it uses memory about to be freed."""
        with suppress(KaasqError):
            self._stream.synchronize()

    def _resolve(self, tenant: str, graph: GraphSpec, request: Request) -> dict[str, bytes | Part]:
        sources: dict[str, bytes | Part] = {}
        sizes: dict[str, int | None] = {}
        for name, bound in request.bind.items():
            if isinstance(bound, bytes):
                sources[name], sizes[name] = bound, len(bound)
                continue
            stored = _find(self._store, tenant, name, bound)
            sources[name] = Part(stored, bound.offset or 0)
            sizes[name] = stored.nbytes if bound.offset is None else None
            buffer = graph.buffer(name)
            if buffer is not None and bound.offset is not None:
                _check_part(buffer, bound.offset, stored)
        check_bindings(graph, sizes, request.scalars, request.keep)
        return sources

    def _stored(
        self, tenant: str, buffer: Buffer, part: Part, cleanup: ExitStack, *, shared: bool
    ) -> tuple[Memory, bool]:
        """Device memory holding the input, and whether the object was on the device already.

        ``shared``: nothing will write to it, so the cached copy itself will do.
        """
        stored, offset = part
        whole = offset == 0 and buffer.nbytes == stored.nbytes
        cached = self._objects.get(tenant, stored.ref) if whole else None
        hit = cached is not None
        if cached is None:
            fresh = self._allocate(buffer.nbytes, None)
            taken = False
            try:
                with self._reading(tenant, buffer.name, stored.ref) as data:
                    self._stream.copy_in(fresh, data[offset : offset + buffer.nbytes])
                    self._stream.synchronize()  # the bytes are readable only inside this block
                taken = whole and self._objects.put(tenant, stored.ref, fresh)
            finally:
                if not taken:
                    cleanup.callback(fresh.free)
            if not taken:
                return fresh, False
            cached = fresh
        if shared:
            return cached, hit
        private = self._allocate(buffer.nbytes, cleanup)  # a kernel might write to it; the cached one stays pristine
        self._stream.copy(private, cached)
        return private, hit

    @contextmanager
    def _reading(self, tenant: str, name: str, ref: str) -> Iterator[memoryview]:
        try:
            reading = self._store.open(tenant, ref)
        except NameNotFound:
            raise _missing(name, Stored(ref=ref)) from None
        with reading:
            yield reading.data

    def _allocate(self, nbytes: int, cleanup: ExitStack | None) -> Memory:
        allocate = self._guard.allocate if self._guard else self.device.allocate
        try:
            memory = allocate(nbytes)
        except OutOfMemory:
            if not self._objects.shed(nbytes):
                raise
            memory = allocate(nbytes)
        if cleanup is not None:
            cleanup.callback(memory.free)
        return memory

    def _copy_out(
        self, tenant: str, graph: GraphSpec, request: Request, memory: dict[str, Memory], undo: ExitStack
    ) -> list[Produced]:
        """Queue the copies of the outputs: the smallest into the reply as far as they fit, the rest to the store."""
        room = self._inline_limit
        produced: dict[str, Produced] = {}
        returned = [each for each in graph.buffers if each.returned]
        for buffer in sorted(returned, key=lambda each: each.nbytes):
            if buffer.name not in request.keep and buffer.nbytes <= room:
                room -= buffer.nbytes
                inline = bytearray(buffer.nbytes)
                self._stream.copy_out(memory[buffer.name], memoryview(inline))
                produced[buffer.name] = Produced(buffer, inline)
            else:
                staged = self._store.stage(tenant, buffer.nbytes)
                undo.callback(staged.discard)
                self._stream.copy_out(memory[buffer.name], staged.data)
                produced[buffer.name] = Produced(buffer, staged)
        return [produced[each.name] for each in returned]


def _find(store: BufferStore, tenant: str, buffer: str, bound: Stored) -> Object:
    if (bound.ref is None) == (bound.name is None):
        raise BadRequest("needs either ref or name", at=f"bind.{buffer}")
    try:
        return store.lookup(tenant, ref=bound.ref, name=bound.name)
    except NameNotFound:
        raise _missing(buffer, bound) from None


def _check_part(buffer: Buffer, offset: int, stored: Object) -> None:
    if not 0 <= offset <= stored.nbytes - buffer.nbytes:
        raise BufferSize(
            f"buffer {buffer.name!r} takes {buffer.nbytes} bytes from offset {offset} on, "
            f"but the stored object has {stored.nbytes}",
            buffer=buffer.name,
            expected=offset + buffer.nbytes,
            given=stored.nbytes,
        )


def _missing(buffer: str, bound: Stored) -> BufferMissing:
    what = f"name {bound.name!r}" if bound.name is not None else f"object {bound.ref}"
    return BufferMissing(
        f"buffer {buffer!r} is bound to {what}, which the worker's store does not hold (never put there, deleted, "
        "expired, or put into another store)",
        buffer=buffer,
        ref=bound.ref,
        name=bound.name,
    )
