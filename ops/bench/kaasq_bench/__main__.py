"""The one command of the suite. Speed is never a failure; the exit code says whether a measurement broke."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import click

from kaasq.errors import BadRequest
from kaasq.extras import install
from kaasq_bench.broker import OnDemand
from kaasq_bench.machine import Machine, describe
from kaasq_bench.pictures import draw
from kaasq_bench.places import folder, shared_memory
from kaasq_bench.report import NotAReport, Report, decoded, encoded, today
from kaasq_bench.setting import Setting
from kaasq_bench.suite import PARTS, PartReport, cases_of, run_cases
from kaasq_bench.table import table
from kaasq_workers.devices.opening import device_names

QUICK_ROUNDS, FULL_ROUNDS = 3, 5
QUICK_WINDOW_S, FULL_WINDOW_S = 0.2, 0.4


HELP = """Measure kaasq beside what it stands on and beside its peers; all PARTS unless some are named.

\b
messaging   a no-op and a small saxpy beside an echo, workers by hand, Celery
chains      a step of a chain beside a client's round trip, and beside Celery's chain
workflows   steps in a row, a fan-out, large buffers beside a client's requests and Celery
overhead    graphs of launches, a solver, products beside the same by hand
engine      the engine by itself beside the same kernels by hand
copies      store to device and back beside the memory's own speed
sharing     tenants, small kernels, more data than the device holds
cold        first requests beside a fresh process for each
cpu         kernels on the cpu device beside NumPy
device      the cuda device beside CuPy and cuda.core
builtins    the cuda device's built-ins beside PyTorch and CuPy
store       the buffer store beside LMDB, files and memcpy
"""


@click.command(help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu, cuda:0, ... or auto.")
@click.option("--quick", is_flag=True, help="Fewer rounds, shorter windows, smaller data: two minutes in all.")
@click.option("--rounds", type=click.IntRange(min=1), help=f"Rounds [{FULL_ROUNDS}; {QUICK_ROUNDS} with --quick].")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help=f"Length of a window of load [{FULL_WINDOW_S}; {QUICK_WINDOW_S} with --quick].",
)
@click.option("--broker", metavar="URL", help="The broker to use [a private RabbitMQ].")
@click.option(
    "--folder", "place", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Where stores on disk lie."
)
@click.option("--json", "into", type=click.Path(path_type=Path, file_okay=False), help="Write the figures there.")
@click.option("--pictures", is_flag=True, help="Draw the ratios, beside the figures (or in docs/benchmarks).")
@click.option(
    "--draw",
    "drawn",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Measure nothing: draw the figures that lie there.",
)
def main(
    parts: tuple[str, ...],
    device: str,
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    broker: str | None,
    place: Path | None,
    into: Path | None,
    pictures: bool,
    drawn: Path | None,
) -> None:
    """Measure and report, or draw what was measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else what was started would go on
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
    if (pictures or drawn) and find_spec("matplotlib") is None:
        raise click.UsageError(f"pictures need matplotlib: {install('bench')}")
    if drawn:
        sys.exit(0 if _redraw(drawn, parts) else 1)
    try:
        name = device_names(device)[0]
    except BadRequest as error:
        raise click.UsageError(error.message) from None
    machine = describe(int(name.partition(":")[2] or 0) if name.startswith("cuda") else None)
    click.echo(_headline(machine, name))
    into = into or (Path("docs/benchmarks") if pictures else None)
    broken = False
    with ExitStack() as stack:
        on_demand = OnDemand(broker, stack)
        setting = Setting(
            device=name,
            quick=quick,
            rounds=rounds or (QUICK_ROUNDS if quick else FULL_ROUNDS),
            seconds=seconds or (QUICK_WINDOW_S if quick else FULL_WINDOW_S),
            broker=on_demand,
            disk=stack.enter_context(folder(place)),
            memory=stack.enter_context(shared_memory()),
            say=lambda text: click.echo(text, err=True),
        )
        for part in parts or PARTS:
            report = run_cases(part, cases_of(part), setting)
            click.echo(table(report))
            broken = broken or bool(report.broken)
            if into is not None:
                version = on_demand.started.version if on_demand.started else None
                _write(into, report, setting, machine, version, pictures=pictures)
    sys.exit(1 if broken else 0)


def _write(
    into: Path, part: PartReport, setting: Setting, machine: Machine, broker: str | None, *, pictures: bool
) -> None:
    into.mkdir(parents=True, exist_ok=True)
    report = Report(
        date=today(),
        machine=machine,
        device=setting.device,
        broker=broker,
        rounds=setting.rounds,
        window_s=setting.seconds,
        quick=setting.quick,
        part=part,
    )
    path = into / f"{part.part}-{machine.tag}.json"
    path.write_bytes(encoded(report))
    if pictures:
        draw(report, path.with_suffix(".png"))


def _redraw(folder: Path, parts: Sequence[str]) -> bool:
    """A picture beside each of the folder's figures, of the named parts if any; whether all could be read."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise click.UsageError(f"there are no figures (*.json) in {folder}")
    readable = True
    for path in paths:
        try:
            report = decoded(path.read_bytes())
        except NotAReport as error:
            click.echo(f"{path}: not what the suite writes now ({error}); measure it again with --json", err=True)
            readable = False
            continue
        if not parts or report.part.part in parts:
            picture = path.with_suffix(".png")
            click.echo(f"{picture}" if draw(report, picture) else f"{path}: has no ratio to draw")
    return readable


def _headline(machine: Machine, device: str) -> str:
    without = "" if device != "cpu" else "; no GPU: rows that need one are left out"
    packages = ", ".join(f"{name} {number}" for name, number in machine.packages.items())
    return f"{machine.words}{without}\n{machine.system}, Python {machine.python}, {packages}"


if __name__ == "__main__":
    main()
