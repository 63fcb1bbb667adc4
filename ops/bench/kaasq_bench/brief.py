"""The short version of the suite, for a user's own machine: what has a bar, and how long each takes, about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from kaasq_bench.figures import Row
from kaasq_bench.parts import cold, copies, cpu, messaging, overhead, sharing
from kaasq_bench.parts.messaging import Kind
from kaasq_bench.parts.pressure import pressure_case
from kaasq_bench.setting import NotHere, Setting
from kaasq_bench.suite import Case


class Brief(NamedTuple):
    """A case of the short version. ``barred``: only its rows with bars are of interest here."""

    part: str
    case: Case
    about_s: float
    barred: bool = True


PARTS = ("messaging", "overhead", "copies", "sharing", "cpu", "cold")


def briefs(parts: Sequence[str], *, pool: bool, gpu: bool) -> list[Brief]:
    """What is run: on a pool that is served already, or on workers of our own."""
    classic, quorum = Kind("classic", False), Kind("quorum", True)
    if pool:
        noops = [Brief("messaging", Case("no-op on your pool", messaging.pool_case), 4, barred=False)]
    else:
        noops = [
            Brief("messaging", Case(f"no-op, {kind}", partial(messaging.noop_case, kind)), 6)
            for kind in (classic, quorum)
        ]
    given = [
        *noops,
        Brief("messaging", Case("no-op beside Celery", messaging.celery_case), 8),
        Brief("overhead", Case("small launches", overhead.launches_case), 4, barred=gpu),
        Brief("overhead", Case("Jacobi", overhead.jacobi_case), 4, barred=gpu),
        Brief("overhead", Case("matrix products", overhead.products_case), 3, barred=gpu),
        Brief("copies", Case("objects in shared memory", partial(copies.place_case, copies.SHARED)), 4),
        Brief("sharing", Case("tenants", sharing.tenants_case), 8),
        Brief("sharing", Case("a process for each tenant", sharing.processes_case), 7),
        Brief("sharing", Case("more data than the device holds", pressure_case), 5),
        *(Brief("cpu", case, 1.5) for case in cpu.CASES),
        Brief("cold", Case("first requests", cold.first_case), 10, barred=False),
    ]
    if gpu:
        saxpy = Brief("messaging", Case("saxpy beside a worker written by hand", messaging.saxpy_case), 6)
        grids = Brief("sharing", Case("small kernels in flight", sharing.small_grids_case), 5)
        given = [*given, saxpy, grids]
    return sorted((each for each in given if each.part in parts), key=lambda each: PARTS.index(each.part))


def shown(brief: Brief) -> Case:
    """Its case, with the rows that are of interest alone."""

    def measure(setting: Setting) -> Iterator[Row]:
        found = False
        for row in brief.case.measure(setting):
            if row.bar is not None or not brief.barred:
                found = True
                yield row
        if not found:
            raise NotHere("has no bar here")

    return Case(brief.case.name, measure)
