"""``kaasq bench``: the short version of the suite on the user's own machine, and where it stands."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from kaasq.cli import settings_options
from kaasq.errors import BadRequest, BrokerLost, BrokerRefused, KaasqError
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import load_settings
from kaasq_bench.brief import PARTS, briefs, shown
from kaasq_bench.machine import describe
from kaasq_bench.places import folder, shared_memory
from kaasq_bench.report import BriefReport, encoded, rich_report, summary, today
from kaasq_bench.setting import Setting
from kaasq_bench.suite import PartReport, run_cases
from kaasq_bench.surroundings import find

ROUNDS, QUICK_ROUNDS = 3, 2
WINDOW_S, QUICK_WINDOW_S = 0.25, 0.1
QUICK_SHARE = 0.6  # of the time, that a quick run takes
ENDING = (BrokerLost, BrokerRefused)  # what the other cases would meet, too
FILE_COLUMNS = 180  # of a table that goes into a file or a pipe
STANDARD = Path("-")


@click.command(short_help="Measure kaasq on this machine beside floors and peers.")
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@settings_options("broker_url", "store", "pool", "connect_timeout")
@click.option("--device", metavar="NAME", help="Measure workers started for it, on cpu, cuda:0, ... or auto.")
@click.option("--quick", is_flag=True, help="Fewer rounds, shorter windows.")
@click.option(
    "--json",
    "into",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    metavar="FILE",
    help='Write the figures there, too; "-" is standard output.',
)
def bench(parts: tuple[str, ...], quick: bool, into: Path | None, **flags: Any) -> None:
    r"""Measure kaasq here beside what it stands on and beside its peers, in about a minute.

    All PARTS, unless some are named.

    \b
    messaging   a no-op request beside an echo by hand and beside Celery
    overhead    launches, a solver, matrix products beside the same by hand
    copies      objects between store and device
    sharing     many tenants on one device, more data than it holds
    cpu         kernels on the cpu device beside NumPy
    cold        first requests beside a fresh process for each

    It measures your broker and your pool where they answer, with other work that they have. Without a broker it starts
    a private one of the installed rabbitmq-server; without that it goes through memory and says what is left out. What
    it starts it ends, and what it declares and stores it removes, also after Ctrl-C.

    A figure is that of the middle round, the ratio's least and greatest stand beside it. The bars are what kaasq wants
    to reach on two free cores or on an H100; not meeting them is no failure. Exits 1 if a measurement broke.

    \b
    kaasq bench
    kaasq bench messaging --broker amqp://me:secret@rabbit/ --pool images
    kaasq bench --quick --json bench.json
    """
    settings = load_settings({name: value for name, value in flags.items() if name != "device"}, called=flag_of)
    configure("error", settings.log_format)
    if into is not None and into != STANDARD and not into.absolute().parent.is_dir():
        raise BadRequest(f"there is no folder {into.absolute().parent}", at="--json")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it otherwise
    console = Console(stderr=into == STANDARD, highlight=False)
    if not console.is_terminal:
        console.width = FILE_COLUMNS
    with ExitStack() as stack:
        with console.status("looking for broker and workers ..."):
            found = find(settings, flags, stack)
        setting = Setting(
            device=found.device,
            quick=True,
            brief=True,
            rounds=QUICK_ROUNDS if quick else ROUNDS,
            seconds=QUICK_WINDOW_S if quick else WINDOW_S,
            broker=found.broker,
            disk=stack.enter_context(folder(None)),
            memory=stack.enter_context(shared_memory()),
            say=lambda _: None,
            pool=found.pool,
            embedded=found.embedded,
        )
        machine = describe(setting.gpu_index if setting.gpu else None)
        console.print(f"On {found.words}.\n{machine.words}.", style="dim")
        reports, failure = _measured(setting, parts or PARTS, console, share=QUICK_SHARE if quick else 1.0)
    console.print(rich_report(reports, machine, console.width))
    console.print(summary(reports, machine))
    report = BriefReport(date=today(), machine=machine, device=setting.device, on=found.words, parts=reports)
    if into is not None:
        _write(into, encoded(report))
    if failure is not None:
        raise failure
    sys.exit(any(each.broken for each in reports))


def _measured(
    setting: Setting, parts: tuple[str, ...], console: Console, *, share: float
) -> tuple[list[PartReport], KaasqError | None]:
    """A report for each part, and what ended it before its time: a broker that is lost, or refuses."""
    chosen = briefs(parts, pool=setting.pool is not None, gpu=setting.gpu)
    whole_s = sum(each.about_s for each in chosen) * share
    console.print(f"About {whole_s:.0f} seconds; Ctrl-C ends it and tidies up.", style="dim")
    given: dict[str, list[PartReport]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    with progress:
        task = progress.add_task("", total=whole_s)
        for brief in chosen:
            progress.update(task, description=f"{brief.part}: {brief.case.name}")
            try:
                report = run_cases(brief.part, [shown(brief)], setting, ending=ENDING)
            except ENDING as failure:
                return _joined(given), failure
            given.setdefault(brief.part, []).append(report)
            progress.advance(task, brief.about_s * share)
    return _joined(given), None


def _joined(given: dict[str, list[PartReport]]) -> list[PartReport]:
    return [
        PartReport(
            part=part,
            rows=[row for each in reports for row in each.rows],
            left_out={name: why for each in reports for name, why in each.left_out.items()},
            broken={name: why for each in reports for name, why in each.broken.items()},
            took_s=sum(each.took_s for each in reports),
        )
        for part, reports in given.items()
    ]


def _write(into: Path, text: bytes) -> None:
    if into == STANDARD:
        click.echo(text, nl=False)
        return
    try:
        into.write_bytes(text)
    except OSError as error:
        raise BadRequest(f"cannot write {into}: {error.strerror or error}", at="--json") from None
