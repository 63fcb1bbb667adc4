"""``kaasq events dead``: the events that a user's named subscriptions gave up, oldest first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from kaasq.dead_event import read_dead_event, told_again
from kaasq.dead_letter import DeadLetter
from kaasq.errors import BadRequest, BrokerRefused, Unroutable
from kaasq.rabbit.dead import DeadQueue, of_events
from kaasq.rabbit.retelling import Reteller
from kaasq.settings import Settings
from kaasq_producers.dead import deeds, options, told_events
from kaasq_producers.dead.options import check_choice, given_by
from kaasq_producers.dead.picking import Letters, reading

_of_subscription = click.option(
    "--name", metavar="NAME", help="Of this subscription only (several may have given up the same event)."
)
_selecting = options.selecting(_of_subscription, "handler_failed, expired")


@click.group(short_help="Look at events that subscriptions gave up, tell them again, or drop them.")
def dead() -> None:
    """Dead events are those that a named subscription of this user gave up: a function failed at them too often, they
    could not be read, or nobody took them in time.

    What a command does not settle stays where it is, in its order. An ID may be cut short to its first 8 characters or
    more.
    """


@dead.command("list", short_help="List dead events.")
@options.broker
@_selecting
@options.limit
@options.as_json
def list_(*, limit: int, as_json: bool, **given: Any) -> None:
    r"""List dead events, the oldest first, and how many there are of each kind.

    \b
    kaasq events dead list --name billing
    """
    settings, selection = given_by(given)
    with _letters(settings) as (queue, letters):
        listing = deeds.Listing(queue, letters, selection, limit)
    if as_json:
        listing.tell_programs("events", told_events.as_json)
    else:
        listing.tell_people(told_events.table)


@dead.command(short_help="Show all that is known of one.")
@click.argument("id_", metavar="ID")
@options.broker
@_of_subscription
@options.as_json
def show(*, id_: str, as_json: bool, **given: Any) -> None:
    """Show why an event is dead, and what it tells."""
    settings, selection = given_by(given)
    with _letters(settings) as (_, letters):
        letter, _ = letters.one(id_, selection)
    if as_json:
        click.echo(json.dumps(told_events.whole(letter)))
    else:
        click.echo("\n".join(told_events.in_full(letter)))


@dead.command(short_help="Write one to a file.")
@click.argument("id_", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options.broker
@_of_subscription
def export(*, id_: str, file: Path, **given: Any) -> None:
    """Write an event, and why it is dead, to FILE as JSON. The letter stays in the queue."""
    settings, selection = given_by(given)
    with _letters(settings) as (_, letters):
        letter, _ = letters.one(id_, selection)
    try:
        file.write_text(json.dumps(told_events.whole(letter), indent=2) + "\n")
    except OSError as error:
        raise BadRequest(f"cannot write it: {error.strerror}", at=str(file)) from None
    click.echo(f"{file}: event {letter.id} of subscription {letter.subscription!r}")


@dead.command(short_help="Tell them again.")
@options.chosen_ids
@options.all_of_them
@options.broker
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
    settings, selection = given_by(given)
    check_choice(ids, all_)
    with (
        _letters(settings) as (_, letters),
        Reteller(settings.connection_url, settings.tenant, timeout_s=settings.connect_timeout) as out,
    ):

        def publish(letter: DeadLetter) -> None:
            out.publish(told_again(letter), letter.subscription or "")

        refusals = BrokerRefused, Unroutable
        deeds.publish_again(letters, ids, selection, publish, passed_over=refusals, verb="told")


@dead.command(short_help="Remove them for good.")
@options.chosen_ids
@options.all_of_them
@options.broker
@_selecting
@options.unasked
def drop(*, ids: tuple[str, ...], all_: bool, yes: bool, **given: Any) -> None:
    r"""Remove dead events from the queue.

    \b
    kaasq events dead drop --all --older-than 30d --yes
    """
    settings, selection = given_by(given)
    check_choice(ids, all_)
    if all_ and not yes:
        with _letters(settings) as (queue, _):  # closed before the question: nobody answers for it meanwhile
            count = queue.count
        deeds.ask_before_removing(count, "dead events", selection)
    with _letters(settings) as (_, letters):
        deeds.remove(letters, ids, selection)


@contextmanager
def _letters(settings: Settings) -> Iterator[tuple[DeadQueue, Letters]]:
    read = partial(read_dead_event, tenant=settings.tenant)
    with (
        DeadQueue(settings.connection_url, of_events(settings.tenant), timeout_s=settings.connect_timeout) as queue,
        reading(queue, read) as letters,
    ):
        yield queue, letters
