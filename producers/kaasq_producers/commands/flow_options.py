"""The options that several of the ``kaasq flow`` commands have: what a workflow takes, and where what it gives goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from kaasq.cli import settings_options

INPUTS = (
    click.argument("flow_file", metavar="FILE"),
    settings_options("broker_url", "store", "pool"),
    click.option(
        "--input",
        "inputs",
        multiple=True,
        metavar="NAME=FILE",
        help="Bind a .npy or raw file, or @NAME in the store; for a list once for each item, or all in one .npy.",
    ),
    click.option("--scalar", "scalars", multiple=True, metavar="NAME=NUMBER", help="Set a scalar."),
    click.option("--keep", multiple=True, metavar="OUTPUT=NAME", help="Keep an output in the store under a name."),
)
OUTPUTS = (
    click.option(
        "--output", "outputs", multiple=True, metavar="NAME=FILE", help="Write an output: .npy, or raw bytes."
    ),
    settings_options("connect_timeout"),
    click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
)


def options(*given: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several options as one decorator."""

    def decorate(command: Any) -> Any:
        for each in reversed(given):
            command = each(command)
        return command

    return decorate
