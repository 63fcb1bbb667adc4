"""Loaded into the processes of a worker by their PYTHONPATH: they die, once for each step of a chain, at a moment.

The file ``moment`` in the folder CHAIN_DEATHS says at which; a file for each death keeps it from happening twice.
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
from kaasq_workers.front.front import Front
from kaasq_workers.link import Answer

FOLDER = Path(os.environ["CHAIN_DEATHS"])


def die_once(moment: str, request_id: str) -> None:
    if (FOLDER / "moment").read_text() != moment:
        return
    try:
        (FOLDER / f"{moment}-{split_id(request_id)[1]}").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


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
