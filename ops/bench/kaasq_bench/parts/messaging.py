"""What a request costs on top of the broker: kaasq beside an echo, workers written by hand, and Celery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from kaasq.ids import new_id
from kaasq_bench import bars
from kaasq_bench.figures import Bar, Row, compare
from kaasq_bench.graphs import noop, saxpy
from kaasq_bench.loads import KaasqLoad, Load, Loaded
from kaasq_bench.peers.rpc_client import QueueType, RpcClient
from kaasq_bench.rounds import interleaved
from kaasq_bench.serving import child, serving
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case

OUTSTANDING = (1, 8, 64)
BODY = bytes(256)
SAXPY_FLOATS = 1024  # 4 KiB
ECHO = "pika echo"
BY_HAND = "hand-written"
UNCONFIRMED = "hand-written, no confirms"
CELERY = "Celery"
ONLY_FULL = "not in a quick run"

Loads = Mapping[tuple[str, int], list[Load]]
"""By side and requests under way: a load for each round."""


class Kind(NamedTuple):
    """Which queue, and whether outcomes are synced to disk."""

    queue_type: QueueType
    sync: bool

    def __str__(self) -> str:
        return f"{self.queue_type}, {'synced' if self.sync else 'not synced'}"


class Wanted(NamedTuple):
    """A row: a figure of both sides with so many requests under way."""

    peer: str
    figure: str
    outstanding: int
    bar: Bar | None = None


def noop_case(kind: Kind, setting: Setting) -> Iterator[Row]:
    """A no-op graph beside the echo, and beside an empty worker written by hand."""
    p50, per_s = _noop_bars(kind)
    if setting.quick and p50 is None:
        raise NotHere(ONLY_FULL)
    with serving(setting, queue_type=kind.queue_type, sync=kind.sync) as ours, ExitStack() as stack:
        sides: dict[str, Loaded] = {"kaasq": KaasqLoad(ours.client, noop())}
        sides[ECHO] = stack.enter_context(_rpc(setting, kind, ("kaasq_bench.peers.echo_server",), BODY))
        by_hand = ("kaasq_bench.peers.hand_written", "noop", setting.device, "confirms")
        sides[BY_HAND] = stack.enter_context(_rpc(setting, kind, by_hand, BODY))
        loads = measure(setting, sides)
    wanted = [Wanted(ECHO, "p50", 1, p50)]
    wanted += [Wanted(ECHO, "p50", n) for n in OUTSTANDING[1:]]
    wanted += [Wanted(ECHO, "p99", n) for n in OUTSTANDING]
    wanted += [Wanted(ECHO, "throughput", n, per_s if n == OUTSTANDING[-1] else None) for n in OUTSTANDING]
    wanted += [Wanted(BY_HAND, "p50", 1), Wanted(BY_HAND, "throughput", OUTSTANDING[-1])]
    yield from rows(f"no-op, {kind}", loads, wanted)


def celery_case(setting: Setting) -> Iterator[Row]:
    """A no-op graph beside a Celery task that gives its argument back."""
    try:
        from kaasq_bench.peers.celery_worker import CeleryLoad
    except ImportError as error:
        raise NotHere(f"needs Celery: pip install 'kaasq[bench]' ({error})") from None
    kind, queue = Kind("classic", False), f"bench.celery.{new_id()}"
    url = setting.broker().url
    with (
        serving(setting, queue_type=kind.queue_type, sync=kind.sync) as ours,
        child(setting, ["-m", "kaasq_bench.peers.celery_worker", url, queue]),
    ):
        celery = CeleryLoad(url, queue, "b" * len(BODY))
        try:
            celery.answered()
            loads = measure(setting, {"kaasq": KaasqLoad(ours.client, noop()), CELERY: celery})
        finally:
            celery.close()
    wanted = [Wanted(CELERY, "p50", 1, bars.CELERY_P50), Wanted(CELERY, "p99", 1)]
    wanted += [Wanted(CELERY, "throughput", OUTSTANDING[-1], bars.CELERY_THROUGHPUT)]
    yield from rows(f"no-op, {kind}", loads, wanted)


def saxpy_case(setting: Setting) -> Iterator[Row]:
    """4 KiB of saxpy, inputs and output in the messages, beside workers that do the same copies and kernel."""
    kind = Kind("classic", False)
    x = np.arange(SAXPY_FLOATS, dtype=np.float32)
    y = np.ones(SAXPY_FLOATS, dtype=np.float32)
    body = x.tobytes() + y.tobytes()
    with serving(setting, queue_type=kind.queue_type, sync=kind.sync) as ours, ExitStack() as stack:
        sides: dict[str, Loaded] = {"kaasq": KaasqLoad(ours.client, saxpy(SAXPY_FLOATS), x=x, y=y)}
        by_hand = ("kaasq_bench.peers.hand_written", "saxpy", setting.device)
        sides[BY_HAND] = stack.enter_context(_rpc(setting, kind, (*by_hand, "confirms"), body))
        sides[UNCONFIRMED] = stack.enter_context(_rpc(setting, kind, by_hand, body))
        loads = measure(setting, sides)
    p50, per_s = (bars.SAXPY_P50, bars.SAXPY_THROUGHPUT) if setting.gpu else (None, None)
    wanted: list[Wanted] = []
    for peer in (BY_HAND, UNCONFIRMED):
        wanted += [Wanted(peer, "p50", 1, p50), Wanted(peer, "p99", 1), Wanted(peer, "throughput", 8)]
        wanted += [Wanted(peer, "throughput", 64, per_s)]
    yield from rows(f"saxpy of 4 KiB, {kind}", loads, wanted)


def measure(setting: Setting, sides: Mapping[str, Loaded]) -> Loads:
    """Every side under every load, in turn."""

    def load(side: Loaded, outstanding: int) -> Callable[[], Load]:
        return lambda: side.load(outstanding, setting.seconds)

    loads: dict[tuple[str, int], list[Load]] = {}
    for outstanding in OUTSTANDING:
        given = interleaved(setting.rounds, {name: load(side, outstanding) for name, side in sides.items()})
        loads |= {(name, outstanding): each for name, each in given.items()}
    return loads


def rows(what: str, loads: Loads, wanted: Sequence[Wanted]) -> Iterator[Row]:
    """The rows that are wanted of these loads."""
    units = {"p50": ("ms", "p50_ms"), "p99": ("ms", "p99_ms"), "throughput": ("/s", "per_s")}
    for peer, figure, outstanding, bar in wanted:
        unit, field = units[figure]
        ours, theirs = ([float(getattr(each, field)) for each in loads[side, outstanding]] for side in ("kaasq", peer))
        yield compare(f"{what}: {figure} at {outstanding}", unit, ours, peer, theirs, bar)


def _noop_bars(kind: Kind) -> tuple[Bar | None, Bar | None]:
    """The bars are for the least that each queue type is chosen for: speed, or that nothing is ever lost."""
    if kind == Kind("classic", False):
        return bars.NOOP_P50, bars.NOOP_THROUGHPUT
    if kind == Kind("quorum", True):
        return bars.DURABLE_P50, bars.DURABLE_THROUGHPUT
    return None, None


@contextmanager
def _rpc(setting: Setting, kind: Kind, server: Sequence[str], body: bytes) -> Iterator[RpcClient]:
    """A server process of a peer, answering, and its client."""
    url, queue = setting.broker().url, f"bench.peer.{new_id()}"
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
    Case("no-op beside Celery", celery_case),
    Case("saxpy beside workers written by hand", saxpy_case),
)
