"""Says what the demo did: in plain words, or as JSON."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from kaasq.model import GraphSpec
from kaasq.units import duration
from kaasq_producers.demo.execution import Execution, Run
from kaasq_producers.demo.reference import Check

NEXT = (
    ("{kaasq} demo --photo yours.jpg", "the same with a photograph of yours"),
    ("./ops/test", "every test, with a real RabbitMQ"),
    ("{kaasq} doctor", "what this machine has and what it lacks"),
    ("{kaasq} worker", "serve requests that come through RabbitMQ"),
    ("README.md", "publish a graph of your own from Python"),
)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One demo from start to end. ``height`` and ``width`` in pixels."""

    graph: GraphSpec
    height: int
    width: int
    execution: Execution
    check: Check
    picture: Path

    @property
    def kernels(self) -> int:
        """How many different kernels the graph launches."""
        return len({(launch.module, launch.kernel) for launch in self.graph.launches})

    @property
    def size(self) -> str:
        """Of the photograph, in words."""
        return f"{self.width} \N{MULTIPLICATION SIGN} {self.height} pixels"

    @property
    def facts(self) -> str:
        """One line for the head of the picture."""
        check = self.check
        if check.exact:
            verdict = "equal to NumPy, bit for bit"
        else:
            verdict = "equal to NumPy within tolerance" if check.passed else "NOT what NumPy computes"
        return "  ·  ".join(
            (
                f"{self.kernels} CUDA C++ kernels in {len(self.graph.launches)} launches on {self.execution.device}",
                self.size,
                f"{duration(self.execution.warm.request_us)} a request",
                verdict,
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Everything measured and found; times in microseconds."""
        return {
            "graph": self.graph.hash,
            "device": self.execution.device,
            "kernels": self.kernels,
            "launches": len(self.graph.launches),
            "height": self.height,
            "width": self.width,
            "cold": _run_json(self.execution.cold),
            "warm": _run_json(self.execution.warm),
            "requests": len(self.execution.runs),
            "check": msgspec.to_builtins(self.check) | {"exact": self.check.exact},
            "picture": str(self.picture),
        }

    def tell(self, console: Console) -> None:
        """Say it to a person."""
        execution, check, kaasq = self.execution, self.check, kaasq_command()
        cold, warm = execution.cold, execution.warm
        console.print()
        console.print(
            f"[bold]{self.kernels} kernels in {len(self.graph.launches)} launches drew a photograph's edges as "
            f"light[/] on [bold cyan]{escape(execution.device)}[/], {self.size}."
        )
        console.print(
            f"The first request took {duration(cold.request_us)}, {duration(cold.timings.load)} of it to load (on the "
            "very first run: to compile) the kernels."
        )
        console.print(
            f"A warm one takes [bold]{duration(warm.request_us)}[/], "
            f"{duration(warm.timings.kernel)} of it in the kernels."
        )
        console.print(_verdict(check))
        console.print(f"The picture: [bold]{escape(str(self.picture))}[/]")
        console.print()
        if check.passed:
            steps = Table.grid(padding=(0, 3))
            for command, meaning in NEXT:
                steps.add_row(f"[cyan]{escape(command.format(kaasq=kaasq))}[/]", meaning)
            console.print("What to try next")
            console.print(Padding(steps, (0, 0, 0, 2)))
        else:
            console.print(
                f"Please report this, with the output of [cyan]{escape(kaasq)} demo --json[/] and "
                f"[cyan]{escape(kaasq)} doctor[/]."
            )


def kaasq_command() -> str:
    """How the reader can call ``kaasq`` from here: it may lie in an environment that is not activated."""
    called = Path(sys.argv[0])
    if shutil.which("kaasq") or called.name != "kaasq":
        return "kaasq"
    absolute, here = called.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def _verdict(check: Check) -> str:
    if check.exact:
        return "[green]NumPy computes the same, bit for bit[/]: picture, edges and histogram."
    differences = (
        f"{check.after_differing:,} channel values of the picture (by {check.max_difference} of 255 at most), "
        f"{check.edges_differing:,} edge pixels and {check.histogram_differing} histogram bins differ"
    )
    if check.passed:
        return f"[green]NumPy computes the same within tolerance[/]: {differences}."
    return f"[bold red]That is not what NumPy computes[/]: {differences}."


def _run_json(run: Run) -> dict[str, int]:
    stages: dict[str, int] = msgspec.to_builtins(run.timings)
    return {"request": run.request_us, **stages}
