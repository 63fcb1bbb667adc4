"""Publishes jobs at the times of a trace, whether or not those before have ended, and says how long each took."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import kaasq
from examples.trace_replay.arrivals import Arrival
from examples.trace_replay.jobs import KINDS, Job, Jobs, padded
from kaasq.units import duration, size

PERCENTILES = (50, 90, 99)
LEAD_S = 0.05  # until the first one is due


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job went: ``ok``, ``wrong`` or an error's code. Times in seconds since the replay began.

    Its latency counts from when it was due, so that it includes what a busy replay was late.
    """

    arrival: Arrival
    due_s: float
    published_s: float
    ended_s: float
    word: str

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.due_s


async def replay(
    client: kaasq.AsyncClient, arrivals: Sequence[Arrival], *, speed: float = 1.0, timeout_s: float = 60.0
) -> list[Outcome]:
    """Publish each at its time; faster with a ``speed`` above 1. Each kind and size runs once before that."""
    jobs = Jobs(client)
    for kind, n in sorted({(each.kind, padded(each.size)) for each in arrivals}):
        await jobs.prepare(kind, n)
    loop = asyncio.get_running_loop()
    start = loop.time() + LEAD_S
    running = []
    for each in arrivals:
        job = jobs.job(each.kind, each.size)
        due_s = each.at_s / speed
        await asyncio.sleep(max(0.0, start + due_s - loop.time()))
        published_s = loop.time() - start
        future = client.submit(job.graph, signal=job.signal, timeout=timeout_s)
        running.append(asyncio.create_task(_outcome(job, future, each, start, due_s, published_s)))
    return await asyncio.gather(*running)


async def _outcome(
    job: Job, future: asyncio.Future[kaasq.Result], arrival: Arrival, start: float, due_s: float, published_s: float
) -> Outcome:
    try:
        word = "ok" if job.holds(await future) else "wrong"
    except kaasq.KaasqError as error:
        word = error.code
    return Outcome(arrival, due_s, published_s, asyncio.get_running_loop().time() - start, word)


def report(outcomes: Sequence[Outcome], speed: float = 1.0) -> str:
    """For each kind what was offered, what became of it, and how long it took."""
    last = max(each.due_s for each in outcomes)
    late = np.array([each.published_s - each.due_s for each in outcomes])
    lines = [
        f"{len(outcomes)} jobs offered over {duration(last * 1e6)}, at {speed:g} times the trace's speed",
        f"{'':12}{'offered':>9}{'per s':>8}{'mean size':>11}{'ok':>7}{'failed':>8}"
        + "".join(f"{f'p{each}':>10}" for each in PERCENTILES)
        + f"{'longest':>10}",
    ]
    for kind in KINDS:
        those = [each for each in outcomes if each.arrival.kind == kind]
        if not those:
            continue
        good = [each.latency_s for each in those if each.word == "ok"]
        times = [*np.percentile(good, PERCENTILES), max(good)] if good else []
        mean = np.mean([4 * each.arrival.size for each in those])
        lines.append(
            f"{kind:12}{len(those):9}{len(those) / max(last, 1e-9):8.1f}{size(int(mean)):>11}{len(good):7}"
            f"{len(those) - len(good):8}" + "".join(f"{duration(each * 1e6):>10}" for each in times)
        )
    words = Counter(each.word for each in outcomes if each.word != "ok")
    if words:
        lines.append("failed: " + ", ".join(f"{count} {word}" for word, count in words.most_common()))
    finished = max(each.ended_s for each in outcomes) - last
    lines.append(f"the last one ended {duration(max(0.0, finished) * 1e6)} after the last was due")
    lines.append(
        f"published late by {duration(float(np.percentile(late, 99)) * 1e6)} (p99), at most "
        f"{duration(float(late.max()) * 1e6)}; latencies include that"
    )
    return "\n".join(lines)
