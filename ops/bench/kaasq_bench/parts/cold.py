"""What a first request costs: of a module, of a worker, of an executor that replaces a dead one.

Beside it a fresh process for each request, the naive way.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from kaasq.ids import new_id
from kaasq_bench import bars
from kaasq_bench.figures import Row, compare
from kaasq_bench.graphs import saxpy
from kaasq_bench.peers.fresh_process import N
from kaasq_bench.peers.tenants import finished
from kaasq_bench.rounds import interleaved, seconds
from kaasq_bench.serving import Serving, Spare, serving
from kaasq_bench.setting import Setting
from kaasq_bench.sources import SAXPY
from kaasq_bench.suite import Case

FEW_ROUNDS = 3  # of seconds each
SPARES: tuple[Spare, ...] = ("none", "imported", "opened")
SPARE_READY_S = 4.0  # it is started half a second after its predecessor took over, and loads
FRESH = "fresh process"
X, Y = np.arange(N, dtype=np.float32), np.ones(N, dtype=np.float32)


def first_case(setting: Setting) -> Iterator[Row]:
    """A warm request, one of a module that nobody has seen, and one that has to wait for its worker to start."""
    with serving(setting) as ours:
        known = saxpy(N)
        ours.client.run(known, x=X, y=Y)
        given = interleaved(
            min(FEW_ROUNDS, setting.rounds),
            {
                "warm request": lambda: seconds(lambda: ours.client.run(known, x=X, y=Y)),
                "first request of a new module": lambda: seconds(lambda: _new_module(ours)),
                "first request of a new worker": lambda: _new_worker_s(setting),
                FRESH: lambda: seconds(lambda: _fresh(setting)),
            },
            warm_up=False,
        )
    for what, times in given.items():
        if what != FRESH:
            ours_ms, fresh_ms = [[each * 1e3 for each in side] for side in (times, given[FRESH])]
            yield compare(what, "ms", ours_ms, FRESH, fresh_ms)


def _new_module(ours: Serving) -> None:
    """Client, broker and worker are warm; the source was never compiled."""
    ours.client.run(saxpy(N, f"{SAXPY}// {new_id()}\n"), x=X, y=Y)


def _new_worker_s(setting: Setting) -> float:
    """From starting its process to the reply, with modules that were compiled before."""
    start = time.perf_counter()
    with serving(setting) as fresh:
        fresh.client.run(saxpy(N), x=X, y=Y)
        return time.perf_counter() - start


def _fresh(setting: Setting) -> None:
    finished(setting, ["-m", "kaasq_bench.peers.fresh_process", setting.device, new_id(), str(setting.disk)])


def restart_case(setting: Setting) -> Iterator[Row]:
    """A request just after its worker's executor was killed, by what stood by to replace it."""
    with ExitStack() as stack:
        workers = {kind: stack.enter_context(serving(setting, spare=kind)) for kind in SPARES}
        given = interleaved(
            min(FEW_ROUNDS, setting.rounds),
            {kind: functools.partial(_restarted_s, each) for kind, each in workers.items()},
        )
    bare_ms = [each * 1e3 for each in given["none"]]
    for kind in SPARES[1:]:
        bar = bars.RESTART_MS if setting.gpu else None
        times_ms = [each * 1e3 for each in given[kind]]
        yield compare(f"first request after a death, spare {kind}", "ms", times_ms, "no spare", bare_ms, bar)


def _restarted_s(ours: Serving) -> float:
    pid = ours.client.run(saxpy(N), x=X, y=Y).worker.pid
    time.sleep(SPARE_READY_S)
    os.kill(pid, signal.SIGKILL)
    return seconds(lambda: ours.client.run(saxpy(N), x=X, y=Y))


CASES = (Case("first requests", first_case), Case("after an executor's death", restart_case))
