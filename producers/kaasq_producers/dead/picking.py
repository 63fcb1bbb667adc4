"""The letters that commands for dead letters mean, and how far they came with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from kaasq.broker import Delivery
from kaasq.dead_letter import CODES, DeadLetter, read
from kaasq.errors import BadRequest, BrokerLost, KaasqError
from kaasq.rabbit.dead import MOST, DeadQueue, Letter
from kaasq.setting_values import nearest
from kaasq_producers.dead.selection import SHORT_ID, Selection, is_meant

REPORT_EVERY = 100


class Letters:
    """Those of a queue, each as what it says and as it was delivered, oldest first."""

    def __init__(self, queue: DeadQueue, step: Callable[[], None], read: Callable[[Delivery], DeadLetter]) -> None:
        self._queue = queue
        self._step = step
        self._read = read
        self._codes: set[str] = set()

    def __iter__(self) -> Iterator[tuple[DeadLetter, Letter]]:
        self._codes.clear()
        for delivery in self._queue.letters():
            self._step()
            letter = self._read(delivery)
            self._codes.add(letter.code)
            yield letter, delivery

    def one(self, id_: str, selection: Selection) -> tuple[DeadLetter, Letter]:
        """The letter that is meant. Raises BadRequest if there is none, or if there are several."""
        ((found, delivery),) = self._found((id_,), selection)
        return found, delivery

    def chosen(self, ids: tuple[str, ...], selection: Selection) -> Iterator[tuple[DeadLetter, Letter]]:
        """The letters with these ids, once it is clear that each means one; without ids all that are selected."""
        if ids:
            yield from self._found(ids, selection)
            return
        for letter, delivery in self:
            if selection(letter):
                yield letter, delivery
        self.check_code(selection)

    def check_code(self, selection: Selection) -> None:
        """Raises BadRequest for a code that none of the letters just read has, and that none could have."""
        code = selection.code
        if code is None or code in self._codes or code in CODES:
            return
        near = nearest(code, self._codes | CODES)
        meant = f"; did you mean {near!r}?" if near else ""
        there = ", ".join(sorted(self._codes)) or "none, for there are no letters"
        raise BadRequest(f"{code!r} is no code of a dead letter{meant}; those here have {there}", at="--code")

    def _found(self, ids: tuple[str, ...], selection: Selection) -> list[tuple[DeadLetter, Letter]]:
        place = self._queue.place
        found: dict[str, tuple[DeadLetter, Letter]] = {}
        for letter, delivery in self:
            for id_ in ids:
                if not is_meant(letter, id_) or not selection(letter):
                    continue
                if id_ in found:
                    both = " and ".join(f"{each.id} of {each.whose}" for each in (found[id_][0], letter))
                    raise BadRequest(
                        f"means several dead letters, {both}: give all of the id, or --{place.apart_by}", at=id_
                    )
                found[id_] = letter, delivery
        for id_ in ids:
            if id_ not in found:
                count = self._queue.count
                more = f"; the first {MOST} of {count} were looked at" if count > MOST else ""
                short = f"; its beginning takes {SHORT_ID} characters or more" if len(id_) < SHORT_ID else ""
                raise BadRequest(f"no dead letter has that id (`{place.command} list` shows them{more}{short})", at=id_)
        return list(found.values())


@contextmanager
def reading(queue: DeadQueue, read: Callable[[Delivery], DeadLetter] = read) -> Iterator[Letters]:
    """The letters; says on a terminal how many were read."""
    seen = 0
    with Console(stderr=True).status("reading dead letters ...") as status:

        def step() -> None:
            nonlocal seen
            seen += 1
            if seen % REPORT_EVERY == 0:
                status.update(f"read {seen} of {queue.count} dead letters")

        yield Letters(queue, step, read)


@contextmanager
def counting() -> Iterator[Callable[[int], int]]:
    """If it breaks off, says how far it came: what was done is done."""
    done = 0

    def count(now: int) -> int:
        nonlocal done
        done = now
        return now

    try:
        yield count
    except BrokerLost as error:
        raise BrokerLost(f"{error.message}; {done} were done, all others are still in the queue") from None
    except (KaasqError, KeyboardInterrupt):
        if done:
            click.echo(f"kaasq: {done} were done, all others are still in the queue", err=True)
        raise
