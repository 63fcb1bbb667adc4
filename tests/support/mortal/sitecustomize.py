"""Loaded into the processes of a worker by their PYTHONPATH: they die, once for each message, at a moment.

The file ``moments`` in the folder CHAIN_DEATHS has a line for each such moment: its name, and the numbers of those
messages of a chain or a workflow that it is for, if not for all. A file for each death keeps it from happening twice.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaasq.ids import split_id
from kaasq_workers.channel import BlockingChannel
from kaasq_workers.executor.attempts import Attempts
from kaasq_workers.executor.serving import Executor
from kaasq_workers.front import answers
from kaasq_workers.front.front import Front
from kaasq_workers.link import Answer

FOLDER = Path(os.environ["CHAIN_DEATHS"])
SENT_S = 0.2  # by then the broker has what was sent


def is_time(moment: str, request_id: str) -> bool:
    """Whether to die now; says so once for each request."""
    for line in (FOLDER / "moments").read_text().splitlines():
        name, *numbers = line.split()
        if name == moment and (not numbers or str(split_id(request_id)[1]) in numbers):
            break
    else:
        return False
    try:
        (FOLDER / f"{moment}-{request_id}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(moment: str, request_id: str) -> None:
    if is_time(moment, request_id):
        die()


def around(owner: type, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    inner = getattr(owner, name)

    def outer(self: Any, *args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(self, *args)
        result = inner(self, *args, **kwargs)
        if after is not None:
            after(self, *args)
        return result

    setattr(owner, name, outer)


def group(moment: str) -> Callable[..., None]:
    def look(_: Executor, ended: list[Any]) -> None:
        for each in ended:
            die_once(moment, each.job.id)

    return look


def goes_on(_: BlockingChannel, messages: list[Any]) -> None:
    for each in messages:
        if isinstance(each, Answer) and each.onward is not None:
            die_once("told", each.onward.id)


around(Executor, "_commit", group("ended"), group("committed"))
around(BlockingChannel, "send", None, goes_on)
around(Attempts, "begin", None, lambda _, job, *rest: die_once("begun", job.id))


def answered(moment: str) -> Callable[..., None]:
    def look(_: Front, answer: Answer, onward: Any) -> None:
        if onward is not None:
            die_once(moment, onward.id)

    return look


around(Front, "answered", answered("heard"), answered("published"))


# Of a front that settles a delivery whose messages it publishes.


def settles(moment: str) -> Callable[..., None]:
    return lambda settling, *_: die_once(moment, settling._delivery.message.message_id)


def publish_one(self: Any, broker: Any, messages: list[Any]) -> None:
    """Only the first of several, if it is time: the broker has it then, and the others nobody."""
    if len(messages) > 1 and is_time("between", self._delivery.message.message_id):
        broker.call_later(SENT_S, die)
        messages = messages[:1]
    publish(self, broker, messages)


def acked(settling: Any) -> None:
    if is_time("acked", settling._delivery.message.message_id):
        settling._answers._broker.call_later(SENT_S, die)


publish = answers._Settling.publish
answers._Settling.publish = publish_one  # type: ignore[method-assign]
around(answers._Settling, "publish", settles("unpublished"), None)
around(answers._Settling, "_finish", settles("confirmed"), acked)
