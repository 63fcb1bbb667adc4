"""Kernels that crash, hang or want too much, among other tenants' requests: each told the truth, the others served."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import kaasq
from kaasq.errors import KaasqError
from kaasq_faults.audit import Verdict
from kaasq_faults.campaign import WARM_S
from kaasq_faults.rig import Rig

CULPRIT = "mallory"
PASSWORD = "secret"
TIMEOUT_S = 60.0
ENDLESS_S = 2.0
HUGE_BYTES = 1 << 39
SMALL_BYTES = 64


class Case(NamedTuple):
    """A request that cannot go well, and the codes that are the truth about it."""

    source: str
    codes: frozenset[str]
    nbytes: int = SMALL_BYTES
    timeout_s: float = TIMEOUT_S


FAILED = frozenset({"kernel_failed"})
ADDRESS = 'extern "C" __global__ void k(int* out) { *(volatile int*)(size_t)(blockIdx.x + 8) = 1; out[0] = 1; }'
ENDLESS = 'extern "C" __global__ void k(volatile int* out) { while (out[0] == 0) { out[1] = out[1] + 1; } }'
ASSERT = '#include <cassert>\nextern "C" __global__ void k(int* out) { assert(out[0] == 1); }'
HARMLESS = 'extern "C" __global__ void k(int* out) { out[0] = 1; }'
ABORT = 'extern "C" void abort();\nextern "C" __global__ void k(int* out) { out[0] = 1; abort(); }'
OVERFLOW = r"""
__device__ int deep(volatile int* out, int n)
{ volatile int room[1000]; room[n % 1000] = n; return n == 0 ? out[0] : deep(out, n + 1) + room[(n + 1) % 1000]; }
extern "C" __global__ void k(volatile int* out) { out[1] = deep(out, 1); }
"""
STOPPED = frozenset({"deadline_exceeded"})
TOO_LARGE = frozenset({"out_of_memory"})

CASES: dict[str, dict[str, Case]] = {
    "cpu": {
        "segfault": Case(ADDRESS, FAILED),
        "abort": Case(ABORT, FAILED),
        "stack overflow": Case(OVERFLOW, FAILED),
        "endless loop": Case(ENDLESS, STOPPED, timeout_s=ENDLESS_S),
        "out of memory": Case(HARMLESS, TOO_LARGE, nbytes=HUGE_BYTES),
    },
    "cuda": {
        "illegal address": Case(ADDRESS, FAILED),
        "assert": Case(ASSERT, FAILED),
        "endless loop": Case(ENDLESS, STOPPED, timeout_s=ENDLESS_S),
        "out of memory": Case(HARMLESS, TOO_LARGE, nbytes=HUGE_BYTES),
    },
}


@dataclass
class KernelReport:
    """What they gave."""

    told: dict[str, Counter[str]] = field(default_factory=dict)
    """By case, the codes that their sender was told."""
    verdict: Verdict = field(default_factory=Verdict)
    """Of the others."""
    seconds: dict[str, list[float]] = field(default_factory=dict)


def run(rig: Rig, count: int) -> KernelReport:
    """So many of them, in an order that the seed decides, from a user of their own."""
    report = KernelReport()
    cases = CASES[rig.size.device.partition(":")[0]]
    draw = random.Random(rig.seed)
    names = [list(cases)[number % len(cases)] for number in range(count)]
    draw.shuffle(names)
    rig.node.management.add_user(CULPRIT, PASSWORD)
    rig.node.management.set_permissions(CULPRIT)
    place = urlsplit(rig.node.url)
    url = place._replace(netloc=f"{CULPRIT}:{PASSWORD}@{place.hostname}:{place.port}").geturl()
    problems: list[str] = []
    time.sleep(WARM_S)
    with kaasq.Client(url, pool=rig.pool, store=rig.store_path) as client:
        for name in names:
            began = time.monotonic()
            code, message = ask(client, cases[name])
            report.seconds.setdefault(name, []).append(time.monotonic() - began)
            report.told.setdefault(name, Counter())[code] += 1
            rig.note(f"{name}: {code}: {message}")
            if code not in cases[name].codes:
                problems.append(f"{name} was told {code}: {message}")
            time.sleep(draw.uniform(0.0, 0.5))
    report.verdict = rig.settle(180.0)
    report.verdict.problems += problems
    return report


def ask(client: kaasq.Client, case: Case) -> tuple[str, str]:
    """The code and message that such a request ends with."""
    graph = kaasq.Graph("faults.culprit")
    out = graph.output("out", nbytes=case.nbytes)
    graph.launch(kaasq.Module.from_source(case.source).kernel("k"), grid=1, block=1, args=[out])
    try:
        client.run(graph, timeout=case.timeout_s)
    except KaasqError as error:
        return error.code, error.message
    return "ok", "it ended well"
