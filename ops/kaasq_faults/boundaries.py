"""Kills a worker's processes at every moment there is in the life of a workflow and of a chain, one after the other.

The workflow has all that one can have. It is run once without a death, and what passes is written down; then once for
each moment of that, with a death there. However it is killed, it ends alike, and each step has been done once.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

import kaasq
from kaasq import Output, Then
from kaasq.flows.model import FlowStatus
from kaasq.ids import new_id
from kaasq_faults.deaths import Deaths
from kaasq_faults.members import Member, Watch, wait_until
from kaasq_storage import open_store

N, ITEMS = 4, 2
TIMEOUT_S = 60.0
LATE_S = 5.0
TENANT = "guest"

# What a workflow's messages do by default, and with each step through the broker.
MODES = {"onward": {"KAASQ_CHAIN_SPILL": "3600"}, "broker": {"KAASQ_CHAIN_SPILL": "0"}}

SOURCE = r"""
#include <assert.h>
extern "C" int access(const char* path, int mode);
extern "C" __global__ void add(float a, const float* x, float* out, float* mark)
{ out[threadIdx.x] = a * x[threadIdx.x] + 1; if (threadIdx.x == 0) mark[0] = a * x[0] + 1; }
extern "C" __global__ void flaky(const float* x, float* out)
{ assert(access("FOLDER/failed", 0) == 0); out[threadIdx.x] = x[threadIdx.x]; }
extern "C" __global__ void never(const float* x, float* out) { assert(x[0] < 0); out[threadIdx.x] = 0; }
extern "C" __global__ void count(const float* x, float* next, float* left)
{ next[threadIdx.x] = x[threadIdx.x] + 1; if (threadIdx.x == 0) left[0] = 20 - next[0]; }
"""


OUTPUTS = {"add": ("out", "mark"), "flaky": ("out",), "never": ("out",), "count": ("next", "left")}


class Ran(NamedTuple):
    """How something ended: what was told, how it stands, and of what was kept the versions and numbers."""

    told: Any
    steps: Sequence[Any]
    kept: dict[str, tuple[int, float]]


@dataclass
class Report:
    """What came of it: deaths by moment, and every breach."""

    passed: dict[str, int] = field(default_factory=dict)
    """How many moments there are, by what is run."""
    deaths: Counter[str] = field(default_factory=Counter)
    twice: int = 0
    """Runs in which two processes died."""
    problems: list[str] = field(default_factory=list)

    def merge(self, other: Report) -> None:
        """Add what another one gave."""
        self.passed |= other.passed
        self.deaths += other.deaths
        self.twice += other.twice
        self.problems += other.problems


class Boundaries:
    """A worker on a broker, started again whenever it dies; what runs on it, time and again."""

    def __init__(self, folder: Path, url: str, mode: str) -> None:
        folder.mkdir(parents=True)
        self.mode = mode
        self._url, self._pool, self._store = url, f"f{new_id()[-10:]}", folder / "store"
        self.deaths = Deaths(folder / "deaths")
        self._graphs = _graphs(self.deaths.folder)
        environment = self.deaths.environment({**os.environ, **MODES[mode]})
        environment["KAASQ_WORKFLOW_PATIENCE"] = "3600"  # nothing may be left to that
        command = [sys.executable, "-m", "kaasq", "worker", "--broker", url, "--pool", self._pool]
        command += ["--store", str(self._store), "--device", "cpu", "--prefetch", "1", "--log-format", "json"]
        self._worker = Member("worker", command, environment, folder)
        self._watch = Watch([self._worker])
        self._doomed = False

    def __enter__(self) -> Self:
        self._worker.start()
        if not wait_until(lambda: any(e["event"] == "worker.started" for e in self._worker.events()), TIMEOUT_S):
            self._worker.end()
            raise RuntimeError(f"the worker did not start:\n{self._worker.log_path.read_text()[-2000:]}")
        self._watch.start()
        self._client = kaasq.Client(self._url, pool=self._pool, store=self._store, timeout=TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._watch.stop()
        self._worker.end()

    def run(self, draw: random.Random, share: float, pairs: int) -> Report:
        """Die at that share of all moments, drawn; and ``pairs`` times at one of them and another one soon after."""
        report = Report()
        for kind in (self._flow, self._chain):
            name = f"{self.mode} {kind.__name__.strip('_')}"
            kind(f"warm-{new_id()[-6:]}")  # everything is compiled
            self.deaths.forget()
            trace = self.deaths.folder / "trace"
            trace.touch()
            wanted = kind(f"undisturbed-{new_id()[-6:]}")
            moments = trace.read_text().splitlines()
            trace.unlink()
            report.passed[name] = len(moments)
            chosen = [each for each in moments if draw.random() < share]
            soon = [(draw.choice(moments), draw.randint(1, 12)) for _ in range(pairs)]
            for moment, second in [*((each, 0) for each in chosen), *soon]:
                report.deaths[moment.split()[0]] += 1
                report.twice += bool(second)
                wrong = self._die_at(moment, second, kind, wanted)
                report.problems += [f"{name}, {moment}{f' and {second} later' * bool(second)}: {e}" for e in wrong]
        return report

    def _die_at(self, moment: str, second: int, kind: Any, wanted: Ran) -> Iterator[str]:
        self.deaths.forget()
        self.deaths.at(moment, second=second)
        self._doomed = True
        try:
            ran = kind(f"{moment.replace(' ', '-')}-{second}-{new_id()[-6:]}")
        except kaasq.KaasqError as error:
            yield f"it ended with {error.code}: {error.message}"
            return
        finally:
            died = self._died()
            self._live()
        if not died:
            yield "nobody died: the moment did not come"
        for what, was, want in zip(Ran._fields, ran, wanted, strict=True):
            if was != want:
                yield f"{what}: {_less(was, want)} instead of {_less(want, was)}"

    # -- what is run -------------------------------------------------------------------------------------------------

    def _flow(self, key: str) -> Ran:
        future = self._client.submit(_workflow(self._graphs, key), x=_full(1), xs=[_full(each) for each in (2, 3)])
        result = future.result()
        self._live()
        status = self._client.attach(result.id).status(items=True)
        told = {name: float(result[name].ravel()[0]) for name in sorted(result)}
        return Ran(told, _ends(status), self._kept(key))

    def _chain(self, key: str) -> Ran:
        add, x = self._graphs["add"], Output("out")

        def then(number: int, **fields: Any) -> Then:
            return Then(add, x=x, keep={"mark": f"{key}/{number}"}, **fields)

        follow = [
            then(1, then=then(2)),
            then(3, when=Output("mark") > 0, name="held"),
            then(4, when=Output("mark") < 0, name="not held"),
        ]
        future = self._client.submit(add, x=_full(1), keep={"mark": f"{key}/0"}, then=follow)
        told = [type(e.exception()).__name__ if e.exception() else float(e.result()["out"][0]) for e in future.then]
        self._live()
        return Ran(told, (), self._kept(key))

    def _live(self) -> None:
        """Nobody dies any more, once somebody has who was to: after the last answer there are moments left."""
        if self._doomed:
            wait_until(self._died, LATE_S)
        self._doomed = False
        self.deaths.never()

    def _died(self) -> bool:
        return any(self.deaths.folder.glob("*-*"))

    def _kept(self, key: str) -> dict[str, tuple[int, float]]:
        found: dict[str, tuple[int, float]] = {}
        with open_store(self._store) as store:
            for each in store.names(TENANT, f"{key}/"):
                with store.open(TENANT, each.object.ref) as reading:
                    first = np.frombuffer(bytes(reading.data), np.float32)[0]
                found[each.name.removeprefix(key)] = each.version, float(first)
        return found


def _less(these: Any, those: Any) -> Any:
    return [each for each in these if each not in those] if isinstance(these, list) else these


def _full(value: float) -> np.ndarray[Any, Any]:
    return np.full(N, value, np.float32)


def _ends(status: FlowStatus) -> list[Any]:
    """How its steps and items ended, and at which attempt."""
    steps = [(each.name, each.state, each.items, each.completed, each.failed) for each in status.steps]
    items = [(each.step, each.item, each.attempt, each.state, each.error and each.error.code) for each in status.items]
    return [status.state, *steps, *sorted(items, key=lambda each: each[:2])]


def _graphs(folder: Path) -> dict[str, kaasq.Graph]:
    module = kaasq.Module.from_source(SOURCE.replace("FOLDER", str(folder)))
    made: dict[str, kaasq.Graph] = {}
    for name, others in OUTPUTS.items():
        graph = made[name] = kaasq.Graph(f"boundaries.{name}")
        x = graph.input("x", shape=N, dtype="float32", const=True)
        given = [graph.output(each, shape=1 if each in {"mark", "left"} else N, dtype="float32") for each in others]
        first = [graph.scalar("a", "float32", default=2.0)] if name == "add" else []
        graph.launch(module.kernel(name), grid=1, block=N, args=[*first, x, *given])
    made["join"] = join = kaasq.Graph("boundaries.join")
    parts = join.input("parts", shape=(ITEMS, N), dtype="float32", const=True)
    join.call("reduce", parts, join.output("sum", shape=(1, 1), dtype="float32"), op="sum", keepdims=True)
    return made


def _workflow(graphs: dict[str, kaasq.Graph], key: str) -> kaasq.Workflow:
    """Has steps in a row, a map of two, a join, conditions, a retry, a sub-workflow, a loop, and an error step."""
    add = graphs["add"]
    inner = kaasq.Workflow("boundaries.inner")
    given = inner.input("x", shape=N, dtype="float32")
    one = inner.step("one", add, x=given, keep={"out": f"{key}/sub/one"})
    two = inner.step("two", add, x=one["out"], keep={"out": f"{key}/sub/two"})
    inner.output("out", two["out"])

    flow = kaasq.Workflow("boundaries.flow")
    x, xs = flow.input("x", shape=N, dtype="float32"), flow.inputs("xs", shape=N, dtype="float32")
    row = flow.step("a", add, x=x, keep={"mark": f"{key}/a"})
    for name in ("b", "c"):
        row = flow.step(name, add, x=row["out"], keep={"mark": f"{key}/{name}"})
    first = flow.map("first", add, x=xs.each, keep={"out": f"{key}/first/{{item}}"})
    second = flow.map("second", add, x=first["out"].each, keep={"out": f"{key}/second/{{item}}"})
    join = flow.step("join", graphs["join"], parts=second["out"], keep={"sum": f"{key}/join"})
    flow.step("yes", add, x=row["out"], when=join["sum"] > 0, keep={"out": f"{key}/yes"})
    flow.step("no", add, x=row["out"], when=join["sum"] < 0, keep={"out": f"{key}/no"})
    again = flow.step("again", graphs["flaky"], x=x, after=join, retries=2, keep={"out": f"{key}/again"})
    sub = flow.step("sub", inner, x=again["out"])
    until = kaasq.repeat({"x": "next"}, until=Output("left") < 1, most=50)
    loop = flow.step("loop", graphs["count"], x=sub["out"], repeat=until, keep={"next": f"{key}/loop"})
    bad = flow.step("bad", graphs["never"], x=loop["next"])
    flow.step("mend", add, x=x, after=bad, on="failed", tolerate=True, keep={"out": f"{key}/mend"})
    flow.output("sum", join["sum"])
    flow.output("loop", loop["next"])
    return flow
