"""Decides what becomes of requests whose executor died. Pure: the front acts on it.

What was running when its executor died is suspected; run again by itself, it either succeeds or proves its guilt. What
merely waited in the executor is run again and never blamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

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
    """
    suspects = running & set(in_flight) or set(in_flight)
    again: list[int] = []
    dead: list[int] = []
    for tag in in_flight:
        suspicion = suspicions.setdefault(tag, Suspicion())
        if tag in suspects:
            suspicion.alone = True
            suspicion.kills += len(suspects) == 1
        (dead if suspicion.kills >= KILLS_UNTIL_DEAD else again).append(tag)
    return Verdict(again, dead)
