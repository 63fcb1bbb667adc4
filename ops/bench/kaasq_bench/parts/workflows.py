"""What workflows cost: steps in a row, many items at once with their join, and a long chain on large buffers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from kaasq import Client, Workflow
from kaasq.extras import install
from kaasq.ids import new_id
from kaasq_bench import bars
from kaasq_bench.figures import Row, alone, compare
from kaasq_bench.graphs import Floats, adding_up, halving, passing_on
from kaasq_bench.host_copies import counted
from kaasq_bench.parts.chains import CLIENT, QUICKEST, SAFEST, STEPS, ByClient, ByWorker, steps_us
from kaasq_bench.parts.messaging import Kind
from kaasq_bench.peers.rpc_client import PEER_QUEUE
from kaasq_bench.rabbitmq.traces import remove_queues
from kaasq_bench.rounds import interleaved, seconds
from kaasq_bench.serving import child, served, serving
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case

MI = 1 << 20
THEN = "the same with then"
REQUESTS = "as many requests"
CELERY_CHAIN, CELERY_CHORD = "Celery chain", "Celery chord, files"
KERNEL, DEVICE = "its kernel", "its kernel, output zeroed"


class InARow:
    """The graph that passes a number on, so many times, each step with what the one before gave."""

    def __init__(self, client: Client, steps: int) -> None:
        self._client, self._flow = client, Workflow("bench.in-a-row")
        given: Any = self._flow.input("x", shape=1, dtype="float32")
        for number in range(steps):
            given = self._flow.step(f"s{number}", passing_on(), x=given)["x"]
        self._flow.output("out", given)

    def run(self) -> float:
        """The number."""
        return float(self._client.run(self._flow, x=np.ones(1, np.float32))["out"].item())


class Items:
    """So many items of so many floats, 1 on average; of more than one float, no two are ever the same."""

    def __init__(self, items: int, n: int) -> None:
        self._items = np.ones((items, n), np.float32)
        self._number = 0

    def next(self) -> Floats:
        """Others than before."""
        items = self._items.copy()
        if items.shape[1] > 1:
            numbers = np.arange(self._number, self._number + len(items), dtype=np.float32)
            items[:, 0] += numbers
            items[:, 1] -= numbers
            self._number += len(items)
        return items


class FanOut:
    """A list of so many items, each passed on by an item of a map, and a step that adds them up."""

    def __init__(self, client: Client, items: int, n: int = 1) -> None:
        self._client, self._flow = client, Workflow("bench.fan-out")
        given = self._flow.inputs("given", shape=n, dtype="float32")
        passed = self._flow.map("passed", passing_on(n), x=given.each)
        self._flow.output("sum", self._flow.step("sum", adding_up(items, n), parts=passed["x"])["sum"])
        self._items = Items(items, n)

    def run(self) -> float:
        """The sum."""
        return float(self._client.run(self._flow, given=self._items.next())["sum"].item())


class AtOnce:
    """As many requests of that graph, all sent before the first is waited for. Nobody adds up."""

    def __init__(self, client: Client, items: int, n: int = 1) -> None:
        self._client, self._graph, self._items = client, passing_on(n), Items(items, n)

    def run(self) -> None:
        """All of them."""
        for each in [self._client.submit(self._graph, x=x) for x in self._items.next()]:
            each.result()


class Took(NamedTuple):
    """Microseconds of a step: by the clock, with all that the workflow is besides; of its kernel; of that and what the
    device does before and behind it.
    """

    step: float
    kernel: float
    device: float


class Halvings:
    """A chain of steps over so many floats, which the client has stored."""

    def __init__(self, client: Client, steps: int, x: Any, n: int) -> None:
        self._client, self._x, self._steps, self._flow = client, x, steps, Workflow("bench.halvings")
        given: Any = self._flow.input("x", shape=n, dtype="float32")
        for number in range(steps):
            given = self._flow.step(f"s{number}", halving(n), x=given)["out"]
        self._flow.output("out", given)

    def run(self) -> Floats:
        """What comes out."""
        out: Floats = self._client.run(self._flow, x=self._x)["out"]
        return out

    def took(self) -> Took:
        """The same, asked where the time went."""
        start = time.perf_counter()
        run = self._client.start(self._flow, x=self._x)
        run.wait()["out"]
        spent = time.perf_counter() - start
        timings = [each.timings for each in run.status(items=True).items if each.timings is not None]
        kernel = fmean(each.kernel for each in timings)
        device = fmean(each.h2d + each.kernel + each.d2h for each in timings)
        return Took(spent * 1e6 / self._steps, kernel, device)


def noop_case(kind: Kind, setting: Setting) -> Iterator[Row]:
    """Steps in a row, beside requests by the client and beside continuations; items and a join, beside requests."""
    _ = setting.broker()
    items, onward, given = setting.pick(50, 1000), {"x": "x"}, {"x": np.ones(1, np.float32)}
    with served(setting, queue_type=kind.queue_type, sync=kind.sync, storing=False) as ours:
        row = {
            "kaasq": InARow(ours.client, STEPS).run,
            CLIENT: ByClient(ours.client, passing_on(), onward, **given).run,
            THEN: ByWorker(ours.client, passing_on(), onward, **given).run,
        }
        steps = steps_us(setting, row)
        what = f"no-op, {kind}: a step of {STEPS} in a row"
        yield compare(what, "us", steps["kaasq"], CLIENT, steps[CLIENT], bars.STEP_BESIDE_CLIENT)
        yield compare(what, "us", steps["kaasq"], THEN, steps[THEN])
        fan = {"kaasq": FanOut(ours.client, items).run, REQUESTS: AtOnce(ours.client, items).run}
        took = interleaved(setting.rounds, {name: partial(seconds, run) for name, run in fan.items()})
    what = f"no-op, {kind}: {items} items and their join"
    yield compare(what, "s", took["kaasq"], REQUESTS, took[REQUESTS], bars.FAN_OUT_BESIDE_REQUESTS)


def stored_case(kind: Kind, setting: Setting) -> Iterator[Row]:
    """Items that are together too large for a message, and their join, beside requests."""
    _ = setting.broker()
    items, n = setting.pick(50, 1000), 1024
    with served(setting, queue_type=kind.queue_type, sync=kind.sync) as ours:
        sides = {"kaasq": FanOut(ours.client, items, n).run, REQUESTS: AtOnce(ours.client, items, n).run}
        took = interleaved(setting.rounds, {name: partial(seconds, run) for name, run in sides.items()})
    what = f"no-op, {kind}: {items} items of 4 KiB and their join"
    yield compare(what, "s", took["kaasq"], REQUESTS, took[REQUESTS], bars.FAN_OUT_BESIDE_REQUESTS)


def celery_case(setting: Setting) -> Iterator[Row]:
    """Steps in a row beside a chain, and items with their join beside a chord."""
    try:
        from kaasq_bench.peers.celery_worker import CeleryChain, CeleryChord
    except ImportError as error:
        raise NotHere(f"needs Celery: {install('bench')} ({error})") from None
    url, items = setting.broker().url, setting.pick(50, 1000)
    chains, chords = (f"{PEER_QUEUE}.celery.{new_id()}" for _ in range(2))
    results = Path(tempfile.mkdtemp(prefix="celery-", dir=setting.disk))
    module, backend = "kaasq_bench.peers.celery_worker", f"file://{results}"
    with (
        served(setting, queue_type=QUICKEST.queue_type, sync=QUICKEST.sync, storing=False) as ours,
        child(setting, ["-m", module, url, chains]),
        child(setting, ["-m", module, url, chords, backend]),
    ):
        chain, chord = CeleryChain(url, chains, STEPS), CeleryChord(url, chords, backend, items)
        try:
            steps = steps_us(setting, {"kaasq": InARow(ours.client, STEPS).run, CELERY_CHAIN: chain.run})
            sides = {"kaasq": FanOut(ours.client, items).run, CELERY_CHORD: chord.run}
            took = interleaved(setting.rounds, {name: partial(seconds, run) for name, run in sides.items()})
        finally:
            chain.close()
            chord.close()
    remove_queues(url, [chains, chords])
    shutil.rmtree(results, ignore_errors=True)
    what = f"no-op, {QUICKEST}"
    yield compare(f"{what}: a step of {STEPS} in a row", "us", steps["kaasq"], CELERY_CHAIN, steps[CELERY_CHAIN])
    yield compare(f"{what}: {items} items and their join", "s", took["kaasq"], CELERY_CHORD, took[CELERY_CHORD])


def large_case(setting: Setting) -> Iterator[Row]:
    """A long chain on large buffers: its time beside its kernels', and what it copies through the host.

    What is copied is counted in this process, with the messages in memory: by how much a chain copies more for each
    step that it has more.
    """
    _ = setting.broker()
    steps, nbytes = setting.pick((10, MI), (100, 64 * MI))
    n = nbytes // 4
    x, what = np.ones(n, np.float32), f"{steps} steps on {nbytes // MI} MiB"
    folder = setting.place_for(8 * nbytes)
    with serving(setting, folder=folder) as ours:
        chain = Halvings(ours.client, steps, ours.put(x), n)
        took = interleaved(setting.rounds, {"kaasq": chain.took})["kaasq"]
    step = [each.step for each in took]
    yield compare(f"{what}: a step", "us", step, KERNEL, [each.kernel for each in took])
    yield compare(f"{what}: a step", "us", step, DEVICE, [each.device for each in took])
    with counted(setting) as copies, serving(replace(setting, embedded=True), folder=folder) as ours:
        stored = ours.put(x)
        chains = {name: Halvings(ours.client, each, stored, n) for name, each in (("long", steps), ("short", 1))}
        copied = interleaved(setting.rounds, {name: partial(copies.during, each.run) for name, each in chains.items()})
    more = [(long - short) / (steps - 1) for long, short in zip(copied["long"], copied["short"], strict=True)]
    yield alone(f"{what}: bytes through the host, a step", "B", more, bars.BYTES_BETWEEN_STEPS)


CASES = (
    *(Case(f"no-op, {kind}", partial(noop_case, kind)) for kind in (QUICKEST, SAFEST)),
    *(Case(f"items of 4 KiB, {kind}", partial(stored_case, kind)) for kind in (QUICKEST, SAFEST)),
    Case("no-op beside Celery", celery_case),
    Case("large buffers", large_case),
)
