"""Decides who gets an executor where there may be more tenants than executors. Pure: front/executors.py acts on it.

Who has none waits, in the order in which they came. An executor without anything to do makes room, the one that has
been idle for longest first. If none is idle, one that has been somebody's for a while is to finish what it has, and
takes no more: so everybody's turn comes, and nobody waits for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Place(msgspec.Struct, frozen=True):
    """An executor. ``idle_since_s`` None: it has requests. ``leaving``: it takes no more, and will end."""

    owner: str | None
    since_s: float
    idle_since_s: float | None = None
    leaving: bool = False


class Limits(msgspec.Struct, frozen=True):
    """``most`` executors at once; one is stopped when it was ``idle_s`` without a request.

    While somebody waits, an executor is its owner's for ``turn_s`` at least.
    """

    most: int
    idle_s: float
    turn_s: float


class Allotment(msgspec.Struct):
    """What is to be done: places for owners, owners for whom one is started, places that are to end."""

    give: list[tuple[int, str]] = []
    start: list[str] = []
    leave: list[int] = []


def allot(places: Mapping[int, Place], waiting: Sequence[str], limits: Limits, now_s: float) -> Allotment:
    """What is to be done now. ``waiting``: owners with requests and no place, those who came first in front."""
    todo = Allotment()
    staying = {key: each for key, each in places.items() if not each.leaving}
    free = [key for key, each in staying.items() if each.owner is None]
    room = limits.most - len(places)
    blocked = 0
    for owner in waiting:
        if free:
            todo.give.append((free.pop(0), owner))
        elif room > 0:
            todo.start.append(owner)
            room -= 1
        else:
            blocked += 1
    taken = {key for key, _ in todo.give}
    idle = sorted(
        (each.idle_since_s, key) for key, each in staying.items() if each.idle_since_s is not None and key not in taken
    )
    over = sorted(
        (each.since_s, key)
        for key, each in staying.items()
        if each.idle_since_s is None and each.owner is not None and now_s - each.since_s >= limits.turn_s
    )
    wanted = max(0, blocked - (len(places) - len(staying)))
    todo.leave = [key for _, key in (idle + over)[:wanted]]
    todo.leave += [key for since_s, key in idle if now_s - since_s >= limits.idle_s and key not in todo.leave]
    return todo
