"""``kaasq health``: whether the worker on this machine lives, for containers and supervisors that ask by command."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from kaasq.errors import BadRequest
from kaasq.setting_values import flag_of
from kaasq.settings import load_settings
from kaasq_workers.health import WITHIN_S, read_health, troubles


@click.command(short_help="Whether the worker here lives: exits 0 or 1.")
@click.option("--file", "health_file", metavar="FILE", help="The worker's health_file (KAASQ_HEALTH_FILE).")
@click.option(
    "--within",
    type=click.FloatRange(min=1),
    default=WITHIN_S,
    show_default=True,
    help="Seconds for which a worker may be unwell.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def health(*, within: float, as_json: bool, **flags: Any) -> None:
    """Exit with 0 if the worker that writes the health file took requests, or was idle on a consumer that works.

    Otherwise with 1, and why. It asks neither broker nor worker: it reads the file, so it is cheap to call.
    """
    settings = load_settings(flags, called=flag_of)
    if not settings.health_file:
        raise BadRequest("is not set: give worker and this command the same (KAASQ_HEALTH_FILE)", at="health_file")
    found = read_health(Path(settings.health_file).expanduser())
    wrong = troubles(found, time.time(), within)
    if as_json:
        click.echo(json.dumps({"alive": not wrong, "troubles": wrong, **msgspec.to_builtins(found)}))
    else:
        held = sum(each.held for each in found.slots)
        click.echo("\n".join(wrong) or f"alive: {len(found.slots)} slots of pool {found.pool}, {held} requests held")
    sys.exit(bool(wrong))
