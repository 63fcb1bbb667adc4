"""Loaded into the processes of a worker by their PYTHONPATH: they die, once for each message, at a moment.

What there is to do between two moments is all that kaasq does with a message. The file ``moments`` in the folder
CHAIN_DEATHS has a line for each that somebody is to die at: its name, and which messages of a chain or a workflow it is
for, if not all: their numbers, with a point and the number of a publish where there are several. A file for each death
keeps it from happening twice. Where there is a file ``trace``, each moment that passes is written there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaasq.ids import split_id
from kaasq_workers.channel import BlockingChannel
from kaasq_workers.executor.attempts import Attempts
from kaasq_workers.executor.serving import Executor
from kaasq_workers.flows.settling import Settling
from kaasq_workers.front import answers
from kaasq_workers.front.front import Front
from kaasq_workers.link import Answer
from kaasq_workers.vitals import Vitals

FOLDER = Path(os.environ["CHAIN_DEATHS"])
OF_FRONTS = {"heard", "sending", "sent", "confirmed", "acked"}
SENT_S = 0.1  # by then the broker has what was sent


def is_time(moment: str, request_id: str, index: int | None = None) -> bool:
    """Whether to die now; says so once for each message."""
    number = str(split_id(request_id)[1])
    exactly = number if index is None else f"{number}.{index}"
    if (FOLDER / "trace").exists():
        with (FOLDER / "trace").open("a") as trace:
            trace.write(f"{moment} {exactly}\n")
    for line in (FOLDER / "moments").read_text().splitlines():
        name, *numbers = line.split()
        if name == moment and (not numbers or not {number, exactly}.isdisjoint(numbers)):
            break
    else:
        return _is_next(moment)
    try:
        (FOLDER / f"{moment}-{request_id}{'' if index is None else f'.{index}'}").touch(exist_ok=False)
    except FileExistsError:
        return _is_next(moment)
    return True


def _is_next(moment: str) -> bool:
    """Whether so many moments of a front have passed since the first death that it is time for the second.

    Not of an executor: who kills two of them under a request is taken for that request.
    """
    if moment not in OF_FRONTS:
        return False
    try:
        left = int((FOLDER / "second").read_text())
    except (FileNotFoundError, ValueError):
        return False
    if not any(FOLDER.glob("*-*")):
        return False
    new = FOLDER / "second.new"
    new.write_text("" if left <= 1 else str(left - 1))
    new.rename(FOLDER / "second")
    return left <= 1


def die() -> None:
    """At once, as by kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(moment: str, request_id: str) -> None:
    """If it is time."""
    if is_time(moment, request_id):
        die()


def around(owner: type, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    """Have that method call these."""
    inner = getattr(owner, name)

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self, *args)
        result = inner(self, *args, **kwargs)
        if after is not None:
            after(self, *args)
        return result

    setattr(owner, name, outer)


# Of an executor. ``begun``: it has been given to the device. ``ended``: it has run. ``recorded``: its transaction has
# everything, and is not committed. ``committed``. ``told``: the front has its answer, or will have.

# What is committed, and told, by a thread while others run, dies once nothing does: who kills two executors under a
# request is taken for that request.

IDLE_S = 30.0  # for what runs to end, which may have to be compiled
RECORDED_S = 2.0  # the same within a transaction, for which what runs may be waiting


class Running:
    """How many requests run; ``idle`` is held as long as any does."""

    def __init__(self) -> None:
        self.idle = threading.Lock()
        self._count = 0

    def begin(self, *_: Any) -> None:
        """One more."""
        if not self._count:
            self.idle.acquire()
        self._count += 1

    def end(self, *_: Any) -> None:
        """One less."""
        self._count -= 1
        if not self._count:
            self.idle.release()


running = Running()
around(Vitals, "begin", running.begin, None)
around(Vitals, "end", None, running.end)


def die_idle(moment: str, request_id: str, patience_s: float = IDLE_S) -> None:
    """If it is time, as soon as nothing runs."""
    if is_time(moment, request_id):
        running.idle.acquire(timeout=patience_s)
        die()


_group: list[str] = []  # ids of what is being committed
_ids: dict[int, str] = {}  # by tag


def group(moment: str) -> Callable[..., None]:
    """For those whose ends share a transaction."""

    def look(_: Executor, ended: list[Any]) -> None:
        _group[:] = [each.job.id for each in ended]
        _ids.update((each.job.tag, each.job.id) for each in ended)
        if moment == "committed":
            for each in ended:
                if each.error is not None and each.graph is not None and each.graph.endswith("flaky"):
                    (FOLDER / "failed").touch()  # the next attempt is to succeed
        for each in _group:
            die_idle(moment, each)
        if moment == "committed":
            _group.clear()

    return look


def recorded(_: Settling) -> None:
    """How workflows stand has been written."""
    for each in _group:
        die_idle("recorded", each, RECORDED_S)


def told(_: BlockingChannel, messages: list[Any]) -> None:
    """The front has been sent something."""
    for each in messages:
        if isinstance(each, Answer):
            die_idle("told", _ids.pop(each.tag, ""))


around(Executor, "_commit", group("ended"), group("committed"))
around(Settling, "save", None, recorded)
around(BlockingChannel, "send", None, told)
around(Attempts, "begin", None, lambda _, job, *_rest: die_once("begun", job.id))


# Of a front. ``heard``: an answer has come. ``sending``: before each publish, counted from 0; the broker has those
# before it. ``sent``: the broker has all. ``confirmed``: and says so. ``acked``: and has the ack.

_doomed = False  # it dies in a moment: until then it does nothing more


def doom(broker: Any) -> None:
    """Die once the broker has what was sent."""
    global _doomed
    _doomed = True
    broker.call_later(SENT_S, die)


def unless_doomed(owner: type, name: str) -> None:
    """Have that method do nothing then."""
    inner = getattr(owner, name)
    setattr(owner, name, lambda self, *args, **kwargs: None if _doomed else inner(self, *args, **kwargs))


def heard(front: Front, answer: Answer, _: Any) -> None:
    """The executor has answered a request."""
    pending = front._pending._by_tag.get(answer.tag)
    if pending is not None:
        die_once("heard", pending.accepted.id)


class Settle(answers._Settling):
    """Publishes what a delivery led to."""

    def publish(self, broker: Any, messages: Any, later: Any) -> None:
        self._broker, self._sent = broker, 0
        super().publish(broker, messages, later)
        if not _doomed and self._sent and is_time("sent", self._delivery.message.message_id or ""):
            doom(broker)

    def _send(self, broker: Any, outgoing: Any, *, attempts: int) -> None:
        if not _doomed and is_time("sending", self._delivery.message.message_id or "", self._sent):
            doom(broker) if self._sent else die()
        if not _doomed:
            self._sent += 1
            super()._send(broker, outgoing, attempts=attempts)

    def _finish(self, whole: bool) -> None:
        if _doomed:
            return
        die_once("confirmed", self._delivery.message.message_id or "")
        super()._finish(whole)
        if is_time("acked", self._delivery.message.message_id or ""):
            doom(self._broker)


answers._Settling = Settle  # type: ignore[misc]
around(Front, "answered", heard, None)
unless_doomed(Front, "answered")
unless_doomed(Front, "take")
