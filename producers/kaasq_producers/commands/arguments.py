"""What options of several commands mean: inputs, scalars, names of outputs; and telling a person what is waited for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from kaasq.errors import BadRequest, KaasqError
from kaasq.messages import Stored
from kaasq_producers.buffers import which
from kaasq_producers.client import Client
from kaasq_producers.commands.files import read_value

PATIENCE_S = 0.5  # before it says what it waits for
REPLY_PATIENCE_S = 2.0  # before it asks whether anybody is there to reply
LOOK_S = 5.0  # for the broker to tell

V = TypeVar("V")


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say it, to a person, if the block takes its time."""
    if not sys.stderr.isatty():
        yield
        return
    with _later(PATIENCE_S, lambda: click.echo(f"kaasq: {what}", err=True)):
        yield


@contextmanager
def unserved_told(client: Client) -> Iterator[None]:
    """Say to a person, if the block waits for a reply and nobody takes requests of the pool, what to start."""
    if not sys.stderr.isatty():
        yield
        return
    pool, over = client.settings.pool, threading.Event()

    def look() -> None:
        try:
            served = client._is_served(LOOK_S)
        except KaasqError:  # no connection any more: the command says so
            return
        if not served and not over.is_set():
            start = f"start a worker with `kaasq worker --pool {pool}`"
            click.echo(f"kaasq: nobody serves pool {pool!r} now: {start}; waiting ...", err=True)

    try:
        with _later(REPLY_PATIENCE_S, look):
            yield
    finally:
        over.set()


@contextmanager
def _later(delay_s: float, say: Callable[[], None]) -> Iterator[None]:
    """Say something unless the block is over before that."""
    timer = threading.Timer(delay_s, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def address(url: str) -> str:
    """Host and port of a broker's URL: the rest is nobody's business."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # no number: connecting says so
        return parts.hostname or "the broker"
    return f"{parts.hostname or 'localhost'}:{port or (5671 if parts.scheme == 'amqps' else 5672)}"


def pairs(option: str, given: Iterable[str], convert: Callable[[str], V]) -> dict[str, V]:
    """What ``NAME=VALUE`` options say, by name; of two with one name the later."""
    return {name: values[-1] for name, values in lists(option, given, convert).items()}


def lists(option: str, given: Iterable[str], convert: Callable[[str], V]) -> dict[str, list[V]]:
    """The same, with all values of a name, in their order."""
    found: dict[str, list[V]] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name or not value:
            raise click.UsageError(f"{option} {each!r}: expected NAME=VALUE")
        found.setdefault(name, []).append(convert(value))
    return found


def input_value(value: str) -> Any:
    """An array or bytes from a file, or what lies in the store: ``@NAME``. Raises BadRequest."""
    if not value.startswith("@"):
        try:
            return read_value(Path(value))
        except BadRequest as error:
            if Path(value).is_absolute() or not isinstance(error.__context__, FileNotFoundError):
                raise
            raise BadRequest(f"{error.message}; what the store has under a name is written @{value}") from None
    key = which(value[1:])
    return Stored(ref=key.get("ref"), name=key.get("name"))


def number(text: str) -> bool | int | float:
    """A scalar. Raises BadRequest."""
    if text in {"true", "false"}:
        return text == "true"
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"{text!r} is no number", at="--scalar") from None
