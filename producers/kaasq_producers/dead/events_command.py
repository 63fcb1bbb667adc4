"""``kaasq events dead``: the events that a user's named subscriptions gave up, oldest first."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from kaasq.cli import settings_options
from kaasq.dead_event import read_dead_event, told_again
from kaasq.dead_letter import DeadLetter
from kaasq.errors import BadRequest, BrokerRefused, Unroutable
from kaasq.log import configure
from kaasq.rabbit.dead import MOST, DeadQueue, of_events
from kaasq.rabbit.retelling import Reteller
from kaasq.settings import Settings, load_settings
from kaasq_producers.commands import display
from kaasq_producers.dead import told, told_events
from kaasq_producers.dead.picking import check_choice, counting, reading
from kaasq_producers.dead.selection import Selection, seconds

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 200
ANY = Selection()

_broker = settings_options("broker_url", "connect_timeout")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_of_subscription = click.option(
    "--name", metavar="NAME", help="Of this subscription only (several may have given up the same event)."
)


def _selecting(command: F) -> F:
    for option in reversed(
        (
            _of_subscription,
            click.option("--code", metavar="CODE", help="Dead for this reason only: handler_failed, expired, ..."),
            click.option("--older-than", metavar="TIME", help="Dead for longer than that: 90s, 15min, 2h, 7d."),
            click.option("--younger-than", metavar="TIME", help="Dead for less than that."),
        )
    ):
        command = option(command)
    return command


@click.group(short_help="Look at events that subscriptions gave up, tell them again, or drop them.")
def dead() -> None:
    """Dead events are those that a named subscription of this user gave up: a function failed at them too often, they
    could not be read, or nobody took them in time.

    What a command does not settle stays where it is, in its order. An ID may be cut short to its first 8 characters or
    more.
    """


@dead.command("list", short_help="List dead events.")
@_broker
@_selecting
@click.option(
    "--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="Show so many, the oldest first."
)
@_as_json
def list_(*, limit: int, as_json: bool, **given: Any) -> None:
    r"""List dead events, the oldest first, and how many there are of each kind.

    \b
    kaasq events dead list --name billing
    """
    settings, selection = _given(given)
    shown: list[DeadLetter] = []
    codes: Counter[str] = Counter()
    with _queue(settings) as queue, reading(queue, _read(settings)) as letters:
        for letter, _ in letters:
            if selection(letter):
                codes[letter.code] += 1
                if len(shown) < limit:
                    shown.append(told.without_body(letter))
        count = queue.count
    if as_json:
        rows = [told_events.as_json(each) for each in shown]
        click.echo(json.dumps({"events": rows, "matching": codes.total(), "codes": codes, "in_queue": count}))
        return
    if shown:
        display.console().print(told_events.table(shown))
    click.echo(told.summary(codes, len(shown), count, MOST))


@dead.command(short_help="Show all that is known of one.")
@click.argument("id_", metavar="ID")
@_broker
@_of_subscription
@_as_json
def show(*, id_: str, as_json: bool, **given: Any) -> None:
    """Show why an event is dead, and what it tells."""
    settings, selection = _given(given)
    with _queue(settings) as queue, reading(queue, _read(settings)) as letters:
        letter, _ = letters.one(id_, selection)
    if as_json:
        click.echo(json.dumps(told_events.whole(letter)))
    else:
        click.echo("\n".join(told_events.in_full(letter)))


@dead.command(short_help="Write one to a file.")
@click.argument("id_", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_broker
@_of_subscription
def export(*, id_: str, file: Path, **given: Any) -> None:
    """Write an event, and why it is dead, to FILE as JSON. The letter stays in the queue."""
    settings, selection = _given(given)
    with _queue(settings) as queue, reading(queue, _read(settings)) as letters:
        letter, _ = letters.one(id_, selection)
    try:
        file.write_text(json.dumps(told_events.whole(letter), indent=2) + "\n")
    except OSError as error:
        raise BadRequest(f"cannot write it: {error.strerror}", at=str(file)) from None
    click.echo(f"{file}: event {letter.id} of subscription {letter.subscription!r}")


@dead.command(short_help="Tell them again.")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that the options choose, instead of IDs.")
@_broker
@_selecting
def replay(*, ids: tuple[str, ...], all_: bool, **given: Any) -> None:
    r"""Tell events again to the subscriptions that gave them up, and to no other. One is removed here once the broker
    has confirmed it.

    They keep their ids, so that a function which publishes with its step publishes the same requests: what one of them
    did already is not done twice.

    \b
    kaasq events dead replay 0193a1c2-7f3e
    kaasq events dead replay --all --name billing
    """
    settings, selection = _given(given)
    check_choice(ids, all_)
    left: Counter[str] = Counter()
    done = 0
    with (
        _queue(settings) as queue,
        Reteller(settings.connection_url, settings.tenant, timeout_s=settings.connect_timeout) as out,
        counting() as counted,
        reading(queue, _read(settings)) as letters,
    ):
        for letter, delivery in letters.chosen(ids, selection):
            try:
                out.publish(told_again(letter), letter.subscription or "")
            except (BrokerRefused, Unroutable) as error:
                if ids:
                    raise
                left[error.message] += 1
                continue
            delivery.ack()
            done = counted(done + 1)
    click.echo(f"told {done} again")
    for reason, count in left.most_common():
        click.echo(f"kaasq: {count} left in the queue: {reason}", err=True)
    if left:
        sys.exit(1)


@dead.command(short_help="Remove them for good.")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that the options choose, instead of IDs.")
@_broker
@_selecting
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(*, ids: tuple[str, ...], all_: bool, yes: bool, **given: Any) -> None:
    r"""Remove dead events from the queue.

    \b
    kaasq events dead drop --all --older-than 30d --yes
    """
    settings, selection = _given(given)
    check_choice(ids, all_)
    if all_ and not yes:
        click.confirm("Remove all dead events" + (" that match?" if selection != ANY else "?"), abort=True, err=True)
    done = 0
    with _queue(settings) as queue, counting() as counted, reading(queue, _read(settings)) as letters:
        for _, delivery in letters.chosen(ids, selection):
            delivery.ack()
            done = counted(done + 1)
    click.echo(f"removed {done}")


def _given(given: dict[str, Any]) -> tuple[Settings, Selection]:
    """Settings and selection of a command's options."""
    older, younger = given.pop("older_than", None), given.pop("younger_than", None)
    selection = Selection(
        code=given.pop("code", None),
        older_s=None if older is None else seconds(older, "--older-than"),
        younger_s=None if younger is None else seconds(younger, "--younger-than"),
        subscription=given.pop("name", None),
    )
    settings = load_settings(given)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    return settings, selection


def _queue(settings: Settings) -> DeadQueue:
    return DeadQueue(settings.connection_url, of_events(settings.tenant), timeout_s=settings.connect_timeout)


def _read(settings: Settings) -> Callable[[Any], DeadLetter]:
    return partial(read_dead_event, tenant=settings.tenant)
