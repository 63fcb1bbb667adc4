"""The command itself: its subcommands, each over the queue of dead letters, oldest letter first."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console

from kaasq.cli import settings_options
from kaasq.dead_letter import DeadLetter, again
from kaasq.errors import BadRequest, BrokerRefused, Forbidden, Unroutable
from kaasq.log import configure
from kaasq.rabbit.dead import MOST, DeadQueue, Republisher
from kaasq.settings import Settings, load_settings
from kaasq_producers.commands import display
from kaasq_producers.dead import bundle, told
from kaasq_producers.dead.picking import check_choice, counting, reading
from kaasq_producers.dead.selection import Selection, seconds
from kaasq_storage import open_store

F = TypeVar("F", bound=Callable[..., Any])

LISTED = 200
ANY = Selection()

_broker = settings_options("broker_url", "connect_timeout")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_of_tenant = click.option("--tenant", metavar="NAME", help="Of this tenant only (two may have used the same id).")


def _selecting(command: F) -> F:
    for option in reversed(
        (
            _of_tenant,
            click.option("--code", metavar="CODE", help="Dead for this reason only: kernel_failed, expired, ..."),
            click.option("--older-than", metavar="TIME", help="Dead for longer than that: 90s, 15min, 2h, 7d."),
            click.option("--younger-than", metavar="TIME", help="Dead for less than that."),
        )
    ):
        command = option(command)
    return command


@click.group(short_help="Look at dead letters, run them again, export or drop them.")
def dead() -> None:
    """Dead letters are requests that could not be processed: they killed their executor, nobody could read them, or
    their time was over in the queue.

    They are those of all tenants, so this takes an operator's login. What a command does not settle stays in the queue,
    in its order. An ID may be cut short to its first 8 characters or more.
    """


@dead.command("list", short_help="List dead letters.")
@_broker
@_selecting
@click.option(
    "--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="Show so many, the oldest first."
)
@_as_json
def list_(*, limit: int, as_json: bool, **given: Any) -> None:
    r"""List dead letters, the oldest first, and how many there are of each kind.

    \b
    kaasq dead list --tenant ann --code kernel_failed
    kaasq dead list --older-than 7d --json | jq .letters[].id
    """
    settings, selection = _given(given)
    shown: list[DeadLetter] = []
    codes: Counter[str] = Counter()
    with _queue(settings) as queue, reading(queue) as letters:
        for letter, _ in letters:
            if selection(letter):
                codes[letter.code] += 1
                if len(shown) < limit:
                    shown.append(told.without_body(letter))
        count = queue.count
    if as_json:
        rows = [told.as_json(each) for each in shown]
        click.echo(json.dumps({"letters": rows, "matching": codes.total(), "codes": codes, "in_queue": count}))
        return
    if shown:
        display.console().print(told.table(shown))
    click.echo(told.summary(codes, len(shown), count, MOST))


@dead.command(short_help="Show all that is known of one.")
@click.argument("id_", metavar="ID")
@_broker
@_of_tenant
@_as_json
def show(*, id_: str, as_json: bool, **given: Any) -> None:
    """Show why a request is dead, where it came from and what it asks for."""
    settings, selection = _given(given)
    with _queue(settings) as queue, reading(queue) as letters:
        letter, _ = letters.one(id_, selection)
    if as_json:
        click.echo(json.dumps(told.as_json(letter)))
    else:
        click.echo("\n".join(told.in_full(letter, settings.graph_limits)))


@dead.command(short_help="Publish them again.")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that the options choose, instead of IDs.")
@_broker
@_selecting
@click.option("--new-id", is_flag=True, help="As new requests, which run whatever became of the old ones.")
@click.option("--publish-as", metavar="URL", help="Publish with this login: the tenant's own.")
def replay(
    *,
    ids: tuple[str, ...],
    all_: bool,
    new_id: bool,
    publish_as: str | None,
    **given: Any,
) -> None:
    r"""Publish requests again, as their tenants did, each with its full time before it. A letter is removed once the
    broker has confirmed its request.

    They keep their ids: what has an outcome by now is answered from that, not run twice, and whoever awaits one gets
    its reply. RabbitMQ lets a user publish as another tenant only with the tag `impersonator`; otherwise give the
    tenant's own login with --publish-as.

    \b
    kaasq dead replay 0193a1c2-7f3e
    kaasq dead replay --all --tenant ann --code expired
    """
    settings, selection = _given(given)
    check_choice(ids, all_)
    login = msgspec.structs.replace(settings, broker_url=publish_as or settings.broker_url)
    left: Counter[str] = Counter()
    done = 0
    with (
        _queue(settings) as queue,
        Republisher(login.connection_url, timeout_s=settings.connect_timeout) as out,
        counting() as counted,
    ):
        with reading(queue) as letters:
            for letter, delivery in letters.chosen(ids, selection):
                try:
                    out.publish(*again(letter, fresh_id=new_id))
                except (Forbidden, BadRequest, BrokerRefused, Unroutable) as error:
                    if ids:
                        raise
                    left[error.message] += 1
                    continue
                delivery.ack()
                done = counted(done + 1)
    click.echo(f"published {done} again")
    for reason, count in left.most_common():
        click.echo(f"kaasq: {count} left in the queue: {reason}", err=True)
    if left:
        sys.exit(1)


@dead.command(short_help="Write one, with its inputs, to a file.")
@click.argument("id_", metavar="ID")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_broker
@settings_options("store", "pool")
@_of_tenant
def export(*, id_: str, file: Path, **given: Any) -> None:
    r"""Write a request, why it is dead, and the inputs that it names in the store to FILE, a zip archive.

    The letter stays in the queue. Call this where the pool's store is; run the file anywhere:

    \b
    kaasq dead export 0193a1c2-7f3e crash.zip
    kaasq run crash.zip --broker amqp://localhost/
    """
    settings, selection = _given(given)
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
    click.echo(f"{file}: request {letter.id} of {letter.tenant}, {len(made.inputs)} inputs from the store")
    for note in made.notes:
        click.echo(f"kaasq: warning: {note}", err=True)
    if not there and made.inputs:
        click.echo(f"kaasq: warning: there is no store in {settings.store_path} (--store)", err=True)


@dead.command(short_help="Remove them for good.")
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that the options choose, instead of IDs.")
@_broker
@_selecting
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(*, ids: tuple[str, ...], all_: bool, yes: bool, **given: Any) -> None:
    r"""Remove letters from the queue: their requests are gone.

    \b
    kaasq dead drop 0193a1c2-7f3e
    kaasq dead drop --all --older-than 30d --yes
    """
    settings, selection = _given(given)
    check_choice(ids, all_)
    if all_ and not yes:
        click.confirm("Remove all dead letters" + (" that match?" if selection != ANY else "?"), abort=True, err=True)
    done = 0
    with _queue(settings) as queue, counting() as counted, reading(queue) as letters:
        for _, delivery in letters.chosen(ids, selection):
            delivery.ack()
            done = counted(done + 1)
    click.echo(f"removed {done}")


def _given(given: dict[str, Any]) -> tuple[Settings, Selection]:
    """Settings and selection of a command's options."""
    tenant, code = given.pop("tenant", None), given.pop("code", None)
    older, younger = given.pop("older_than", None), given.pop("younger_than", None)
    selection = Selection(
        tenant,
        code,
        None if older is None else seconds(older, "--older-than"),
        None if younger is None else seconds(younger, "--younger-than"),
    )
    settings = load_settings(given)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    return settings, selection


def _queue(settings: Settings) -> DeadQueue:
    return DeadQueue(settings.connection_url, timeout_s=settings.connect_timeout)
