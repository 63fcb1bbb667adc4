"""A cluster of three brokers that loses, again and again, the node on which the pool's queue has its leader."""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kaasq.topology import work_queue
from kaasq_bench.rabbitmq.cluster import RabbitCluster
from kaasq_faults.audit import Verdict
from kaasq_faults.campaign import WARM_S
from kaasq_faults.ledger import now
from kaasq_faults.members import wait_until
from kaasq_faults.rig import Rig

BAR_S = 3.0
LOOK_S = 15.0  # how long after a kill its gap is looked for, and the node stays away
ONLINE_TIMEOUT_S = 120.0


@dataclass
class LeaderReport:
    """What losing leaders gave."""

    kills: int = 0
    gaps: list[float] = field(default_factory=list)
    """Around each kill, the longest time in which some client had no request end well, in seconds."""
    verdict: Verdict = field(default_factory=Verdict)


def run(rig: Rig, cluster: RabbitCluster, kills: int, *, away_s: float = LOOK_S) -> LeaderReport:
    """Kill the leader so many times; the next one only once the last is back among the queue's members."""
    report = LeaderReport()
    queue = work_queue(rig.pool)
    times: list[float] = []
    time.sleep(WARM_S)
    for _ in range(kills):
        if not wait_until(lambda: cluster.online(queue) == len(cluster.nodes), ONLINE_TIMEOUT_S, 0.5):
            raise RuntimeError(f"the members of {queue} did not come together again")
        time.sleep(WARM_S)
        leader = cluster.leader(queue)
        times.append(now())
        leader.kill()
        report.kills += 1
        time.sleep(away_s)
        leader.start()
    report.verdict = rig.settle(120.0)
    for at in times:
        report.gaps.append(max(longest_gap(ends, at, at + away_s) for ends in rig.ends_by_client().values()))
    return report


def longest_gap(ends: Sequence[float], start: float, stop: float) -> float:
    """The longest time between two of ``ends`` that lies, or begins, between start and stop."""
    first = max(0, bisect.bisect_left(ends, start) - 1)
    last = bisect.bisect_left(ends, stop)
    points = [*ends[first:last], min(stop, ends[last] if last < len(ends) else stop)]
    return max((after - before for before, after in itertools.pairwise(points)), default=stop - start)
