"""A steady load for long, and whether any process or file grows that should not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from kaasq_faults.audit import Verdict
from kaasq_faults.ledger import now
from kaasq_faults.members import executors
from kaasq_faults.memory import folder_bytes, growth, pss_bytes
from kaasq_faults.rig import Rig

WARM_SHARE = 0.5  # of the time: caches fill, and names that moved keep their old values for ten minutes
EVERY_S = 5.0
MOST_GROWTH = 0.05  # of its size, from the end of the warm-up to the end
LEAST_BYTES = 8 << 20  # of growth, below which it is noise


@dataclass
class SoakReport:
    """Sizes in bytes, sampled."""

    seconds: float = 0.0
    sizes: dict[str, list[int]] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)

    def growths(self) -> dict[str, tuple[int, int]]:
        """By how much each grew after the warm-up, and its median size then."""
        found: dict[str, tuple[int, int]] = {}
        for name, sizes in self.sizes.items():
            settled = sizes[round(len(sizes) * WARM_SHARE) :]
            if settled:
                found[name] = (round(growth(settled)), sorted(settled)[len(settled) // 2])
        return found


def run(rig: Rig, seconds: float) -> SoakReport:
    """Sample for so long, then settle."""
    report = SoakReport()
    began = now()
    while now() - began < seconds:
        time.sleep(EVERY_S)
        for name, size in sample(rig).items():
            report.sizes.setdefault(name, []).append(size)
    report.seconds = now() - began
    report.verdict = rig.settle(120.0)
    for name, (grown, size) in report.growths().items():
        if grown > max(LEAST_BYTES, MOST_GROWTH * size):
            report.verdict.problems.append(f"{name} grew by {grown / 2**20:.1f} MiB to {size / 2**20:.1f} MiB")
    return report


def sample(rig: Rig) -> dict[str, int]:
    """Every process of kaasq, and the store."""
    found = {f"{each.name}": pss_bytes(each.pid) for each in rig.clients}
    for worker in rig.workers:
        found[f"{worker.name} front"] = pss_bytes(worker.pid)
        for number, pid in enumerate(sorted(executors(worker.pid))):
            found[f"{worker.name} executor {number}"] = pss_bytes(pid)
    found["broker"] = sum(map(pss_bytes, rig.node.pids()))
    found["store, all files"] = folder_bytes(rig.store_path)
    return found
