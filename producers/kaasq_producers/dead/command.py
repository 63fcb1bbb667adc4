"""``kaasq dead``: its subcommands, each over the queue of dead letters, oldest letter first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from kaasq.cli import settings_options
from kaasq.dead_letter import DeadLetter, again
from kaasq.errors import BadRequest, BrokerRefused, Forbidden, Unroutable
from kaasq.plain_text import harmless
from kaasq.rabbit.dead import DeadQueue, Republisher
from kaasq.settings import Settings
from kaasq_producers.dead import bundle, deeds, options, told
from kaasq_producers.dead.options import check_choice, given_by
from kaasq_producers.dead.picking import reading
from kaasq_storage import open_store

_of_tenant = click.option("--tenant", metavar="NAME", help="Of this tenant only (two may have used the same id).")
_selecting = options.selecting(_of_tenant, "kernel_failed, expired")


@click.group(short_help="Look at dead letters, run them again, export or drop them.")
def dead() -> None:
    """Dead letters are requests that could not be processed: they killed their executor, nobody could read them, or
    their time was over in the queue.

    They are those of all tenants, so this takes an operator's login. What a command does not settle stays in the queue,
    in its order. An ID may be cut short to its first 8 characters or more.
    """


@dead.command("list", short_help="List dead letters.")
@options.broker
@_selecting
@options.limit
@options.as_json
def list_(*, limit: int, as_json: bool, **given: Any) -> None:
    r"""List dead letters, the oldest first, and how many there are of each kind.

    \b
    kaasq dead list --tenant ann --code kernel_failed
    kaasq dead list --older-than 7d --json | jq .letters[].id
    """
    settings, selection = given_by(given)
    with _queue(settings) as queue, reading(queue) as letters:
        listing = deeds.Listing(queue, letters, selection, limit)
    if as_json:
        listing.tell_programs("letters", told.as_json)
    else:
        listing.tell_people(told.table)


@dead.command(short_help="Show all that is known of one.")
@click.argument("id_", metavar="ID")
@options.broker
@_of_tenant
@options.as_json
def show(*, id_: str, as_json: bool, **given: Any) -> None:
    """Show why a request is dead, where it came from and what it asks for."""
    settings, selection = given_by(given)
    with _queue(settings) as queue, reading(queue) as letters:
        letter, _ = letters.one(id_, selection)
    if as_json:
        click.echo(json.dumps(told.as_json(letter)))
    else:
        click.echo("\n".join(told.in_full(letter, settings.graph_limits)))


@dead.command(short_help="Publish them again.")
@options.chosen_ids
@options.all_of_them
@options.broker
@_selecting
@click.option(
    "--new-id/--same-id",
    default=None,
    help="As new requests, which run whatever became of the old ones; or under their own ids, also where one may have "
    "its outcome: that is told once more, or the request runs again if its outcome has expired (default: such letters "
    "stay).",
)
@click.option("--publish-as", metavar="URL", help="Publish with this login: the tenant's own.")
def replay(*, ids: tuple[str, ...], all_: bool, new_id: bool | None, publish_as: str | None, **given: Any) -> None:
    r"""Publish requests again, as their tenants did, each with its full time before it. A letter is removed once the
    broker has confirmed its request.

    They keep their ids: what has an outcome by now is answered from that, not run twice, and whoever awaits one gets
    its reply. What killed its executors (kernel_failed) has that as its outcome until result_ttl is over, and would not
    run: its letter stays, unless you say --new-id, which runs it, or --same-id, which has the outcome told once more,
    or runs the request again if the outcome has expired. RabbitMQ lets a user publish as another tenant only with the
    tag `impersonator`; otherwise give the tenant's own login with --publish-as.

    \b
    kaasq dead replay 0193a1c2-7f3e
    kaasq dead replay --all --tenant ann --code expired
    """
    settings, selection = given_by(given)
    check_choice(ids, all_)
    login = msgspec.structs.replace(settings, broker_url=publish_as or settings.broker_url)
    with (
        _queue(settings) as queue,
        Republisher(login.connection_url, timeout_s=settings.connect_timeout) as out,
        reading(queue) as letters,
    ):

        def publish(letter: DeadLetter) -> None:
            if new_id is None and letter.may_have_outcome:
                raise BadRequest(
                    f"it may have its outcome ({letter.code}), and then would not run: --new-id runs it as a new "
                    "request, --same-id has the outcome told once more, or runs it again if that has expired",
                    at=letter.id if ids else None,  # of many, how many will do
                )
            out.publish(*again(letter, fresh_id=bool(new_id)))

        refusals = Forbidden, BadRequest, BrokerRefused, Unroutable
        deeds.publish_again(letters, ids, selection, publish, passed_over=refusals, verb="published")


@dead.command(short_help="Write one, with its inputs, to a file.")
@click.argument("id_", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@options.broker
@settings_options("store", "pool")
@_of_tenant
def export(*, id_: str, file: Path, **given: Any) -> None:
    r"""Write a request, why it is dead, and the inputs that it names in the store to FILE, a zip archive.

    The letter stays in the queue. Call this where the pool's store is; run the file anywhere:

    \b
    kaasq dead export 0193a1c2-7f3e crash.zip
    kaasq run crash.zip --broker amqp://localhost/
    """
    settings, selection = given_by(given)
    with _queue(settings) as queue, reading(queue) as letters:
        letter, _ = letters.one(id_, selection)
    there = settings.store_path.is_dir()  # a mistyped folder must not become a store
    with Console(stderr=True).status("writing ...") as status:
        store = open_store(settings.store_path, sync=settings.store_sync) if there else None
        try:
            made = bundle.write(file, letter, store, settings.graph_limits, status.update)
        finally:
            if store is not None:
                store.close()
    click.echo(f"{file}: request {harmless(letter.id)} of {letter.tenant}, {len(made.inputs)} inputs from the store")
    for note in made.notes:
        click.echo(f"kaasq: warning: {harmless(note)}", err=True)
    if not there and made.inputs:
        click.echo(f"kaasq: warning: there is no store in {settings.store_path} (--store)", err=True)


@dead.command(short_help="Remove them for good.")
@options.chosen_ids
@options.all_of_them
@options.broker
@_selecting
@options.unasked
def drop(*, ids: tuple[str, ...], all_: bool, yes: bool, **given: Any) -> None:
    r"""Remove letters from the queue: their requests are gone.

    \b
    kaasq dead drop 0193a1c2-7f3e
    kaasq dead drop --all --older-than 30d --yes
    """
    settings, selection = given_by(given)
    check_choice(ids, all_)
    if all_ and not yes:
        with _queue(settings) as queue:  # closed before the question: nobody answers for it meanwhile
            count = queue.count
        deeds.ask_before_removing(count, "dead letters", selection)
    with _queue(settings) as queue, reading(queue) as letters:
        deeds.remove(letters, ids, selection)


def _queue(settings: Settings) -> DeadQueue:
    return DeadQueue(settings.connection_url, timeout_s=settings.connect_timeout)
