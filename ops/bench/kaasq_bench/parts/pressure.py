"""More data than the device holds: throughput and hit rate as the working set outgrows its memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

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


def pressure_case(setting: Setting) -> Iterator[Row]:
    """Requests go through the working set in a circle, the access that is worst for a cache.

    Beside the throughput: that of the set which fills half of the memory. Beside the hit rate: the best there could be,
    of a cache that never gives up what it has. The cache's budget is the part of the memory that it may take.
    """
    memory = setting.pick(1024, 2048) * MI if setting.gpu else setting.pick(32, 128) * MI
    nbytes = memory // OBJECTS_AT_FULL
    fills = setting.pick(QUICK_FILLS, FULL_FILLS)
    rates: dict[float, list[float]] = {fill: [] for fill in fills}
    hits: dict[float, list[float]] = {fill: [] for fill in fills}
    with serving(setting, folder=setting.place_for(ROOM * memory), device_memory=memory) as ours:
        graph = reading(nbytes)
        refs = _objects(ours, nbytes, round(max(fills) * OBJECTS_AT_FULL))
        for _ in range(min(3, setting.rounds)):
            for fill in fills:
                rate, hit = _circle(ours, graph, refs[: round(fill * OBJECTS_AT_FULL)])
                rates[fill].append(rate)
                hits[fill].append(hit)
    for fill in fills[1:]:
        yield compare(_words(fill), "/s", rates[fill], _words(HALF), rates[HALF])
    for fill in fills:
        best = [min(1.0, CACHE_SHARE / fill)] * len(hits[fill])
        bar = bars.HIT_RATE if fill == BARRED else None
        yield compare(f"{_words(fill)}: hit rate", "", hits[fill], "best possible", best, bar)


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


def _circle(ours: Serving, graph: Graph, refs: list[BufferRef]) -> tuple[float, float]:
    """Executor's requests per second, and which part of them found their object on the device."""
    for ref in islice(cycle(refs), WARM_PASSES * len(refs)):
        ours.client.run(graph, x=ref)
    results = [ours.client.run(graph, x=ref) for ref in islice(cycle(refs), PASSES * len(refs))]
    spent_us = sum(each.timings.total for each in results)
    return len(results) / spent_us * 1e6, sum(not each.cache.misses for each in results) / len(results)
