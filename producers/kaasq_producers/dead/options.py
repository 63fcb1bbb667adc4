"""The options that the commands for dead letters and those for dead events share, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kaasq.cli import settings_options
from kaasq.log import configure
from kaasq.setting_values import flag_of
from kaasq.settings import Settings, load_settings
from kaasq_producers.dead.selection import Selection, seconds

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]

LISTED = 200

broker = settings_options("broker_url", "connect_timeout")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), default=LISTED, show_default=True, help="Show so many, the oldest first."
)
chosen_ids = click.argument("ids", metavar="[ID...]", nargs=-1)
all_of_them = click.option("--all", "all_", is_flag=True, help="All that the options choose, instead of IDs.")
unasked = click.option("--yes", is_flag=True, help="Do not ask. Without a terminal, nobody could answer.")


def selecting(whose: Option[F], codes: str) -> Option[F]:
    """The options that choose letters: by whose they are, by the reason (such as those in ``codes``), by age."""

    def decorate(command: F) -> F:
        for option in reversed(
            (
                whose,
                click.option("--code", metavar="CODE", help=f"Dead for this reason only: {codes}, ..."),
                click.option("--older-than", metavar="TIME", help="Dead for longer than that: 90s, 15min, 2h, 7d."),
                click.option("--younger-than", metavar="TIME", help="Dead for less than that."),
            )
        ):
            command = option(command)
        return command

    return decorate


def given_by(options: dict[str, Any]) -> tuple[Settings, Selection]:
    """Settings and selection of a command's options. Raises BadRequest."""
    older, younger = options.pop("older_than", None), options.pop("younger_than", None)
    selection = Selection(
        tenant=options.pop("tenant", None),
        code=options.pop("code", None),
        older_s=None if older is None else seconds(older, "--older-than"),
        younger_s=None if younger is None else seconds(younger, "--younger-than"),
        subscription=options.pop("name", None),
    )
    settings = load_settings(options, called=flag_of)
    configure("warning", settings.log_format)  # standard output is for what was asked for
    return settings, selection


def check_choice(ids: tuple[str, ...], all_: bool) -> None:
    """Raises UsageError unless letters are named, or all are meant."""
    if bool(ids) == all_:
        raise click.UsageError("Name dead letters by their IDs, or choose them with --all.")
