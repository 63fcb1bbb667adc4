"""The parts of the long form: each makes a rig, runs, and gives a row of the table."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kaasq_bench.rabbitmq.cluster import RabbitCluster
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_faults import campaign, conditions, hostile, kernels, leaders, soak
from kaasq_faults.audit import Verdict
from kaasq_faults.boundaries import MODES, Boundaries, Report
from kaasq_faults.faults import DISTURBANCES
from kaasq_faults.rig import WITH_FLOWS, Rig, Size
from real_broker import node_root

KILL_SHARES = {"kill executor": 0.5, "kill front": 0.2, "kill client": 0.2, "kill broker": 0.1}


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    times: str
    result: str
    problems: list[str]


@dataclass(frozen=True)
class Run:
    """What the command line says."""

    folder: Path
    seed: str
    rate: float
    scale: float
    """Of the full counts."""
    device: str = "cpu"

    def size(self, **changes: object) -> Size:
        return Size(**{"rate": self.rate, "device": self.device, **changes})  # type: ignore[arg-type]

    def count(self, full: int) -> int:
        return max(1, round(full * self.scale))

    def place(self, name: str) -> Path:
        """A folder for a rig; the path of a socket or store below must stay short."""
        return self.folder / name


@contextmanager
def broker() -> Iterator[RabbitNode]:
    """A private node: of the installed package, or of the root that a variable names (see real_broker)."""
    with RabbitNode(root=node_root()) as node:
        yield node


def kills(run: Run) -> Iterator[Row]:
    """Kill -9 of everything."""
    wanted = run.count(300)
    counts = {name: max(1, round(wanted * share)) for name, share in KILL_SHARES.items()}
    size = run.size(kinds=WITH_FLOWS)
    with broker() as node, Rig(run.place("kills"), f"{run.seed}-kills", node, size) as rig:
        report = campaign.run(rig, counts, pause_s=1.0)
    yield _campaign("kill -9 of executor, front, client, broker", report)


def boundaries(run: Run) -> Iterator[Row]:
    """Kills at every moment in the life of a workflow and a chain."""
    report = Report()
    with broker() as node:
        for mode in MODES:
            with Boundaries(run.place(f"boundaries-{mode}"), node.url, mode) as worker:
                report.merge(worker.run(random.Random(f"{run.seed}-{mode}"), run.scale, run.count(10)))
    kinds = ", ".join(f"{count} {moment}" for moment, count in report.deaths.items())
    passed = ", ".join(f"{count} {what}" for what, count in report.passed.items())
    times = f"{report.deaths.total()} ({kinds}), {report.twice} of them followed by another"
    result = f"{sum(report.passed.values())} moments: {passed}"
    yield Row("kill -9 at moments of a workflow and a chain", times, result, report.problems)


def disturbances(run: Run) -> Iterator[Row]:
    """What stands still, closes, drops, delays, truncates, resets."""
    each = max(1, round(run.count(100) / len(DISTURBANCES)))
    counts = {fault.name: each + (number == 0) * 2 for number, fault in enumerate(DISTURBANCES)}
    with broker() as node, Rig(run.place("disturbances"), f"{run.seed}-disturbances", node, run.size()) as rig:
        report = campaign.run(rig, counts, pause_s=10.0)
    row = _campaign("SIGSTOP of worker and broker, connections closed, proxy drops, delays, truncates, resets", report)
    slow = [f"throughput back late: {each}" for each in report.slow()]
    longest = max((gap for gaps in report.gaps.values() for gap in gaps), default=0.0)
    yield row._replace(result=f"{row.result}; throughput back within {longest:.1f} s", problems=row.problems + slow)


def scarcity(run: Run) -> Iterator[Row]:
    """Memory alarm, full disk, full store, clock steps."""
    with broker() as node:
        size = run.size(workers=1)
        with Rig(run.place("alarm"), f"{run.seed}-alarm", node, size) as rig:
            yield _condition("memory alarm on the broker", conditions.memory_alarm(rig))
        try:
            report = conditions.full_disk(run.place("disk"), f"{run.seed}-disk", node, size)
            yield _condition("full disk under the store", report)
        except PermissionError as error:
            yield Row("full disk under the store", "0", f"not run: no file system may be mounted here ({error})", [])
        full = run.size(workers=1, worker_args=["--store-capacity", str(conditions.ROOM_BYTES)])
        with Rig(run.place("full"), f"{run.seed}-full", node, full) as rig:
            yield _condition("store at capacity", conditions.full_store(rig))
        steps = conditions.clock_steps(run.place("clock"), f"{run.seed}-clock", node, size)
        yield _condition("clock steps of an hour, forwards and back", steps)


def leader_kills(run: Run) -> Iterator[Row]:
    """A cluster loses its leader."""
    seed = f"{run.seed}-leaders"
    with RabbitCluster(root=node_root()) as cluster, Rig(run.place("leaders"), seed, cluster, run.size()) as rig:
        report = leaders.run(rig, cluster, run.count(10))
    late = [f"nothing ended for {gap:.1f} s" for gap in report.gaps if gap > leaders.BAR_S]
    result = f"{_told(report.verdict)}; no client without an answer for more than {max(report.gaps):.1f} s"
    yield Row("three-node cluster, leader killed", str(report.kills), result, report.verdict.problems + late)


def hostiles(run: Run) -> Iterator[Row]:
    """Messages that nobody should send."""
    with broker() as node, Rig(run.place("hostile"), f"{run.seed}-hostile", node, run.size(workers=1)) as rig:
        report = hostile.run(rig, run.count(100_000))
        verdict = rig.settle(120.0)
    answers = ", ".join(f"{count} {code}" for code, count in report.answers.most_common())
    grown = ", ".join(f"{name} {size / 2**20:+.1f} MiB" for name, size in report.growth_bytes.items())
    yield Row("hostile messages", str(report.sent), f"{answers}; {grown}", report.problems + verdict.problems)


def decoder(run: Run) -> Iterator[Row]:
    """Fuzzing, by what the bytes make the decoder do."""
    seconds = run.count(300)
    if importlib.util.find_spec("atheris") is None:
        yield Row("atheris on the decoder", "0", "not run: atheris is not installed (extra 'faults')", [])
        return
    command = [sys.executable, "-m", "kaasq_faults.fuzz", str(seconds), run.seed, str(run.place("corpus"))]
    done = subprocess.run(command, cwd=run.folder, check=False, capture_output=True, text=True)
    runs = re.findall(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    problems = [] if done.returncode == 0 and runs else [done.stderr[-3000:]]
    yield Row("atheris on the decoder", f"{seconds} s", f"{runs[-1] if runs else '?'} inputs", problems)


def bad_kernels(run: Run) -> Iterator[Row]:
    """Kernels that crash, hang, want too much."""
    with broker() as node, Rig(run.place("kernels"), f"{run.seed}-kernels", node, run.size(workers=1)) as rig:
        report = kernels.run(rig, run.count(50))
    told = "; ".join(
        f"{name}: {', '.join(f'{count} {code}' for code, count in codes.items())}"
        for name, codes in sorted(report.told.items())
    )
    count = sum(codes.total() for codes in report.told.values())
    row = f"kernels on {run.device} among other tenants' requests"
    yield Row(row, str(count), f"told {told}; others: {_told(report.verdict)}", report.verdict.problems)


def long_load(run: Run) -> Iterator[Row]:
    """Half an hour of a steady load."""
    seconds = 1800.0 * run.scale
    size = run.size(own=False, env={"KAASQ_RESULT_TTL": "60"})  # so that outcomes are collected while it lasts
    with broker() as node, Rig(run.place("soak"), f"{run.seed}-soak", node, size) as rig:
        report = soak.run(rig, seconds)
    sizes = "; ".join(
        f"{n} {size / 2**20:.0f} MiB {grown / 2**20:+.1f}" for n, (grown, size) in report.growths().items()
    )
    yield Row("soak", f"{report.seconds / 60:.0f} min", f"{_told(report.verdict)}; {sizes}", report.verdict.problems)


PARTS: dict[str, Callable[[Run], Iterator[Row]]] = {
    "kills": kills,
    "boundaries": boundaries,
    "disturbances": disturbances,
    "scarcity": scarcity,
    "leaders": leader_kills,
    "hostile": hostiles,
    "decoder": decoder,
    "kernels": bad_kernels,
    "soak": long_load,
}


def table(run: Run, rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| date | seed | fault | count | result | breaches |", "|---|---|---|---|---|---|"]
    begin = f"| {time.strftime('%Y-%m-%d')} | {run.seed}"
    ends = (f"{row.fault} | {row.times} | {row.result} | {len(row.problems) or 'none'} |" for row in rows)
    return "\n".join([*lines, *(f"{begin} | {end}" for end in ends)])


def _campaign(fault: str, report: campaign.Report) -> Row:
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(report.faults.items()))
    return Row(fault, f"{report.faults.total()} ({kinds})", _told(report.verdict), report.problems)


def _condition(fault: str, report: conditions.ConditionReport) -> Row:
    told = ", ".join(f"{count} {code}" for code, count in report.told.items()) or "no error"
    result = f"{_told(report.verdict)}; while it lasted: {told}; back within {report.gap_s:.1f} s"
    late = [] if report.gap_s <= campaign.BACK_S else [f"throughput back after {report.gap_s:.1f} s"]
    return Row(fault, "1", result, report.verdict.problems + late)


def _told(verdict: Verdict) -> str:
    ends = ", ".join(f"{count} {code}" for code, count in sorted(verdict.ends.items(), key=lambda each: -each[1]))
    orphans = f", {verdict.orphans.total()} of killed clients" if verdict.orphans else ""
    flows = f", {verdict.flows} of them workflows of {verdict.steps} steps" if verdict.flows else ""
    return f"{verdict.asked} requests{flows}: {ends}{orphans}"
