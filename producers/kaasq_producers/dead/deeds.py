"""What the commands do with the letters that are meant: list, publish again, remove."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
from rich.table import Table

from kaasq.dead_letter import DeadLetter
from kaasq.errors import KaasqError
from kaasq.plain_text import harmless
from kaasq.rabbit.dead import MOST, DeadQueue
from kaasq_producers.commands import display
from kaasq_producers.dead import told
from kaasq_producers.dead.picking import Letters, counting
from kaasq_producers.dead.selection import Selection


class Listing:
    """The oldest that are selected, without their bodies; how many there are of each code, and in the queue."""

    def __init__(self, queue: DeadQueue, letters: Letters, selection: Selection, limit: int) -> None:
        self.shown: list[DeadLetter] = []
        self.codes: Counter[str] = Counter()
        for letter, _ in letters:
            if selection(letter):
                self.codes[letter.code] += 1
                if len(self.shown) < limit:
                    self.shown.append(told.without_body(letter))
        letters.check_code(selection)
        self.count = queue.count

    def tell_programs(self, key: str, row: Callable[[DeadLetter], dict[str, Any]]) -> None:
        """As JSON, the letters under ``key``."""
        rows = [row(each) for each in self.shown]
        click.echo(json.dumps({key: rows, "matching": self.codes.total(), "codes": self.codes, "in_queue": self.count}))

    def tell_people(self, table: Callable[[list[DeadLetter]], Table]) -> None:
        """As a table, and in a sentence."""
        if self.shown:
            display.show(table(self.shown))
        click.echo(told.summary(self.codes, len(self.shown), self.count, MOST))


def publish_again(
    letters: Letters,
    ids: tuple[str, ...],
    selection: Selection,
    publish: Callable[[DeadLetter], None],
    *,
    passed_over: tuple[type[KaasqError], ...],
    verb: str,
) -> None:
    """Publish each that is meant; it is gone once the broker has confirmed that. What fails with one of ``passed_over``
    stays in the queue if all were meant, and makes the exit status 1; otherwise it is raised.
    """
    left: Counter[str] = Counter()
    done = 0
    with counting() as counted:
        for letter, delivery in letters.chosen(ids, selection):
            try:
                publish(letter)
            except passed_over as error:
                if ids:
                    raise
                left[error.message] += 1
                continue
            delivery.ack()
            done = counted(done + 1)
    click.echo(f"{verb} {done} again")
    for reason, count in left.most_common():
        click.echo(f"kaasq: {count} left in the queue: {harmless(reason)}", err=True)
    if left:
        sys.exit(1)


def remove(letters: Letters, ids: tuple[str, ...], selection: Selection) -> None:
    """Remove each that is meant."""
    done = 0
    with counting() as counted:
        for _, delivery in letters.chosen(ids, selection):
            delivery.ack()
            done = counted(done + 1)
    click.echo(f"removed {done}")


def ask_before_removing(count: int, what: str, selection: Selection) -> None:
    """Raises click.Abort if the answer is no, UsageError if nobody is there to give it. Of none it does not ask."""
    if not count:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"There is no terminal to ask on whether to remove {what}: --yes answers in advance.")
    click.confirm(f"Remove all {what}" + (" that match?" if selection != Selection() else "?"), abort=True, err=True)
