"""``kaasq flow``: run, start, list, watch, wait for and cancel workflows."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from kaasq.cli import settings_options
from kaasq.errors import BadRequest, NameNotFound
from kaasq.flows.model import FlowInput, FlowStart, FlowState, FlowStatus
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import Settings, load_settings
from kaasq.units import duration
from kaasq_producers.client import Client
from kaasq_producers.commands import display
from kaasq_producers.commands.arguments import address, input_value, lists, number, pairs, told, unserved_told
from kaasq_producers.commands.files import STANDARD, write_value
from kaasq_producers.commands.flow_files import read_flow
from kaasq_producers.commands.flow_options import INPUTS, OUTPUTS, options
from kaasq_producers.commands.flow_watching import awaited, became, ended, steps_told, stopped
from kaasq_producers.flows.display.timeline import html, svg
from kaasq_producers.flows.display.trace import trace
from kaasq_producers.flows.display.tree import tree
from kaasq_producers.flows.display.words import tally
from kaasq_producers.flows.listing import LISTED
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.insisting import insist


@click.group(short_help="Run, start, list, watch and cancel workflows.")
def flow() -> None:
    r"""Run, start, list, watch and cancel workflows.

    \b
    kaasq flow run tiles.json --input tiles=tiles.npy --output total=total.npy
    id=$(kaasq flow start tiles.json --input tiles=tiles.npy)
    kaasq flow ls --state running
    kaasq flow show $id --watch
    kaasq flow wait $id --output total=total.npy
    """


@flow.command()
@options(*INPUTS)
@click.option("--timeout", type=float, metavar="S", help="Seconds that it may take (default: its timeout_ms, else 60).")
@options(*OUTPUTS)
def run(
    *,
    flow_file: str,
    inputs: tuple[str, ...],
    scalars: tuple[str, ...],
    keep: tuple[str, ...],
    timeout: float | None,
    outputs: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Run the workflow in a JSON or MessagePack file, and wait until it has ended; "-" is standard input.

    The file holds a workflow, or one with what it is to start with. Its id goes to standard error at once, and a
    terminal shows how it goes. Ctrl-C cancels it.

    \b
    kaasq flow run tiles.json --input tiles=a.npy --input tiles=b.npy --scalar strength=3 --output total=total.npy
    """
    settings = _settings(flags)
    start = _read(flow_file)
    files = _files(outputs)
    for name in files:
        if name not in start.workflow.outputs:
            raise BadRequest(f"the workflow has no output {name!r}", at="--output")
    with _client(settings) as client:
        given = _given(start, inputs, scalars, keep)
        future = client.submit(start.workflow, timeout=_timeout(timeout, start), **given)
        assert future.request_id is not None
        sent = client.attach(future.request_id)
        click.echo(f"kaasq: workflow {sent.id}", err=True)
        try:
            with steps_told(client):
                result = awaited(future, sent) if sys.stderr.isatty() and not as_json else future.result()
        except KeyboardInterrupt:
            try:
                click.echo(f"\nkaasq: workflow {sent.id} {stopped(sent)}", err=True)
            except KeyboardInterrupt:  # before it was cancelled, perhaps
                insist(lambda: client.cancel(sent.id))
                click.echo(f"\nkaasq: workflow {sent.id} is to be cancelled: `kaasq flow show` shows it", err=True)
            raise
        _print(result, files, as_json=as_json)


@flow.command()
@options(*INPUTS)
@click.option(
    "--id",
    "flow_id",
    metavar="ID",
    help="What it is to be called; started again, it is the same one (default: a new id).",
)
@click.option(
    "--timeout", type=float, metavar="S", help="Seconds that it may take (default: its timeout_ms, else any)."
)
@settings_options("connect_timeout")
def start(
    *,
    flow_file: str,
    inputs: tuple[str, ...],
    scalars: tuple[str, ...],
    keep: tuple[str, ...],
    flow_id: str | None,
    timeout: float | None,
    **flags: Any,
) -> None:
    r"""Start the workflow in a JSON or MessagePack file, and print its id once that is durable.

    \b
    kaasq flow start nightly.json --id nightly-$(date +%F)   # once a day, however often it is called
    """
    settings = _settings(flags)
    given = _read(flow_file)
    with _client(settings) as client:
        bound = _given(given, inputs, scalars, keep)
        made = client.start(given.workflow, id=flow_id, timeout=_timeout(timeout, given), **bound)
    click.echo(made.id)


@flow.command()
@settings_options("broker_url", "pool")
@click.option("--state", type=click.Choice(get_args(FlowState)), help="Those that stand so only.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="Show so many, the latest first."
)
@settings_options("connect_timeout")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def ls(*, state: FlowState | None, limit: int, as_json: bool, **flags: Any) -> None:
    r"""List your workflows, the latest first: those that run, and those that ended less than result_ttl ago.

    STEPS is how many of its steps have ended.

    \b
    kaasq flow ls --state running
    kaasq flow ls --state failed --json | jq -r .workflows[].id
    """
    settings = _settings(flags)
    with _client(settings) as client:
        found = client.workflows(state, limit=limit)
    if as_json:
        click.echo(json.dumps({"workflows": display.plain(found), "total": found.total}))
        return
    if found:
        display.show(display.flows_table(found))
    click.echo(f"{len(found)} of {found.total} {f'{state} ' if state else ''}workflows")


@flow.command()
@click.argument("flow_id", metavar="ID")
@settings_options("broker_url", "pool")
@click.option("--watch", is_flag=True, help="Draw it again and again until it has ended.")
@click.option(
    "--items", type=click.IntRange(min=0), default=0, metavar="N", help="List so many items of each map (default: 0)."
)
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), help="Write a timeline of it, as a picture.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write a timeline with figures, as a page.")
@click.option(
    "--trace", "trace_file", type=click.Path(path_type=Path), help="Write a Chrome trace, which ui.perfetto.dev opens."
)
@settings_options("connect_timeout")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs; with --items, all of them.")
def show(
    *,
    flow_id: str,
    watch: bool,
    items: int,
    svg_file: Path | None,
    html_file: Path | None,
    trace_file: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Show how a workflow stands: its steps, how many of their items have ended, and where and how long they ran.

    \b
    kaasq flow show 0199c1f0f6b47e0e8c2d5a1b3c4d5e6f --watch
    kaasq flow show nightly-2026-11-26 --items 5 --html nightly.html
    kaasq flow show nightly-2026-11-26 --json | jq '.steps[] | {name, state}'
    """
    settings = _settings(flags)
    drawings: dict[Path, Callable[[FlowStatus], str]] = {
        path: draw
        for path, draw in ((svg_file, svg), (html_file, html), (trace_file, lambda status: json.dumps(trace(status))))
        if path is not None
    }
    _check_folders(drawings)
    with _client(settings) as client:
        attached = client.attach(flow_id)
        detailed = items > 0 or bool(drawings) or not as_json
        status = ended(attached, items, quiet=as_json) if watch else attached.status(items=detailed)
    if as_json:
        click.echo(json.dumps(display.plain(status)))
    elif not watch:
        display.console().print(tree(status, items=items))
    for path, draw in drawings.items():
        try:
            path.write_text(draw(status), encoding="utf-8")
            click.echo(f"kaasq: wrote {path}", err=True)
        except OSError as error:
            raise BadRequest(f"cannot write it: {error.strerror}", at=str(path)) from None


@flow.command()
@click.argument("flow_id", metavar="ID")
@settings_options("broker_url", "store", "pool")
@click.option("--timeout", type=float, metavar="S", help="Seconds to wait (default: until it has ended).")
@options(*OUTPUTS)
def wait(*, flow_id: str, timeout: float | None, outputs: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    r"""Wait until a workflow has ended, and print what it gave. Ctrl-C leaves it as it is.

    \b
    kaasq flow wait nightly-2026-11-26 --output total=total.npy
    """
    settings = _settings(flags)
    files = _files(outputs)
    with _client(settings) as client:
        try:
            with steps_told(client):
                result = client.attach(flow_id).wait(timeout)
        except KeyboardInterrupt:
            ways = f"`kaasq flow show {flow_id}` shows it, `kaasq flow cancel {flow_id}` ends it"
            click.echo(f"\nkaasq: workflow {flow_id} goes on: {ways}", err=True)
            raise
        _print(result, files, as_json=as_json)


@flow.command()
@click.argument("flow_id", metavar="ID")
@settings_options("broker_url", "pool", "connect_timeout")
def cancel(*, flow_id: str, **flags: Any) -> None:
    """End a workflow: no step begins any more, and what runs is stopped.

    It says what has become of it, or that the broker has the cancellation and nobody has answered yet.
    """
    with _client(_settings(flags)) as client:
        attached = client.attach(flow_id)
        attached.cancel()
        try:
            click.echo(f"workflow {flow_id} {became(attached)}")
        except NameNotFound as error:
            raise NameNotFound(
                f"{error.message}. One that is sent under that id before result_ttl is over is cancelled", name=flow_id
            ) from None


def _settings(flags: dict[str, Any]) -> Settings:
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    return settings


@contextmanager
def _client(settings: Settings) -> Iterator[Client]:
    with Client(settings=settings) as client:
        with told(f"waiting for {address(settings.broker_url)} ..."):
            client.connect()
        with unserved_told(client):
            yield client


def _read(path: str) -> FlowStart:
    given, warnings = read_flow(path)
    for each in warnings:
        click.echo(f"kaasq: warning: {path}: {each}", err=True)
    return given


def _given(
    start: FlowStart, inputs: tuple[str, ...], scalars: tuple[str, ...], keep: tuple[str, ...]
) -> dict[str, Any]:
    """What the file binds, and the options before that."""
    many = {each.name: each for each in start.workflow.inputs if each.many}
    bind: dict[str, Any] = dict(start.bind)
    for name, values in lists("--input", inputs, input_value).items():
        bind[name] = _listed(many[name], values) if name in many else values[-1]
    return {
        "bind": bind,
        "scalars": {**start.scalars, **pairs("--scalar", scalars, number)},
        "keep": {**start.keep, **pairs("--keep", keep, str)},
    }


def _listed(given: FlowInput, values: list[Any]) -> Any:
    """The items of a list: a file for each, or an array with one axis more for all."""
    first = values[0]
    alone = len(values) == 1 and isinstance(first, np.ndarray) and given.shape is not None
    return first if alone and first.ndim == len(given.shape or ()) + 1 else values


def _timeout(timeout: float | None, start: FlowStart) -> float | None:
    return start.timeout_ms / 1000 if timeout is None and start.timeout_ms is not None else timeout


def _files(outputs: tuple[str, ...]) -> dict[str, Path]:
    files = pairs("--output", outputs, Path)
    _check_folders(files.values())
    return files


def _check_folders(paths: Any) -> None:
    for path in paths:
        if not path.absolute().parent.is_dir():  # said before anything runs, not after
            raise BadRequest(f"there is no folder {path.absolute().parent}", at=str(path))


def _print(result: FlowResult, files: dict[str, Path], *, as_json: bool) -> None:
    for name, path in files.items():
        if name not in result:
            raise BadRequest(f"the workflow has no output {name!r}", at="--output")
        write_value(path, result[name])
    written = {name: str(path) for name, path in files.items()}
    status = result.flow
    took = duration(((status.ended_ms or status.started_ms) - status.started_ms) * 1000)
    if as_json:
        said = json.dumps(
            {
                "id": result.id,
                "name": result.name,
                "outputs": display.outputs_json(result, written),
                "flow": display.plain(status),
            }
        )
    else:
        head = f"workflow {result.id} ({result.name}) {status.state} in {took}; {tally(status)}"
        said = "\n".join([head, *display.output_lines(result, written)])
    click.echo(said, err=STANDARD in files.values())  # else standard output is the output's
