"""Inputs and outputs between store and device, in shared memory and on disk, beside the memory's own speed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from kaasq.units import size as in_words
from kaasq_bench import bars
from kaasq_bench.figures import Row, alone, compare
from kaasq_bench.graphs import reading, writing
from kaasq_bench.rounds import interleaved, us_per_call
from kaasq_bench.serving import Serving, serving
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case

KI, MI, GI = 1 << 10, 1 << 20, 1 << 30
BARRED = 256 * MI
MEMCPY, PINNED, COLD = "host memcpy", "pinned copy", "cold"
SHARED = "shared memory"
INLINE = 1 << 10  # bytes: what is larger goes to the store, also what would fit into a message
ROOM = 6  # a new store takes half of what is free, and holds an object until its successor is there
FLOOR_S = 0.05  # of bare copies behind one figure of a round
FEW_ROUNDS = 3  # of sizes that take long


def place_case(place: str, setting: Setting) -> Iterator[Row]:
    """All sizes with one worker, whose store lies there."""
    folder = setting.disk if place == "disk" else setting.memory
    if folder is None:
        raise NotHere("there is no shared memory of a gigabyte here")
    sizes = setting.pick((4 * KI, MI, 16 * MI), (4 * KI, 64 * KI, MI, 16 * MI, BARRED))
    if setting.gpu and not setting.quick and folder == setting.memory:
        sizes = (*sizes, GI)
    if setting.brief:
        sizes = (MI, BARRED if setting.gpu else 16 * MI)
    room = shutil.disk_usage(folder).free
    with serving(setting, folder=folder, inline_limit=INLINE) as ours:
        for nbytes in sizes:
            if nbytes * ROOM <= room:
                yield from inputs(place, nbytes, ours, setting)
                yield from outputs(place, nbytes, ours, setting)
    too_large = [in_words(each) for each in sizes if each * ROOM > room]
    if too_large:
        raise NotHere(f"{', '.join(too_large)} would not fit: {folder} has {in_words(room)} free")


def inputs(place: str, nbytes: int, ours: Serving, setting: Setting) -> Iterator[Row]:
    """An object that was never on the device, then again, when it is."""
    graph = reading(nbytes)
    data = np.ones(nbytes, np.uint8)
    serials = iter(range(1, 1 << 30))
    copied: list[float] = []
    cached_us: list[float] = []

    def cold() -> float:
        data[:4] = np.frombuffer(next(serials).to_bytes(4, "little"), np.uint8)
        ref = ours.client.put(data)
        first = ours.client.run(graph, x=ref)
        again = ours.client.run(graph, x=ref)
        copied.append(nbytes * again.cache.misses)
        cached_us.append(again.timings.total)
        ours.client.delete(ref)
        return _rate(nbytes, first.timings.total)

    given = interleaved(_rounds(setting, nbytes), {"kaasq": cold, **_floors(setting, nbytes)})
    what = f"in, cold, {in_words(nbytes)}, {place}"
    wanted = {PINNED: bars.COPY_IN_BESIDE_PINNED, MEMCPY: bars.COPY_IN_BESIDE_MEMCPY} if setting.gpu else {}
    for floor in given:
        if floor != "kaasq":
            bar = wanted.get(floor) if nbytes == BARRED else None
            yield compare(what, "GB/s", given["kaasq"], floor, given[floor], bar)
    what = f"in, cached, {in_words(nbytes)}, {place}"
    yield alone(f"{what}: copied", "bytes", copied[1:], bars.CACHED_BYTES_COPIED)  # the first round was to warm up
    cold_us = [nbytes / rate / 1e3 for rate in given["kaasq"]]
    # From publishing to the commit, so no bar: what the executor itself takes is in the engine part.
    yield compare(f"{what}: executor", "us", cached_us[1:], COLD, cold_us)


def outputs(place: str, nbytes: int, ours: Serving, setting: Setting) -> Iterator[Row]:
    """An output into the store: all of the executor's time, hashing included, and the copy out alone."""
    graph = writing(nbytes)
    copy_rates: list[float] = []

    def out() -> float:
        result = ours.client.run(graph)
        copy_rates.append(_rate(nbytes, max(1, result.timings.d2h)))
        ours.client.delete(result.refs["out"])
        return _rate(nbytes, result.timings.total)

    given = interleaved(_rounds(setting, nbytes), {"kaasq": out, **_floors(setting, nbytes, to_device=False)})
    what = f"out, {in_words(nbytes)}, {place}"
    wanted = nbytes == BARRED and place == SHARED
    for floor in given:
        if floor != "kaasq":
            bar = bars.COPY_OUT_BESIDE_MEMCPY if wanted and floor == MEMCPY else None
            yield compare(what, "GB/s", given["kaasq"], floor, given[floor], bar)
            yield compare(f"{what}: the copy", "GB/s", copy_rates[1:], floor, given[floor])


def _floors(setting: Setting, nbytes: int, *, to_device: bool = True) -> dict[str, Callable[[], float]]:
    """Gigabytes per second of bare copies."""
    source, target = np.ones(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    floors = {MEMCPY: _rated(nbytes, partial(np.copyto, target, source))}
    if setting.gpu:
        from kaasq_bench.peers.pinned import PinnedCopy

        floors[PINNED] = _rated(nbytes, PinnedCopy(setting.gpu_index, nbytes, to_device=to_device).run)
    return floors


def _rated(nbytes: int, copy: Callable[[], Any]) -> Callable[[], float]:
    return lambda: _rate(nbytes, us_per_call(copy, FLOOR_S, at_least=1))


def _rate(nbytes: int, us: float) -> float:
    return nbytes / us / 1e3


def _rounds(setting: Setting, nbytes: int) -> int:
    return setting.rounds if nbytes < 16 * MI else min(setting.rounds, FEW_ROUNDS)


CASES = tuple(Case(place, partial(place_case, place)) for place in (SHARED, "disk"))
