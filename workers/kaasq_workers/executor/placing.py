"""Finds memory for a request's buffers, and queues what fills it: bytes, stored objects, cached copies, zeros."""

from __future__ import annotations

from collections.abc import Mapping

from kaasq.errors import NameNotFound, OutOfMemory
from kaasq.messages import Stored
from kaasq_workers.devices.protocol import Device, Memory
from kaasq_workers.executor.device_cache import DeviceCache, Entry, Key
from kaasq_workers.executor.flight import BEGIN, Flight
from kaasq_workers.executor.guard import Guard
from kaasq_workers.executor.host_objects import HostObjects
from kaasq_workers.executor.layout import Layout
from kaasq_workers.executor.resident import Left, Residents
from kaasq_workers.executor.slots import Slots
from kaasq_workers.executor.sources import Part, Source, missing

Sources = Mapping[str, Source]

# Inputs that came with the request, and zeros, of up to so many bytes together are one copy and not one for each.
IMAGE_BYTES = 32 << 10
ADDRESS_BYTES = 256  # what the address of a buffer is a multiple of: kernels may read it in large words


class Placing:
    """One device's memory: slots' arenas and cached objects, which make room for each other; objects on the host."""

    def __init__(
        self,
        device: Device,
        slots: Slots,
        objects: DeviceCache,
        host: HostObjects,
        residents: Residents,
        guard: Guard | None,
    ) -> None:
        self._device = device
        self._host = host
        self._slots = slots
        self._objects = objects
        self._residents = residents
        self._guard = guard

    def place(self, flight: Flight, tenant: str, sources: Sources) -> None:
        """Find memory for every buffer before anything is copied; then queue what fills it. Raises a KaasqError."""
        cached: dict[str, Entry] = {}
        for buffer in flight.plan.graph.buffers:
            source = sources.get(buffer.name)
            if isinstance(source, Part):
                entry = self._entry(flight, Key(tenant, source.object.ref, source.offset, buffer.nbytes))
                if entry is not None:
                    cached[buffer.name] = entry
        if self._guard is None:
            cached, image = self._find_memory(flight, tenant, sources, cached)
        else:
            image = None
            self._find_guarded(flight, self._guard)
        for entry in flight.entries:
            if entry.ready is not None:
                flight.slot.stream.wait(entry.ready)  # another request, still on its way, is loading it
        if image is not None and flight.slot.arena.memory is not None:
            flight.slot.stream.copy_in(flight.slot.arena.memory, image)
        self._fill(flight, tenant, sources, cached, imaged=image is not None)

    def release(self, flight: Flight, *, slot: bool = True) -> None:
        """Give back what it used, and its ``slot``. Its stream has passed all of it, or the device is lost."""
        for entry in flight.loading:
            entry.ready = None
        for entry in flight.entries:
            self._objects.release(entry)
        for memory in flight.own:
            memory.free()
        for each in flight.objects:
            self._host.give_back(each)
        if slot:
            self._slots.give(flight.slot)

    def pin_some(self) -> bool:
        """Use time that nobody else wants; False if there is nothing to use it for."""
        return self._host.pin_some()

    def tidy(self) -> None:
        """Give back what has not been used for a while."""
        self._host.tidy()

    def close(self) -> None:
        """Give the device its memory back. Nothing may be on its way."""
        self._slots.shed(self._device.limits.memory)
        self._objects.shed(self._device.limits.memory)
        self._host.tidy(0.0)

    def _find_memory(
        self, flight: Flight, tenant: str, sources: Sources, cached: dict[str, Entry]
    ) -> tuple[dict[str, Entry], memoryview | None]:
        """Memory in the slot's arena for all but the cached parts that no launch can harm: those are used themselves.
        So is what earlier requests left, if it can be harmed without harm, too.

        What remains of ``cached``: less where the request fits only without. And what the arena is to begin with, where
        that comes as one copy.
        """
        unharmed = flight.plan.unharmed
        shared = {name: each.memory for name, each in cached.items() if name in unharmed}
        if flight.taken:
            lying = {name: each for name, each in sources.items() if isinstance(each, Left)}
            flight.direct = {name for name, each in lying.items() if _as_it_lies(flight, name, each)}
            shared |= {name: lying[name].memory for name in flight.direct}
        layout, arena = flight.plan.layout(frozenset(shared)), flight.slot.arena
        try:
            whole = arena.room(layout.nbytes, self._allocate)
        except OutOfMemory:
            if all(name in shared for name in cached):
                raise
            cached = self._only_shared(flight, cached)
            whole = arena.room(layout.nbytes, self._allocate)
        flight.memory = {**flight.bound.parts(layout, whole), **shared}
        image = _image(layout, sources)
        flight.mark(BEGIN)
        arena.hand_over(tenant, layout, flight.slot.stream, zeroing=image is None)
        return cached, image

    @staticmethod
    def _find_guarded(flight: Flight, guard: Guard) -> None:
        """An allocation for each buffer."""
        for each in flight.plan.graph.buffers:
            flight.memory[each.name] = guard.allocate(each.nbytes)
            flight.own.append(flight.memory[each.name])
        flight.mark(BEGIN)
        for each in flight.plan.graph.buffers:
            if not each.given:
                flight.slot.stream.zero(flight.memory[each.name])

    def _fill(
        self, flight: Flight, tenant: str, sources: Sources, cached: Mapping[str, Entry], *, imaged: bool
    ) -> None:
        """Queue the copies into the request's memory, and into the cache what it is to hold.

        ``imaged``: the bytes that came with the request are there already.
        """
        for name, source in sources.items():
            memory = flight.memory[name]
            entry = cached.get(name)
            if isinstance(source, bytes):
                if not imaged:
                    flight.slot.stream.copy_in(memory, memoryview(source))
            elif isinstance(source, Left):
                if name not in flight.direct:
                    flight.slot.stream.copy(memory, source.memory)
            elif entry is None:
                self._read(flight, tenant, name, source, memory)
            else:
                if not entry.loaded:
                    self._read(flight, tenant, name, source, entry.memory)
                    entry.loaded = True
                    flight.loading.append(entry)
                if memory is not entry.memory:
                    flight.slot.stream.copy(memory, entry.memory)

    def _entry(self, flight: Flight, key: Key) -> Entry | None:
        """The cache's entry for the part, new or not, in use by the request; None if it is not to have one."""
        entry = self._objects.use(key)
        if entry is not None:
            flight.hits += 1
        else:
            flight.misses += 1
            if not self._objects.admit(key):
                return None
            try:
                entry = self._objects.put(key, self._allocate(key.nbytes))
            except OutOfMemory:
                return None
        flight.entries.append(entry)
        return entry

    def _only_shared(self, flight: Flight, cached: dict[str, Entry]) -> dict[str, Entry]:
        """Of the cached parts, keep in use only those that are used where they lie."""
        kept = {name: each for name, each in cached.items() if name in flight.plan.unharmed}
        flight.entries = list(kept.values())
        for name, entry in cached.items():
            if name not in kept:
                self._objects.release(entry)
        return kept

    def _read(self, flight: Flight, tenant: str, name: str, part: Part, memory: Memory) -> None:
        """Queue the copy of a part of a stored object, which stays open until the request has ended."""
        try:
            opened = self._host.open(tenant, part.object.ref)
        except NameNotFound:
            raise missing(name, Stored(ref=part.object.ref)) from None
        flight.objects.append(opened)
        at = 0
        for piece in opened.pieces(part.offset, memory.nbytes):
            with piece:
                flight.slot.stream.copy_in(memory, piece, at)
                at += piece.nbytes

    def _allocate(self, nbytes: int) -> Memory:
        """Memory, at the expense of what only saves time: idle slots' arenas, cached objects, then what stayed here."""
        try:
            return self._device.allocate(nbytes)
        except OutOfMemory:
            given = self._slots.shed(nbytes)
            if given < nbytes:
                given += self._objects.shed(nbytes - given)
            spilled = given < nbytes and self._residents.spill()
            if spilled:
                self._slots.shed(nbytes - given)
            if not given and not spilled:
                raise
        try:
            return self._device.allocate(nbytes)
        except OutOfMemory:  # enough, but in pieces: all of it, then
            self._slots.shed(self._device.limits.memory)
            self._objects.shed(self._device.limits.memory)
            return self._device.allocate(nbytes)


def _as_it_lies(flight: Flight, name: str, left: Left) -> bool:
    """Whether an input can be used where an earlier request left it, and is not copied from there.

    If it is an output, too, it has to be its own: it may stay here once more, for others to write to.
    """
    if left.memory.address % ADDRESS_BYTES:
        return False
    buffer = flight.plan.graph.buffer(name)
    return left.own or (name in flight.plan.unharmed and buffer is not None and not buffer.returned)


def _image(layout: Layout, sources: Sources) -> memoryview | None:
    """What the start of the memory is to hold, if that is little and all of it came with the request."""
    nbytes = layout.zeroed.offset + layout.zeroed.nbytes
    if not layout.given or nbytes > IMAGE_BYTES:
        return None
    image = bytearray(nbytes)
    for name in layout.given:
        source = sources[name]
        if not isinstance(source, bytes):
            return None
        offset = layout.places[name].offset
        image[offset : offset + len(source)] = source
    return memoryview(image)
