"""``kaasq demo``: a photograph through the demo's graph on the embedded worker, checked, drawn and told."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import kaasq
from kaasq.errors import BadRequest
from kaasq.extras import install
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import load_settings
from kaasq_producers.demo import pipeline, reference
from kaasq_producers.demo.execution import execute
from kaasq_producers.demo.report import Report

EXTRA = {"matplotlib", "PIL"}


@click.command(short_help="Run a photograph through nine CUDA C++ kernels.")
@click.option("--device", metavar="NAME", help="cpu, cuda:0, ..., or auto (a GPU if there is one, else the CPU).")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("kaasq-demo.png"),
    show_default=True,
    help="The picture to write.",
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A photograph of yours (default: one that Matplotlib ships).",
)
@click.option(
    "--repeat", type=click.IntRange(1, 10_000), default=5, show_default=True, help="Warm requests after the first."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
@click.option("--open/--no-open", "opened", default=False, help="Show the picture when it is done (default: no).")
def demo(device: str | None, output: Path, photo: Path | None, repeat: int, as_json: bool, opened: bool) -> None:
    r"""Run a photograph through nine CUDA C++ kernels and look at the result.

    Everything runs here, in one go: an in-memory broker, a worker with its device, a store in a temporary folder.
    The answer is checked against NumPy; the exit code is 1 if they disagree.

    \b
    kaasq demo
    kaasq demo --photo holiday.jpg --output holiday.png --open
    """
    photos, picture = _import("photo"), _import("picture")
    settings = load_settings({"device": device}, called=flag_of)
    configure("warning", settings.log_format)
    if not output.absolute().parent.is_dir():
        raise BadRequest(f"there is no folder {output.absolute().parent}", at="--output")

    console = Console(highlight=False, soft_wrap=True, stderr=as_json)
    taken = photos.load_photo(photo)
    height, width = taken.pixels.shape[:2]
    graph = pipeline.build_graph(height, width)
    with console.status(f"Running {1 + repeat} requests; the first one compiles ..."):
        with kaasq.local(settings.device, settings=settings) as client:
            execution = execute(client, graph, pipeline.inputs(taken.pixels), warm_runs=repeat)
    with console.status("Checking against NumPy, drawing the picture ..."):
        expected = reference.compute(taken.pixels)
        checks = [reference.compare(outputs, expected) for outputs in execution.outputs]
        report = Report(
            graph=graph.freeze(),
            height=height,
            width=width,
            execution=execution,
            check=next((each for each in checks if not each.passed), checks[-1]),
            picture=output,
        )
        last = execution.outputs[-1]
        try:
            picture.draw(output, taken, last["after"], last["histogram"], execution, report.facts)
        except OSError as error:
            raise BadRequest(f"cannot write {output}: {error.strerror or error}", at="--output") from None

    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        report.tell(console)
    if opened:
        click.launch(str(output))
    if not report.check.passed:
        raise click.exceptions.Exit(1)


def _import(name: str) -> Any:
    """A module of the demo that needs the ``demo`` extra."""
    try:
        return importlib.import_module(f"kaasq_producers.demo.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        raise click.ClickException(f"the demo needs {error.name}: {install('demo')}") from None
