"""Decides what becomes of requests whose executor died. Pure: the front acts on it.

What was running when its executor died is suspected; run again by itself, it either succeeds or proves its guilt. What
merely waited in the executor is run again and never blamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from kaasq.errors import KernelFailed
from kaasq.messages import WorkerInfo
from kaasq_workers.vitals import goes_on_from

KILLS_UNTIL_DEAD = 2


class Suspicion(msgspec.Struct):
    """What is held against one request."""

    kills: int = 0
    alone: bool = False
    """Run it with nothing else in flight."""


class Verdict(NamedTuple):
    """Tags to run again, in order, and tags that have killed once too often."""

    again: list[int]
    dead: list[int]


def judge(in_flight: Sequence[int], running: AbstractSet[int], suspicions: dict[int, Suspicion]) -> Verdict:
    """After an executor died with these tags unanswered, in the order they were sent, some of them known to be running.

    Updates ``suspicions``. If nobody is known to have been running, every request that might have been (any of those
    in flight) is suspected. Suspects go alone next time, but none has a kill counted unless it was the only one.

    What an executor goes on with before the answer to what is before it has been heard is not in flight yet. That one
    is suspected in its place, without a kill: what follows a suspect runs as a message of its own.
    """
    unheard = running - set(in_flight)
    ahead = {tag for tag in in_flight if any(goes_on_from(each, tag) for each in unheard)}
    suspects = running & set(in_flight) | ahead or set(in_flight)
    again: list[int] = []
    dead: list[int] = []
    for tag in in_flight:
        suspicion = suspicions.setdefault(tag, Suspicion())
        if tag in suspects:
            # Who was not seen running may have been sent to an executor that was dead by then: it has its chance first.
            suspicion.kills += len(suspects) == 1 and tag not in ahead and (tag in running or suspicion.alone)
            suspicion.alone = True
        (dead if suspicion.kills >= KILLS_UNTIL_DEAD else again).append(tag)
    return Verdict(again, dead)


def deadly(kills: int, how: str, worker: WorkerInfo | None) -> KernelFailed:
    """What the client is told of a request that killed so many executors, the last of them in that way."""
    if how.startswith("exit code"):
        cause = "it ended by itself, perhaps because a kernel called exit()"
    else:
        cause = "a kernel crashed, most likely by writing outside its buffers (`kaasq worker --guard` finds where)"
    return KernelFailed(
        f"the request killed its executor {kills} times ({how}): {cause}; the request is kept in the dead-letter queue",
        how=how,
        kills=kills,
        worker=worker and f"{worker.host}/{worker.pid}/{worker.device}",
    )
