"""The command itself: runs every check, prints what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kaasq.cli import settings_options
from kaasq.errors import BrokerRefused, KaasqError
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import DEFAULT_BROKER_URL, Settings, load_settings
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.gpus import count_gpus
from kaasq_workers.doctor.broker import check_broker, not_reached
from kaasq_workers.doctor.device import check_device
from kaasq_workers.doctor.finding import Finding
from kaasq_workers.doctor.store import check_store

_GPU_HINT = "With an NVIDIA GPU and driver: install the extra cuda13 (or cuda12, by the driver's version)."


@click.command(short_help="Check broker, store, worker, compiler and devices.")
@settings_options("broker_url", "store", "pool")
@click.option("--device", metavar="NAME", help="Check this device only (default: the CPU and every GPU).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool, **flags: Any) -> None:
    """Check store, broker, permissions, workers, compiler and devices, and say how to mend each.

    Exits 1 if something is broken. It sends one tiny request to the pool and makes the store's folder if there is none.
    """
    refused: BrokerRefused | None = None
    try:
        settings = load_settings(flags, called=flag_of)
    except BrokerRefused as error:  # the broker's URL: all else can be checked
        refused = error
        settings = load_settings(flags | {"broker_url": DEFAULT_BROKER_URL}, called=flag_of)
    configure("error", "console")  # what is found is told in the table
    findings: list[Finding] = []
    console = Console(stderr=as_json)
    with console.status("checking ..."):
        findings.extend(examine(settings, flags.get("device"), refused))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        console.print(_table(findings))
    sys.exit(any(each.state == "broken" for each in findings))


def examine(settings: Settings, device: str | None = None, refused: BrokerRefused | None = None) -> Iterator[Finding]:
    """Run every check; of the broker none, if its URL was refused."""
    store: BufferStore | None = None
    try:
        store = open_store(settings.store_path, capacity=settings.store_capacity, sync=settings.store_sync)
        yield from check_store(store)
    except KaasqError as error:
        yield Finding("store", "broken", error.message, "Name another folder with --store or KAASQ_STORE.")
    if refused is None:
        yield from check_broker(settings, store.id if store else None)
    else:
        yield not_reached(refused)
    if store is None:
        return
    try:
        gpus = count_gpus()
        for name in [device] if device else ["cpu", *(f"cuda:{index}" for index in range(gpus))]:
            yield check_device(settings, store, name)
        if not gpus and not device:
            yield Finding("gpu", "warning", "none that kaasq can use", _GPU_HINT)
    finally:
        store.close()


def _table(findings: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "broken": "[bold red]broken[/]"}
    for each in findings:
        table.add_row(marks[each.state], f"[bold]{each.check}[/]", escape(each.found))
        if each.mend:
            table.add_row("", "", f"[dim]→ {escape(each.mend)}[/]")
    return table
