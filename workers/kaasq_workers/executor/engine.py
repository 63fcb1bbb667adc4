"""Runs requests on a device: their inputs resolved and copied in, kernels launched, outputs copied out.

Each is begun, which queues all of its work on a slot, and ended, which waits for it: several may be on their way at
once. Knows nothing of brokers, and of the store only how to read an object and where to put large outputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from kaasq.checks import GraphLimits
from kaasq.errors import OutOfMemory
from kaasq.messages import CacheUse, Request
from kaasq.model import GraphSpec
from kaasq.settings import PINNED_BYTES
from kaasq_storage import BufferStore
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.device_cache import DeviceCache
from kaasq_workers.executor.flight import DONE, END, READY, Executed, Flight, Produced
from kaasq_workers.executor.guard import Guard
from kaasq_workers.executor.host_objects import HostObjects
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.module_policy import ModulePolicy
from kaasq_workers.executor.placing import Placing
from kaasq_workers.executor.plan import PlanCache
from kaasq_workers.executor.resident import Lease, Left, Resident, Residents, Taken
from kaasq_workers.executor.slots import Slots
from kaasq_workers.executor.sources import Source, resolve

# Of the device's memory. What neither takes is for requests that are larger than what slots keep.
CACHE_SHARE = 0.5
SLOTS_SHARE = 0.25
HELD_SLOTS = 2  # for each request that may be on its way: what one before it left, and what that one found
# An output up to here is copied as it is queued: it fits the pinned memory that each stream has. Copying more waits.
EARLY_BYTES = 1 << 20

Check = Callable[[], None]


class Engine:
    """One device's engine. Used from one thread."""

    def __init__(
        self,
        device: Device,
        store: BufferStore,
        *,
        inline_limit: int,
        in_flight: int = 0,
        pinned_bytes: int = PINNED_BYTES,
        guard_band: int | None = None,
        libraries: Libraries | None = None,
        policy: ModulePolicy | None = None,
    ) -> None:
        """``in_flight``: requests on their way at once, 0 for what the device gains from.

        ``pinned_bytes``: of the store that may stay pinned for the device at most. ``guard_band``: guard mode, with
        bands of that many bytes, one request at a time. ``libraries`` None: those in the store alone. ``policy``
        None: any module may run.
        """
        self.device = device
        self._store = store
        self._inline_limit = inline_limit
        self._plans = PlanCache(device, libraries or Libraries("", store, limit=GraphLimits().module_bytes), policy)
        guarding = guard_band is not None
        self.in_flight = 1 if guarding else in_flight or device.limits.in_flight
        held = HELD_SLOTS * self.in_flight
        self._slots = Slots(device, self.in_flight + held, int(device.limits.memory * SLOTS_SHARE))
        self._residents = Residents(held, self._slots.give)
        self._guard = Guard(device, self._slots.first.stream, guard_band) if guard_band is not None else None
        # A copy that is shared could be harmed by one request and be blamed on the next: guard mode has none.
        self.cache_bytes = 0 if guarding else int(device.limits.memory * CACHE_SHARE)
        host = HostObjects(store, device.pin, pinned_bytes)
        cache = DeviceCache(self.cache_bytes)
        self._placing = Placing(device, self._slots, cache, host, self._residents, self._guard)
        self._flying: list[Flight] = []

    def run(self, tenant: str, graph: GraphSpec, request: Request, proceed: Check | None = None) -> Executed:
        """Begin it and end it."""
        return self.end(self.begin(tenant, graph, request, proceed))

    def begin(
        self,
        tenant: str,
        graph: GraphSpec,
        request: Request,
        proceed: Check | None = None,
        *,
        inline_limit: int | None = None,
        resident: Mapping[str, Taken] | None = None,
        hold: AbstractSet[str] = frozenset(),
    ) -> Flight:
        """Queue it; at most ``in_flight`` at once. ``proceed`` is called between launches, and stops it by raising.

        ``inline_limit``: what its outputs may have together to be given as bytes, where it is not everybody's.
        ``resident``: inputs, by name, that outputs of earlier requests are, which stayed here. They are this one's from
        now on where it is the last that takes them. ``hold``: outputs that are to stay here, and be ``Executed.held``.

        Raises a KaasqError; nothing of it is queued any more then. OutOfMemory may mean: not beside those in flight.
        """
        taken = resident or {}
        try:
            return self._begin(tenant, graph, request, proceed, inline_limit, taken, hold)
        except OutOfMemory:
            if not self._residents.spill():
                raise
            return self._begin(tenant, graph, request, proceed, inline_limit, taken, hold)

    def _begin(
        self,
        tenant: str,
        graph: GraphSpec,
        request: Request,
        proceed: Check | None,
        inline_limit: int | None,
        taken: Mapping[str, Taken],
        hold: AbstractSet[str],
    ) -> Flight:
        if len(self._flying) >= self.in_flight:
            raise RuntimeError(f"all {self.in_flight} slots are in use")
        started_ns = time.perf_counter_ns()
        sources = resolve(self._store, tenant, graph, request, taken)
        if taken:
            sources |= _left(graph, tenant, taken)
        plan, known = self._plans.get(tenant, graph)
        slot = self._slots.take(plan.bound)
        try:
            bound = self._plans.bound(plan, slot.index)
        except BaseException:
            self._slots.give(slot)
            raise
        flight = Flight(tenant, slot, plan, bound, started_ns)
        flight.hits, flight.misses = (1, 0) if known else (0, 1)
        flight.loaded_ns = time.perf_counter_ns()
        flight.taken, flight.hold = taken, hold
        for each in taken.values():
            each.resident.busy += 1
        try:
            self._placing.place(flight, tenant, sources)
            self._launch(flight, request, proceed)
            self._copy_out(flight, tenant, request, self._inline_limit if inline_limit is None else inline_limit)
            if not flight.late:
                flight.mark(END)
        except BaseException:
            flight.settle()
            flight.discard()
            self._placing.release(flight)
            for each in taken.values():
                each.resident.busy -= 1
            raise
        self._flying.append(flight)
        return flight

    def end(self, flight: Flight) -> Executed:
        """Wait for it. Raises a KaasqError; nothing has been published in the store then."""
        stream = flight.slot.stream
        held: dict[str, Resident] = {}
        lease = self._residents.lease(flight.slot) if flight.hold else None
        try:
            if flight.late:
                for memory, data in flight.late:
                    stream.copy_out(memory, data)
                flight.mark(END)
            stream.synchronize()
            flight.late.clear()  # they refer to what is to be sealed
            outputs = [flight.outputs[each.name] for each in flight.plan.returned if each.name not in flight.hold]
            for output in outputs:
                if not isinstance(output.data, bytearray):
                    output.data.seal()
            timings = flight.timings(time.perf_counter_ns())
            if lease is not None:
                held = self._keep(flight, lease)
        except BaseException:
            flight.settle()
            flight.discard()
            raise
        finally:
            self._flying.remove(flight)
            self._placing.release(flight, slot=lease is None or not lease.uses)
            for each in flight.taken.values():
                each.resident.busy -= 1
                if each.last:
                    self._residents.let_go(each.resident)
        if held:
            self._residents.limit()
        return Executed(outputs, timings, CacheUse(hits=flight.hits, misses=flight.misses), held)

    def let_go(self, resident: Resident) -> None:
        """Nobody needs it any more; idempotent."""
        self._residents.let_go(resident)

    def use_idle_time(self) -> bool:
        """Prepare for later requests, for a millisecond or two; False if there is nothing to prepare."""
        return self._placing.pin_some()

    def tidy(self) -> None:
        """Give back what has not been used for a while."""
        self._placing.tidy()

    def close(self) -> None:
        """Drop what is on its way, once it has run, and give the device its memory back."""
        for flight in self._flying:
            flight.settle()
            flight.discard()
            self._placing.release(flight)
        self._flying.clear()
        self._residents.close()
        self._placing.close()

    def _keep(self, flight: Flight, lease: Lease) -> dict[str, Resident]:
        """The outputs that are to stay. Guard mode's memory is not for a second request: they go to the host."""
        held: dict[str, Resident] = {}
        for name in flight.hold:
            memory = flight.memory[name]
            if self._guard is None:
                lies = flight.taken[name].resident.lease if name in flight.direct else lease
                assert lies is not None
                held[name] = self._residents.keep(flight.tenant, memory, lies)
                continue
            data = bytearray(memory.nbytes)
            flight.slot.stream.copy_out(memory, memoryview(data))
            flight.slot.stream.synchronize()
            held[name] = Resident(flight.tenant, memory.nbytes)
            held[name].data = bytes(data)
        return held

    def _launch(self, flight: Flight, request: Request, proceed: Check | None) -> None:
        stream, bound = flight.slot.stream, flight.bound
        if flight.plan.stateful:
            for other in self._flying:
                if not flight.plan.stateful.isdisjoint(other.plan.stateful):
                    stream.wait(other.done)  # its launches share variables with ours
        bound.bind(flight.memory, request.scalars)
        if self._guard is None:
            bound.prepare(stream)
        ready = flight.mark(READY)  # right before the launches: what the host does in between would count as theirs
        for entry in flight.loading:
            entry.ready = ready
        if self._guard is None:
            bound.launch(stream, proceed=proceed)
        else:
            with self._guard.watch(flight.plan.graph, flight.memory) as check:
                bound.launch(stream, check, proceed)
        flight.mark(DONE)

    def _copy_out(self, flight: Flight, tenant: str, request: Request, room: int) -> None:
        """Queue the copies of the outputs: the smallest into the reply as far as they fit, the rest to the store."""
        early = EARLY_BYTES
        for buffer in flight.plan.smallest_first:
            data: memoryview
            if buffer.name in flight.hold:
                continue
            if buffer.name not in request.keep and buffer.nbytes <= room:
                room -= buffer.nbytes
                inline = bytearray(buffer.nbytes)
                flight.outputs[buffer.name] = Produced(buffer, inline)
                data = memoryview(inline)
            else:
                staged = self._store.stage(tenant, buffer.nbytes)
                flight.outputs[buffer.name] = Produced(buffer, staged)
                data = staged.data
            early -= buffer.nbytes
            if early >= 0:
                flight.slot.stream.copy_out(flight.memory[buffer.name], data)
            else:
                flight.late.append((flight.memory[buffer.name], data))


def _left(graph: GraphSpec, tenant: str, taken: Mapping[str, Taken]) -> dict[str, Source]:
    """What inputs start from that earlier requests left."""
    sources: dict[str, Source] = {}
    all_taken = [each.resident for each in taken.values()]
    for name, (resident, offset, last) in taken.items():
        buffer = graph.buffer(name)
        assert buffer is not None
        assert resident.tenant == tenant
        if resident.memory is None:
            sources[name] = resident.data[offset : offset + buffer.nbytes]
            continue
        whole = (offset, buffer.nbytes) == (0, resident.nbytes)
        memory = resident.memory if whole else resident.memory.part(offset, buffer.nbytes)
        sources[name] = Left(memory, own=last and all_taken.count(resident) == 1)
    return sources
