"""``kaasq events``: follow how requests end, list named subscriptions, remove them; what they gave up."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from kaasq.cli import settings_options
from kaasq.errors import NameNotFound
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import load_settings
from kaasq.units import age, duration
from kaasq_producers.client import Client
from kaasq_producers.commands import display
from kaasq_producers.dead.events_command import dead
from kaasq_producers.events.event import Event


class _FollowByDefault(click.Group):
    """``kaasq events 'saxpy.*'`` follows: what is no command is a pattern, for no pattern can be a command's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["follow", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_FollowByDefault, short_help="Follow how requests end; named subscriptions.")
def events() -> None:
    r"""Follow how requests end, or see to named subscriptions.

    \b
    kaasq events                                # all of this user's, until Ctrl-C
    kaasq events 'saxpy.*' '#.failed' --json    # <graph>.<completed|failed|cancelled|expired>; * a word, # any number
    kaasq events 'saxpy.*' --name billing       # durable: collects while nobody listens
    kaasq events list
    kaasq events rm billing
    kaasq events dead list                      # what named subscriptions gave up
    """


events.add_command(dead)


@events.command()
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@settings_options("broker_url", "store", "pool")
@click.option("--name", metavar="NAME", help="The durable subscription of that name, made if there is none.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@settings_options("connect_timeout")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON per event, for programs.")
def follow(patterns: tuple[str, ...], name: str | None, limit: int | None, *, as_json: bool, **flags: Any) -> None:
    r"""Print events as they come, until Ctrl-C (the default command). Each is acked once it is printed.

    \b
    kaasq events 'images.#' --json | jq .data.timings
    """
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)
    ahead = {} if limit is None else {"prefetch": min(limit, 16)}
    with Client(settings=settings) as client, client.events(*patterns, name=name, **ahead) as heard:
        for number, event in enumerate(heard, 1):
            click.echo(_json(event) if as_json else _line(event))
            event.ack()
            if number == limit:
                return


@events.command("list")
@settings_options("broker_url", "connect_timeout")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_(*, as_json: bool, **flags: Any) -> None:
    """List this user's named subscriptions."""
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)
    with Client(settings=settings) as client:
        found = client.subscriptions()
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    table = display.table("NAME", "KEYS", ">SUBSCRIBED")
    for each in found:
        table.add_row(each.name, " ".join(each.keys), age(time.time() - each.since_ms / 1000) + " ago")
    display.show(table)


@events.command()
@click.argument("name")
@settings_options("broker_url", "connect_timeout")
def rm(name: str, **flags: Any) -> None:
    """Remove a named subscription, with the events that it holds. A program that listens to it makes it anew."""
    settings = load_settings(flags, called=flag_of)
    configure("warning", settings.log_format)
    with Client(settings=settings) as client:
        if not client.unsubscribe(name):
            raise NameNotFound(f"there is no subscription {name!r}: `kaasq events list` shows those there are")
    click.echo(f"removed {name}")


def _json(event: Event) -> str:
    said = {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "time": event.time,
        "tenant": event.tenant,
        "traceparent": event.traceparent,
        "data": event.reply,
    }
    return msgspec.json.encode({key: value for key, value in said.items() if value is not None}).decode()


def _line(event: Event) -> str:
    told = "" if event.time is None else event.time.astimezone().strftime("%H:%M:%S ")
    if event.reply.error is not None:
        how = f"{event.reply.error.code}: {event.reply.error.message}"
    else:
        outputs = ", ".join(event.reply.outputs) or "nothing"
        how = f"{outputs} in {duration(event.reply.timings.total)}"
    return f"{told}{event.graph} {event.word} {event.request_id} {how}"
