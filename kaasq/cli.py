"""The ``kaasq`` command. Each subcommand lives with what it runs and is imported only when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from kaasq import interrupts
from kaasq.errors import KaasqError
from kaasq.plain_text import LAID_OUT, harmless

F = TypeVar("F", bound=Callable[..., Any])

_COMMANDS = {
    "worker": "kaasq_workers.cli:worker",
    "health": "kaasq_workers.health_command:health",
    "doctor": "kaasq_workers.doctor.command:doctor",
    "run": "kaasq_producers.commands.run:run",
    "flow": "kaasq_producers.commands.flow:flow",
    "events": "kaasq_producers.commands.events:events",
    "serve": "kaasq_producers.commands.serve:serve",
    "put": "kaasq_producers.commands.store:put",
    "get": "kaasq_producers.commands.store:get",
    "ls": "kaasq_producers.commands.store:ls",
    "rm": "kaasq_producers.commands.store:rm",
    "gc": "kaasq_producers.commands.store:gc",
    "dead": "kaasq_producers.dead.command:dead",
    "sign": "kaasq_producers.commands.sign:sign",
    "schema": "kaasq.schema.command:schema",
    "bench": "kaasq_bench.command:bench",
    "demo": "kaasq_producers.demo.cli:demo",
}


class _Lazy(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:  # click suggests only commands that it has loaded
            close = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.format_message()} Did you mean {close[0]!r}?", ctx) from None

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        interrupts.raise_again()
        _unwrap(command)
        return command


def _unwrap(command: click.Command) -> None:
    """Put click's mark for "do not wrap", which a raw docstring can only spell, into its help and that of all below."""
    if command.help is not None:
        command.help = command.help.replace(r"\b", "\b")
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _unwrap(each)


class Sectioned(click.Command):
    """A command whose options are shown in ``sections``, by their parameters' names; the others come last."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them."""
        records = {each.name: record for each in self.get_params(ctx) if (record := each.get_help_record(ctx))}
        for title, names in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Other options"):
            formatter.write_dl(list(records.values()))


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="kaasq")
def kaasq() -> None:
    """Kernel-as-a-Service over RabbitMQ.

    Settings come from flags, then KAASQ_* variables (KAASQ_BROKER_URL, KAASQ_STORE, KAASQ_POOL, KAASQ_DEVICE), then
    kaasq.toml, here or in the user's configuration folder. Those without a flag are set by variable or file, too:
    docs/operations.md lists them all.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit 0, 1 (a kaasq error, printed), 2 (wrong usage), 128 + a signal (Ctrl-C: 130)."""
    try:
        kaasq.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        interrupts.end_by(interrupts.stop_before(error) or error)
    except KaasqError as error:
        before = interrupts.stop_before(error)
        if before is not None:
            interrupts.end_by(before)
        click.echo(f"kaasq: {error.code}: {harmless(error.message, keep=LAID_OUT)}", err=True)
        sys.exit(1)


def settings_options(*names: str) -> Callable[[F], F]:
    """A decorator adding the options of those settings to a command, each None when not given."""

    def decorate(command: F) -> F:
        for name in reversed(names):
            flags, attributes = _OPTIONS[name]
            command = click.option(*flags, **attributes)(command)
        return command

    return decorate


_OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "broker_url": (
        ("--broker", "broker_url"),
        {"metavar": "URL", "help": "amqp:// or amqps:// URL of the broker (default: guest's at localhost)."},
    ),
    "store": (
        ("--store",),
        {"metavar": "DIR", "help": "The pool's buffer store (default: by pool, in the user's data folder)."},
    ),
    "pool": (("--pool",), {"metavar": "NAME", "help": "The pool of workers (default: default)."}),
    "connect_timeout": (
        ("--connect-timeout",),
        {"type": float, "metavar": "S", "help": "Seconds to wait for the broker (default: 10)."},
    ),
    "log_format": (
        ("--log-format",),
        {
            "type": click.Choice(["auto", "json", "console"]),
            "help": "Form of the log (default: auto, console on a terminal and json elsewhere).",
        },
    ),
    "log_level": (
        ("--log-level",),
        {"type": click.Choice(["debug", "info", "warning", "error"]), "help": "Least level logged (default: info)."},
    ),
}
