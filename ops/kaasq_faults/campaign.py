"""Runs a schedule of faults on a rig, then says what the ledger says."""

from __future__ import annotations

import bisect
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kaasq_faults.audit import Verdict
from kaasq_faults.faults import BY_NAME
from kaasq_faults.ledger import now
from kaasq_faults.rig import Rig
from kaasq_faults.schedule import schedule

WARM_S = 3.0  # load before the first fault. A new quorum queue must not lose its node at once (see RabbitNode)
BACK_S = 5.0
STEP_S = 0.25
WINDOW_S = 2.0


@dataclass
class Report:
    """What a campaign gave."""

    seed: str
    faults: Counter[str] = field(default_factory=Counter)
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0
    gaps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from the end of each fault until the throughput was back."""

    @property
    def problems(self) -> list[str]:
        """Every breach."""
        return self.verdict.problems

    def slow(self, most_s: float = BACK_S) -> list[str]:
        """Faults after which the throughput took longer to come back."""
        return [f"{name}: {gap:.1f} s" for name, gaps in self.gaps.items() for gap in gaps if gap > most_s]


def run(rig: Rig, counts: Mapping[str, int], *, pause_s: float, settle_s: float = 120.0) -> Report:
    """Inject so many of each fault, then settle. The rig is used up."""
    report = Report(rig.seed)
    time.sleep(WARM_S)
    healed: list[tuple[str, float, float]] = []
    for strike in schedule(rig.seed, counts, pause_s):
        time.sleep(strike.pause_s)
        fault = BY_NAME[strike.fault]()
        began = now()
        if fault.inject(rig, random.Random(strike.victim)):
            report.faults[fault.name] += 1
        time.sleep(fault.hold_s)
        fault.heal(rig)
        healed.append((fault.name, began, now()))
        rig.note(f"{fault.name}: from {began:.2f} to {healed[-1][2]:.2f}")
    time.sleep(BACK_S + WINDOW_S + 1.0)
    stopped = now()
    report.verdict = rig.settle(settle_s)
    report.seconds = now() - rig.began
    ends = rig.ends()
    nexts = [began for _, began, _ in healed[1:]] + [stopped]
    for (name, began, end), until in zip(healed, nexts, strict=True):
        if until - end > BACK_S + WINDOW_S:  # else there is no time to see it
            gap = gap_s(ends, began, end, until, rig.size.rate * len(rig.clients))
            report.gaps.setdefault(name, []).append(gap)
    return report


def gap_s(ends: Sequence[float], began: float, healed: float, until: float, offered: float) -> float:
    """Seconds from ``healed`` until requests end well at the rate they had before the fault, and go on to.

    ``until``: the next fault, or the end of the load. What counts as that rate is half of it, over two seconds.
    Infinite if it was not back by then.
    """
    before = bisect.bisect_left(ends, began) - bisect.bisect_left(ends, began - WINDOW_S)
    enough = max(1, round(0.5 * min(before, offered * WINDOW_S)))
    back = healed
    at = healed
    while at + WINDOW_S <= until:
        if bisect.bisect_left(ends, at + WINDOW_S) - bisect.bisect_left(ends, at) < enough:
            back = at + STEP_S
        at += STEP_S
    return float("inf") if back + WINDOW_S > until else max(0.0, back - healed)
