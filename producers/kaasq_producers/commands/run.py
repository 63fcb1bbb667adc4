"""``kaasq run``: a request written by hand, its inputs and outputs in files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from kaasq.cli import settings_options
from kaasq.errors import BadRequest, KaasqError, NotReached
from kaasq.log import configure
from kaasq.setting_values import flag_of, nearest
from kaasq.settings import load_settings
from kaasq_producers.client import Client
from kaasq_producers.commands import display
from kaasq_producers.commands.arguments import address, input_value, number, pairs, told, unserved_told
from kaasq_producers.commands.files import STANDARD, read_request, write_value
from kaasq_producers.dead import bundle
from kaasq_producers.futures import ResultFuture
from kaasq_producers.then import then_of


@click.command(short_help="Run the request or graph in a file.")
@click.argument("request_file", metavar="REQUEST")
@settings_options("broker_url", "store", "pool")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="Bind a .npy or raw file, or @NAME in the store."
)
@click.option("--scalar", "scalars", multiple=True, metavar="NAME=NUMBER", help="Set a scalar.")
@click.option("--output", "outputs", multiple=True, metavar="NAME=FILE", help="Write an output: .npy, or raw bytes.")
@click.option("--keep", multiple=True, metavar="OUTPUT=NAME", help="Keep an output in the store under a name.")
@click.option(
    "--timeout",
    type=float,
    metavar="S",
    help="Seconds to wait for the reply (default: the request's timeout_ms, else 60).",
)
@settings_options("connect_timeout")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def run(
    *,
    request_file: str,
    inputs: tuple[str, ...],
    scalars: tuple[str, ...],
    outputs: tuple[str, ...],
    keep: tuple[str, ...],
    timeout: float | None,
    as_json: bool,
    **flags: Any,
) -> None:
    r"""Run the request (or graph alone, or KaaS request) in a JSON or MessagePack file, or a bundle of
    `kaasq dead export`; "-" is standard input.

    In --input and --output, too, "-" is standard input and output: raw bytes.

    \b
    kaasq run saxpy.json --input x=x.npy --input y=y.npy --scalar a=3 --output out=out.npy
    kaasq run model.json --input image=image.npy --input weights=@model/w1 --keep scores=scores/1
    kaasq run saxpy.json --input x=x.npy --input y=y.npy --json | jq .timings
    """
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    bundled = bundle.is_bundle(request_file)
    request, warnings = (bundle.read if bundled else read_request)(request_file, settings.graph_limits)
    for each in warnings:
        click.echo(f"kaasq: warning: {request_file}: {each}", err=True)
    assert not isinstance(request.graph, str)
    given = pairs("--scalar", scalars, number)
    _check_names("--scalar", "scalar", given, [each.name for each in request.graph.scalars])
    bind = pairs("--input", inputs, input_value)
    _check_names("--input", "input", bind, [each.name for each in request.graph.buffers if each.given])
    kept = pairs("--keep", keep, str)
    files = pairs("--output", outputs, Path)
    returned = [each.name for each in request.graph.buffers if each.returned]
    _check_names("--output", "output", files, returned)
    _check_names("--keep", "output", kept, returned)
    for path in files.values():
        if not path.absolute().parent.is_dir():  # said before anything runs, not after
            raise BadRequest(f"there is no folder {path.absolute().parent}", at="--output")
    if timeout is None and request.timeout_ms is not None:
        timeout = request.timeout_ms / 1000
    with Client(settings=settings) as client:
        with told(f"waiting for {address(settings.broker_url)} ..."):
            client.connect()
        with unserved_told(client):
            result = client.run(
                request.graph,
                timeout=timeout,
                bind={**request.bind, **bind},
                scalars={**request.scalars, **given},
                keep={**request.keep, **kept},
                repeat=request.repeat,
                then=then_of(request.then),
            )
        for name, path in files.items():
            write_value(path, result[name])
        written = {name: str(path) for name, path in files.items()}
        said = display.result_json(result, written) if as_json else display.result_lines(result, written)
        taken = STANDARD in files.values()  # standard output is the output's
        if not isinstance(said, dict):
            click.echo("\n".join(said), err=taken)  # at once: what follows may take a while
            said = {}
        followed = [_followed(each, as_json=as_json, err=taken) for each in result.then]
        if as_json:
            click.echo(json.dumps(said | ({"then": [each for each, _ in followed]} if followed else {})), err=taken)
        for _, error in followed:
            if error is not None:
                raise error


def _check_names(option: str, what: str, given: Iterable[str], known: list[str]) -> None:
    """Raises BadRequest naming the option, and the nearest of what the graph has."""
    for name in given:
        if name not in known:
            near = nearest(name, known)
            meant = f"did you mean {near!r}?" if near else f"it has {', '.join(map(repr, known)) or 'none'}"
            raise BadRequest(f"the graph has no {what} {name!r}; {meant}", at=option)


def _followed(future: ResultFuture, *, as_json: bool, err: bool) -> tuple[dict[str, Any], KaasqError | None]:
    """What became of something that followed: for programs, else said at once; its error, but for a condition's no."""
    try:
        result = future.result()
    except KaasqError as error:
        if not as_json:
            click.echo(f"request {future.request_id}: {error.code}: {error.message}", err=err)
        no = isinstance(error, NotReached) and "cause" not in error.detail
        body = {"id": future.request_id, "error": {"code": error.code, "message": error.message}}
        return body, None if no else error
    if not as_json:
        click.echo("\n".join(display.result_lines(result, {})), err=err)
    return display.result_json(result, {}), None
