"""What a request costs on top of the broker: kaasq beside an echo, workers written by hand, and Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np

from kaasq.extras import install
from kaasq.ids import new_id
from kaasq.processors import BUSY_POLL_S
from kaasq.topology import QueueType
from kaasq_bench import bars
from kaasq_bench.figures import Bar, Row, compare
from kaasq_bench.graphs import noop, saxpy
from kaasq_bench.loads import KaasqLoad, Load, Loaded
from kaasq_bench.peers.rpc_client import PEER_QUEUE, RpcClient
from kaasq_bench.rabbitmq.traces import remove_queues
from kaasq_bench.rounds import interleaved
from kaasq_bench.serving import Serving, child, served, serving
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case

OUTSTANDING = (1, 8, 64)
FIGURES = {"p50": ("ms", "p50_ms"), "p99": ("ms", "p99_ms"), "throughput": ("/s", "per_s")}
HEADLINES = (("p50", OUTSTANDING[0]), ("throughput", OUTSTANDING[-1]))
BODY = bytes(256)
SAXPY_FLOATS = 1024  # 4 KiB
ECHO = "pika echo"
BY_HAND = "hand-written"
UNCONFIRMED = "hand-written, no confirms"
CELERY = "Celery"
POLLING_MEMORY = 1 << 30  # of the device, which several workers share here
POLLING = {"kaasq, busy_poll 0": 0.0, "kaasq, busy_poll 0.5 ms": 0.5e-3, "kaasq, busy_poll 1 ms": 1e-3}
ONLY_FULL = "not in a quick run"

Loads = Mapping[tuple[str, int], list[Load]]
"""By side and requests under way: a load for each round."""


class Kind(NamedTuple):
    """Which queue, and whether outcomes are synced to disk."""

    queue_type: QueueType
    sync: bool

    def __str__(self) -> str:
        return f"{self.queue_type}, {'synced' if self.sync else 'not synced'}"


class Barred(NamedTuple):
    """The bars of a peer: on the latency of one at a time, on the throughput of many."""

    p50: Bar | None = None
    per_s: Bar | None = None


def noop_case(kind: Kind, setting: Setting) -> Iterator[Row]:
    """A no-op graph beside the echo, and beside an empty worker written by hand."""
    wanted = _noop_bars(kind)
    if setting.quick and wanted.p50 is None:
        raise NotHere(ONLY_FULL)
    yield from _noop_rows(kind, wanted, setting)


def pool_case(setting: Setting) -> Iterator[Row]:
    """The same on the pool that is served already, as it is. Raises NotHere where none is to be measured."""
    if setting.pool is None:
        raise NotHere("no worker serves a pool of yours")
    kind = Kind(setting.pool.queue_type, setting.pool.settings.store_sync)
    durable = kind != Kind("classic", False)
    yield from _noop_rows(kind, _noop_bars(Kind("quorum", True) if durable else kind), setting)


def polling_case(setting: Setting) -> Iterator[Row]:
    """The same with threads that look for messages before they sleep, for several lengths of time, and with none.

    Raises NotHere in a brief run, and where there is a pool: those are measured as they are set.
    """
    if setting.brief or setting.pool is not None:
        raise NotHere(ONLY_FULL)
    kind = Kind("classic", False)
    with ExitStack() as stack:
        sides: dict[str, Loaded] = {}
        for name, busy_poll in {"kaasq": BUSY_POLL_S, **POLLING}.items():
            ours = serving(
                setting, queue_type="classic", device_memory=POLLING_MEMORY, spare="none", busy_poll=busy_poll
            )
            sides[name] = KaasqLoad(stack.enter_context(ours).client, noop())
        sides[ECHO] = stack.enter_context(_rpc(setting, kind, ("kaasq_bench.peers.echo_server",), BODY))
        loads = measure(replace(setting, brief=True), sides)
    what = f"no-op, {kind}, busy_poll {BUSY_POLL_S * 1e3:g} ms"
    yield from rows(what, loads, {ECHO: Barred(bars.NOOP_P50, bars.NOOP_THROUGHPUT)}, brief=True)


def celery_case(setting: Setting) -> Iterator[Row]:
    """A no-op graph beside a Celery task that gives its argument back."""
    try:
        from kaasq_bench.peers.celery_worker import CeleryLoad
    except ImportError as error:
        raise NotHere(f"needs Celery: {install('bench')} ({error})") from None
    kind, queue = Kind("classic", False), f"{PEER_QUEUE}.celery.{new_id()}"
    url = setting.broker().url
    with (
        _served(setting, kind) as ours,
        child(setting, ["-m", "kaasq_bench.peers.celery_worker", url, queue]),
    ):
        celery = CeleryLoad(url, queue, "b" * len(BODY))
        try:
            celery.answered()
            loads = measure(setting, {"kaasq": KaasqLoad(ours.client, noop()), CELERY: celery})
        finally:
            celery.close()
    remove_queues(url, [queue])
    yield from rows(
        f"no-op, {kind}", loads, {CELERY: Barred(bars.CELERY_P50, bars.CELERY_THROUGHPUT)}, brief=setting.brief
    )


def saxpy_case(setting: Setting) -> Iterator[Row]:
    """4 KiB of saxpy, inputs and output in the messages, beside workers that do the same copies and kernel."""
    kind = Kind("classic", False)
    x = np.arange(SAXPY_FLOATS, dtype=np.float32)
    y = np.ones(SAXPY_FLOATS, dtype=np.float32)
    body = x.tobytes() + y.tobytes()
    _ = setting.broker()
    with _served(setting, kind) as ours, ExitStack() as stack:
        sides: dict[str, Loaded] = {"kaasq": KaasqLoad(ours.client, saxpy(SAXPY_FLOATS), x=x, y=y)}
        by_hand = ("kaasq_bench.peers.hand_written", "saxpy", setting.device)
        sides[BY_HAND] = stack.enter_context(_rpc(setting, kind, (*by_hand, "confirms"), body))
        if not setting.brief:
            sides[UNCONFIRMED] = stack.enter_context(_rpc(setting, kind, by_hand, body))
        loads = measure(setting, sides)
    wanted = Barred(bars.SAXPY_P50, bars.SAXPY_THROUGHPUT) if setting.gpu else Barred()
    yield from rows(f"saxpy of 4 KiB, {kind}", loads, {BY_HAND: wanted, UNCONFIRMED: wanted}, brief=setting.brief)


def measure(setting: Setting, sides: Mapping[str, Loaded]) -> Loads:
    """Every side under every load, in turn."""

    def load(side: Loaded, outstanding: int) -> Callable[[], Load]:
        return lambda: side.load(outstanding, setting.seconds)

    loads: dict[tuple[str, int], list[Load]] = {}
    for outstanding in (OUTSTANDING[0], OUTSTANDING[-1]) if setting.brief else OUTSTANDING:
        given = interleaved(setting.rounds, {name: load(side, outstanding) for name, side in sides.items()})
        loads |= {(name, outstanding): each for name, each in given.items()}
    return loads


def rows(what: str, loads: Loads, barred: Mapping[str, Barred], *, brief: bool) -> Iterator[Row]:
    """Latencies and throughput of both sides at every load, beside each peer; a brief run's two that can have bars."""
    for peer in dict.fromkeys(side for side, _ in loads if side != "kaasq"):
        for (figure, (unit, field)), n in product(FIGURES.items(), dict.fromkeys(each for _, each in loads)):
            if not brief or (figure, n) in HEADLINES:
                ours, theirs = ([float(getattr(each, field)) for each in loads[side, n]] for side in ("kaasq", peer))
                bar = _bar(barred.get(peer, Barred()), figure, n)
                yield compare(f"{what}: {figure} at {n}", unit, ours, peer, theirs, bar)


def _bar(barred: Barred, figure: str, outstanding: int) -> Bar | None:
    return {HEADLINES[0]: barred.p50, HEADLINES[1]: barred.per_s}.get((figure, outstanding))


def _noop_rows(kind: Kind, wanted: Barred, setting: Setting) -> Iterator[Row]:
    _ = setting.broker()
    with _served(setting, kind) as ours, ExitStack() as stack:
        sides: dict[str, Loaded] = {"kaasq": KaasqLoad(ours.client, noop())}
        sides[ECHO] = stack.enter_context(_rpc(setting, kind, ("kaasq_bench.peers.echo_server",), BODY))
        if not setting.brief:
            by_hand = ("kaasq_bench.peers.hand_written", "noop", setting.device, "confirms")
            sides[BY_HAND] = stack.enter_context(_rpc(setting, kind, by_hand, BODY))
        yield from rows(f"no-op, {kind}", measure(setting, sides), {ECHO: wanted}, brief=setting.brief)


def _noop_bars(kind: Kind) -> Barred:
    """The bars are for the least that each queue type is chosen for: speed, or that nothing is ever lost."""
    if kind == Kind("classic", False):
        return Barred(bars.NOOP_P50, bars.NOOP_THROUGHPUT)
    if kind == Kind("quorum", True):
        return Barred(bars.DURABLE_P50, bars.DURABLE_THROUGHPUT)
    return Barred()


def _served(setting: Setting, kind: Kind) -> AbstractContextManager[Serving]:
    return served(setting, queue_type=kind.queue_type, sync=kind.sync, storing=False)


@contextmanager
def _rpc(setting: Setting, kind: Kind, server: Sequence[str], body: bytes) -> Iterator[RpcClient]:
    """A server process of a peer, answering, and its client."""
    url, queue = setting.broker().url, f"{PEER_QUEUE}.peer.{new_id()}"
    module, *arguments = server
    client = RpcClient(url, queue, kind.queue_type, body)
    try:
        with child(setting, ["-m", module, url, queue, *arguments]):
            client.answered()
            yield client
    finally:
        client.close()


CASES = (
    *(
        Case(f"no-op, {kind}", partial(noop_case, kind))
        for kind in (Kind("classic", False), Kind("classic", True), Kind("quorum", False), Kind("quorum", True))
    ),
    Case("no-op, looking for messages before sleeping", polling_case),
    Case("no-op beside Celery", celery_case),
    Case("saxpy beside workers written by hand", saxpy_case),
)
