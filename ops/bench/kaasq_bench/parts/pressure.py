"""More data than the device holds: throughput and hit rate as the working set outgrows its memory."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from kaasq import BufferRef, Graph
from kaasq_bench import bars
from kaasq_bench.figures import Row, compare
from kaasq_bench.graphs import reading
from kaasq_bench.serving import Serving, serving
from kaasq_bench.setting import Setting
from kaasq_workers.executor.engine import CACHE_SHARE

MI = 1 << 20
HALF = 0.5
BARRED = 1.25 * CACHE_SHARE
QUICK_FILLS = (HALF, BARRED, 1.0, 2.0)
FULL_FILLS = (HALF, BARRED, 0.75, 1.0, 1.5, 2.0)
OBJECTS_AT_FULL = 16
WARM_PASSES, PASSES = 1, 2
ROOM = 5  # a new store takes half of what is free, and the largest set is twice the memory


class Passes(NamedTuple):
    """Microseconds of the requests that found their object on the device, and of those that did not."""

    hits_us: list[float]
    misses_us: list[float]

    @property
    def hit_rate(self) -> float:
        return len(self.hits_us) / (len(self.hits_us) + len(self.misses_us))

    @property
    def per_s(self) -> float:
        """The executor's requests per second."""
        return (len(self.hits_us) + len(self.misses_us)) / (sum(self.hits_us) + sum(self.misses_us)) * 1e6


class Costs(NamedTuple):
    """Microseconds of a hit and of a miss."""

    hit_us: float
    miss_us: float

    def per_s(self, hit_rate: float) -> float:
        """Requests per second with so many hits."""
        return 1e6 / (hit_rate * self.hit_us + (1 - hit_rate) * self.miss_us)


def pressure_case(setting: Setting) -> Iterator[Row]:
    """Requests go through the working set in a circle, the access that is worst for a cache.

    Beside the throughput: that of the set which fills half of the memory, and what the same hits and misses would give
    at the best possible hit rate, that of a cache which never gives up what it has: much less than that is a cliff.
    The cache's budget is the part of the memory that it may take.
    """
    memory = setting.pick(1024, 2048) * MI if setting.gpu else setting.pick(32, 128) * MI
    nbytes = memory // OBJECTS_AT_FULL
    fills = (HALF, BARRED, 2.0) if setting.brief else setting.pick(QUICK_FILLS, FULL_FILLS)
    passes: dict[float, list[Passes]] = {fill: [] for fill in fills}
    with serving(setting, folder=setting.place_for(ROOM * memory), device_memory=memory) as ours:
        graph = reading(nbytes)
        refs = _objects(ours, nbytes, round(max(fills) * OBJECTS_AT_FULL))
        for _ in range(min(3, setting.rounds)):
            for fill in fills:
                passes[fill].append(_circle(ours, graph, refs[: round(fill * OBJECTS_AT_FULL)]))
    perfect = [costs([passes[fill][i] for fill in fills]) for i in range(len(passes[HALF]))]
    for fill in fills[1:]:
        per_s = [each.per_s for each in passes[fill]]
        yield compare(_words(fill), "/s", per_s, _words(HALF), [each.per_s for each in passes[HALF]])
        best = [each.per_s(best_hit_rate(fill)) for each in perfect]
        yield compare(f"{_words(fill)}: no cliff", "/s", per_s, "with the best possible hits", best, bars.NO_CLIFF)
    for fill in fills:
        hits = [each.hit_rate for each in passes[fill]]
        bar = bars.HIT_RATE if fill == BARRED else None
        yield compare(f"{_words(fill)}: hit rate", "", hits, "best possible", [best_hit_rate(fill)] * len(hits), bar)


def best_hit_rate(fill: float) -> float:
    """The hit rate of a cache that never gives up what it has."""
    return min(1.0, CACHE_SHARE / fill)


def costs(round_: list[Passes]) -> Costs:
    """What hits and misses took in a round, of all its sets."""
    hits = [us for each in round_ for us in each.hits_us]
    misses = [us for each in round_ for us in each.misses_us]
    hit_us = statistics.mean(hits or misses)
    return Costs(hit_us, statistics.mean(misses) if misses else hit_us)


def _words(fill: float) -> str:
    of_budget = f" ({fill / CACHE_SHARE:g} x the cache's budget)" if fill == BARRED else ""
    return f"working set of {fill:g} x device memory{of_budget}"


def _objects(ours: Serving, nbytes: int, count: int) -> list[BufferRef]:
    data = np.ones(nbytes, np.uint8)
    refs = []
    for i in range(count):
        data[:4] = np.frombuffer(i.to_bytes(4, "little"), np.uint8)
        refs.append(ours.client.put(data))
    return refs


def _circle(ours: Serving, graph: Graph, refs: list[BufferRef]) -> Passes:
    """The executor's time of each request."""
    for ref in islice(cycle(refs), WARM_PASSES * len(refs)):
        ours.client.run(graph, x=ref)
    results = [ours.client.run(graph, x=ref) for ref in islice(cycle(refs), PASSES * len(refs))]
    return Passes(
        [float(each.timings.total) for each in results if not each.cache.misses],
        [float(each.timings.total) for each in results if each.cache.misses],
    )
