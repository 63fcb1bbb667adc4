"""What a step of a chain costs: beside a client that sends the same requests one by one, and beside Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from kaasq import Client, Graph, Output, Then
from kaasq.extras import install
from kaasq.ids import new_id
from kaasq_bench import bars
from kaasq_bench.figures import Row, compare
from kaasq_bench.graphs import noop, saxpy
from kaasq_bench.parts.messaging import ONLY_FULL, SAXPY_FLOATS, Kind
from kaasq_bench.peers.rpc_client import PEER_QUEUE
from kaasq_bench.rabbitmq.traces import remove_queues
from kaasq_bench.rounds import interleaved, median_us
from kaasq_bench.serving import child, served
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case

STEPS = 20
REPEATS = 5  # chains behind one figure of a round, which is that of the median one
CLIENT = "a client's round trips"
CELERY = "Celery chain"
QUICKEST, BETWEEN, SAFEST = Kind("classic", False), Kind("quorum", False), Kind("quorum", True)


class ByClient:
    """Requests of one graph, each sent once the one before has its reply."""

    def __init__(self, client: Client, graph: Graph, onward: Mapping[str, str], **bindings: Any) -> None:
        """``onward``: which output of the one before each input is, by name."""
        self._client, self._graph, self._onward, self._bindings = client, graph, onward, bindings

    def run(self) -> None:
        """All of them."""
        bindings = self._bindings
        for _ in range(STEPS):
            result = self._client.run(self._graph, **bindings)
            bindings = {**bindings, **{name: result[output] for name, output in self._onward.items()}}


class ByWorker:
    """The same requests as continuations of the first."""

    def __init__(self, client: Client, graph: Graph, onward: Mapping[str, str], **bindings: Any) -> None:
        self._client, self._graph, self._bindings = client, graph, bindings
        given = {**bindings, **{name: Output(output) for name, output in onward.items()}}
        self._then: tuple[Then, ...] = ()
        for _ in range(STEPS - 1):
            self._then = (Then(graph, then=self._then, **given),)

    def run(self) -> None:
        """All of them, until the last one's reply has come."""
        self._client.submit(self._graph, then=self._then, **self._bindings).then[-1].result()


def noop_case(kind: Kind, setting: Setting) -> Iterator[Row]:
    """A no-op graph, again and again."""
    if setting.quick and kind == BETWEEN:
        raise NotHere(ONLY_FULL)
    _ = setting.broker()
    with served(setting, queue_type=kind.queue_type, sync=kind.sync, storing=False) as ours:
        yield _row(f"no-op, {kind}", setting, ours.client, noop(), {})


def saxpy_case(setting: Setting) -> Iterator[Row]:
    """4 KiB that each step takes from the one before, in the messages."""
    _ = setting.broker()
    ones = np.ones(SAXPY_FLOATS, dtype=np.float32)
    with served(setting, storing=False) as ours:
        yield _row(
            f"saxpy of 4 KiB, {QUICKEST}", setting, ours.client, saxpy(SAXPY_FLOATS), {"x": "out"}, x=ones, y=ones
        )


def celery_case(setting: Setting) -> Iterator[Row]:
    """A chain of tasks that each give their argument back."""
    try:
        from kaasq_bench.peers.celery_worker import CeleryChain
    except ImportError as error:
        raise NotHere(f"needs Celery: {install('bench')} ({error})") from None
    queue, url = f"{PEER_QUEUE}.celery.{new_id()}", setting.broker().url
    with (
        served(setting, queue_type=QUICKEST.queue_type, sync=QUICKEST.sync, storing=False) as ours,
        child(setting, ["-m", "kaasq_bench.peers.celery_worker", url, queue]),
    ):
        celery = CeleryChain(url, queue, STEPS)
        try:
            celery.run()
            sides = {"kaasq": ByWorker(ours.client, noop(), {}).run, CELERY: celery.run}
            steps = steps_us(setting, sides)
        finally:
            celery.close()
    remove_queues(url, [queue])
    yield compare(f"no-op, {QUICKEST}: a step of {STEPS}", "us", steps["kaasq"], CELERY, steps[CELERY])


def _row(what: str, setting: Setting, client: Client, graph: Graph, onward: Mapping[str, str], **given: Any) -> Row:
    sides = {
        "kaasq": ByWorker(client, graph, onward, **given).run,
        CLIENT: ByClient(client, graph, onward, **given).run,
    }
    steps = steps_us(setting, sides)
    return compare(f"{what}: a step of {STEPS}", "us", steps["kaasq"], CLIENT, steps[CLIENT], bars.STEP_BESIDE_CLIENT)


def steps_us(setting: Setting, sides: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Of each side and round, the time of a chain by the number of its steps."""

    def step(run: Callable[[], object]) -> Callable[[], float]:
        return lambda: median_us(run, REPEATS) / STEPS

    return interleaved(setting.rounds, {name: step(run) for name, run in sides.items()})


CASES = (
    *(Case(f"no-op, {kind}", partial(noop_case, kind)) for kind in (QUICKEST, BETWEEN, SAFEST)),
    Case("saxpy", saxpy_case),
    Case("no-op beside Celery", celery_case),
)
