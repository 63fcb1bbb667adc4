"""``kaasq serve``: a Python module's handlers as a program."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from kaasq.cli import settings_options
from kaasq.errors import BadRequest
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import load_settings
from kaasq_producers.client import Client
from kaasq_producers.commands.user_module import import_here
from kaasq_producers.events import program
from kaasq_producers.events.service import Handler, Service
from kaasq_producers.events.serving import DRAIN_TIMEOUT_S


@click.command(short_help="Run a service: functions that events call.")
@click.argument("service", metavar="MODULE[:NAME]")
@settings_options("broker_url", "store", "pool", "connect_timeout", "log_format", "log_level")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=DRAIN_TIMEOUT_S,
    show_default=True,
    help="Seconds for handlers to end in when told to stop.",
)
def serve(service: str, drain: float, **flags: Any) -> None:
    r"""Run the kaasq.Service NAME of a Python module.

    Without a NAME it is the module's one Service or, where there is none, all functions that @kaasq.on made steps. The
    module is looked for here, too. SIGTERM, SIGHUP or Ctrl-C drains: it takes no more events, lets what runs
    end, and exits 0, or 3 if some did not; a second one stops at once. Their events are delivered again.

    \b
    kaasq serve thumbnails                 # the service of thumbnails.py, or its every @kaasq.on
    kaasq serve pipeline.steps:service     # service = kaasq.Service("pipeline")
    """
    settings = load_settings(flags, called=flag_of)
    configure(settings.log_level, settings.log_format)
    found = find_service(service)
    with Client(settings=settings) as client:
        sys.exit(0 if program.serve(found, client=client, drain=drain) else 3)


def find_service(where: str) -> Service | list[Handler]:
    """What ``module:name`` stands for; of ``module`` its one Service, or all its handlers. Raises BadRequest."""
    module_name, _, attribute = where.partition(":")
    module = import_here(module_name, "serve")
    if not attribute:
        return _only(module_name, vars(module))
    found = getattr(module, attribute, None)
    if isinstance(found, Handler):
        return [found]
    if not isinstance(found, Service):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise BadRequest(f"expected a kaasq.Service as {attribute!r} in {module_name}, found {what}", at="serve")
    return found


def _only(module: str, names: Mapping[str, object]) -> Service | list[Handler]:
    """What a module is there for, where that is clear. Raises BadRequest."""
    services = {each: f"{module}:{name}" for name, each in names.items() if isinstance(each, Service)}
    handlers = list(dict.fromkeys(each for each in names.values() if isinstance(each, Handler)))
    if not services:
        return handlers
    if len(services) > 1:
        raise BadRequest(f"{module} has several services: serve one of {', '.join(services.values())}", at="serve")
    ((service, its_name),) = services.items()
    left_out = [each.name for each in handlers if each not in list(service)]
    if left_out:
        raise BadRequest(
            f"{module} has a service and functions that are not in it ({', '.join(left_out)}): add them to it "
            f"(@service.on), or serve it without them, {its_name}",
            at="serve",
        )
    return service
