"""Large objects between the engine's store and its device: first read, read again, still cached, written; in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from kaasq import Graph
from kaasq.messages import Request
from kaasq.model import GraphSpec
from kaasq.units import size as in_words
from kaasq_bench import bars
from kaasq_bench.engine_side import MI, TENANT, Under, add_saxpy, engine_of
from kaasq_bench.figures import Bar, Row, alone, compare
from kaasq_bench.rounds import seconds
from kaasq_bench.setting import Setting

OBJECTS, PASSES = 5, 3  # more than the device's cache holds, and how often each is read
DEVICE_OBJECTS = 1200 / 256  # that fit into the device's memory
CYCLIC_BYTES, CYCLIC_FILL, CYCLIC_WARM, CYCLIC_PASSES = 8 * MI, 1.25, 3, 5
CYCLIC_MEMORY = 64  # objects
PINNED, MEMCPY = "pinned copy", "host memcpy"
Floors = dict[str, Callable[[], float]]
Rates = dict[str, list[float]]


def copies_case(setting: Setting) -> Iterator[Row]:
    """Large objects from and into the store, beside the memory's own speed: first read, read again, still cached."""
    nbytes = 256 * MI if setting.gpu else setting.pick(4, 16) * MI
    data = np.random.default_rng(3).integers(0, 255, nbytes, np.uint8)
    floors = _floors(setting, nbytes, data)
    spec = _reading(nbytes)
    first: Rates = {name: [] for name in ("kaasq", *floors)}
    again: Rates = {name: [] for name in ("kaasq", *floors)}
    cached_us: list[float] = []
    with engine_of(setting, memory=int(DEVICE_OBJECTS * nbytes)) as under:
        wanted = []
        for index in range(OBJECTS):
            data[:8] = index
            wanted.append(Request(graph=spec, bind={"x": under.put(data)}))
        known = 0  # whether the plan is
        for turn in range(PASSES):
            for asked in wanted:
                start = time.perf_counter()
                executed = under.run(spec, asked)
                spent = time.perf_counter() - start
                if executed.cache.hits > known:
                    cached_us.append(spent * 1e6)
                else:
                    figures = again if turn else first
                    figures["kaasq"].append(nbytes / spent / 1e9)
                    for name, floor in floors.items():
                        figures[name].append(floor())
                known = 1
            while under.engine.use_idle_time():
                pass  # as a worker does when nothing comes
        yield from _copied_in(setting, nbytes, first, again, cached_us)
        yield from _copied_out(under, nbytes, floors[MEMCPY], bars.COPY_OUT_BESIDE_MEMCPY if setting.gpu else None)


def cyclic_case(setting: Setting) -> Iterator[Row]:
    """Objects in turn, 1.25 times what the cache holds: how many are found there, microseconds for each request."""
    nbytes = CYCLIC_BYTES if setting.gpu else CYCLIC_BYTES // 8
    spec = _reading(nbytes)
    rates, us = [], []
    with engine_of(setting, memory=CYCLIC_MEMORY * nbytes) as under:
        count = int(CYCLIC_FILL * under.engine.cache_bytes / nbytes)
        refs = [under.put(np.full(nbytes // 4, index, np.float32)) for index in range(count)]
        for turn in range(CYCLIC_WARM + CYCLIC_PASSES):
            start = time.perf_counter()
            hits = sum(under.run(spec, Request(graph=spec, bind={"x": ref})).cache.hits - 1 for ref in refs)
            if turn >= CYCLIC_WARM:
                us.append((time.perf_counter() - start) / count * 1e6)
                rates.append(hits / count)
    what = f"{in_words(nbytes)} objects in turn, {CYCLIC_FILL} x the cache"
    yield compare(f"{what}: hit rate", "", rates, "best possible", [1 / CYCLIC_FILL] * len(rates), bars.HIT_RATE)
    yield alone(f"{what}: a request", "us", us)


def _copied_in(
    setting: Setting,
    nbytes: int,
    first: Rates,
    again: Rates,
    cached_us: list[float],
) -> Iterator[Row]:
    """Read for the first time, it may have to go through the host's own copies; read again, it is registered."""
    for figures, words in ((first, "the first time"), (again, "read before, evicted since")):
        what = f"{in_words(nbytes)} from the store, {words}: whole request"
        for floor in [each for each in figures if each != "kaasq"]:
            bar = _copy_in_bar(floor, again=figures is again) if setting.gpu else None
            yield compare(what, "GB/s", figures["kaasq"], floor, figures[floor], bar)
    yield alone(f"{in_words(nbytes)} cached: whole request", "us", cached_us)


def _copy_in_bar(floor: str, *, again: bool) -> Bar | None:
    if again:
        return bars.COPY_IN_BESIDE_PINNED if floor == PINNED else None
    return bars.COPY_IN_BESIDE_MEMCPY if floor == MEMCPY else None


def _copied_out(under: Under, nbytes: int, memcpy: Callable[[], float], bar: Bar | None) -> Iterator[Row]:
    graph = Graph("large.out")
    seed = graph.input("seed", shape=4, dtype="float32")
    big = graph.output("big", shape=nbytes // 4, dtype="float32")
    add_saxpy(graph, 1, seed, seed, big, grid=1, block=4, n=4)
    spec = graph.freeze()
    held = []  # while outputs are, there are no files to be used again
    for kind in ("a new file", "a file used before"):
        whole, copies, floor = [], [], []
        for index in range(OBJECTS):
            asked = Request(graph=spec, bind={"seed": np.full(4, index, np.float32).tobytes()})
            start = time.perf_counter()
            executed = under.engine.run(TENANT, spec, asked)
            whole.append(nbytes / (time.perf_counter() - start) / 1e9)
            copies.append(nbytes / max(1, executed.timings.d2h) / 1e3)
            floor.append(memcpy())
            held.append(executed)
            if kind != "a new file" or index == OBJECTS - 1:
                held.clear()
            del executed
        what = f"{in_words(nbytes)} into the store, {kind}"
        yield compare(f"{what}: whole request", "GB/s", whole, MEMCPY, floor)
        yield compare(f"{what}: the copy", "GB/s", copies, MEMCPY, floor, bar)


def _floors(setting: Setting, nbytes: int, data: npt.NDArray[np.uint8]) -> Floors:
    """Gigabytes per second of the host's memcpy, and of pinned copies where there is a GPU."""
    other = np.ones_like(data)
    floors: Floors = {MEMCPY: partial(_rate, nbytes, partial(np.copyto, other, data))}
    if setting.gpu:
        from kaasq_bench.peers.pinned import PinnedCopy

        floors[PINNED] = partial(_rate, nbytes, PinnedCopy(setting.gpu_index, nbytes, to_device=True).run)
    return floors


def _rate(nbytes: int, copy: Callable[[], object]) -> float:
    return nbytes / seconds(copy) / 1e9


def _reading(nbytes: int) -> GraphSpec:
    """An input of that size, of which a kernel reads a little."""
    graph = Graph("large.in")
    x = graph.input("x", shape=nbytes // 4, dtype="float32", const=True)
    out = graph.output("out", shape=4, dtype="float32")
    add_saxpy(graph, 0, x, x, out, grid=1, block=4, n=4)
    return graph.freeze()
