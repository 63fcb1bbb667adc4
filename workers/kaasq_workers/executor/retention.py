"""Decides what a cache keeps: what is wanted often and costs most to bring back. Counts bytes, holds none. Pure.

Admission after TinyLFU (Einziger, Friedman, Manes, 2017), in its form for sizes that differ (Einziger, Eytan, Friedman,
Manes, "Lightweight Robust Size Aware Cache Management", 2022): who comes in has to be worth more than all those
together who would have to go for it, in the order of their last use. So what is read once displaces nothing, and a
round that is larger than the cache keeps a part of itself there, where the least recently used order keeps nothing.
Whoever was spared loses some of its worth, so that what is no longer wanted goes after a few rounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

COUNTED = 3  # uses at most: enough to tell often from seldom, and forgotten as fast
REMEMBERED = 4  # times as many that are not held as are
REMEMBERED_LEAST = 64
RELOAD_US = 100.0  # for anything, however small: looking it up, a copy's latency
RELOAD_BYTES_PER_US = 10_000.0


class Held:
    """Something kept: its size, and how often it was used lately."""

    __slots__ = ("nbytes", "uses")

    def __init__(self, nbytes: int, uses: int) -> None:
        self.nbytes = nbytes
        self.uses = uses


class Retention(Generic[K]):
    """What is held, least recently used first, within ``capacity`` bytes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._held: OrderedDict[K, Held] = OrderedDict()
        self._remembered: OrderedDict[K, int] = OrderedDict()  # uses of what is not held

    def used(self, key: K) -> None:
        """Something held was used."""
        held = self._held[key]
        held.uses = min(COUNTED, held.uses + 1)
        self._held.move_to_end(key)

    def admit(self, key: K, nbytes: int, free: Callable[[K], bool]) -> list[K] | None:
        """Something that is not held was used. Those to evict for it, now forgotten; None if it is not worth that.

        Only those that are ``free`` to go are asked to.
        """
        uses = min(COUNTED, self._remembered.pop(key, 0) + 1)
        room, worth, lost = self.capacity - self.nbytes, uses * reload_us(nbytes), 0.0
        victims: list[K] = []
        if room < nbytes <= self.capacity:
            for each, held in self._held.items():
                if not free(each):
                    continue
                victims.append(each)
                room += held.nbytes
                lost += (held.uses + 1) * reload_us(held.nbytes)  # and one: among equals who is here stays
                if room >= nbytes or lost >= worth:
                    break
        self._remember(key, uses)
        if room >= nbytes and (not victims or worth > lost):
            for each in victims:
                self._remember(each, self.remove(each))
            return victims
        for each in victims:
            self._held[each].uses = max(0, self._held[each].uses - 1)
            self._held.move_to_end(each)
        return None

    def add(self, key: K, nbytes: int) -> None:
        """It is held from now on."""
        self._held[key] = Held(nbytes, self._remembered.pop(key, 1))
        self.nbytes += nbytes

    def remove(self, key: K) -> int:
        """It is held no longer; how often it was used."""
        held = self._held.pop(key)
        self.nbytes -= held.nbytes
        return held.uses

    def order(self) -> Iterable[K]:
        """What is held, least recently used first, as it is now."""
        return list(self._held)

    def _remember(self, key: K, uses: int) -> None:
        self._remembered[key] = uses
        while len(self._remembered) > max(REMEMBERED_LEAST, REMEMBERED * len(self._held)):
            self._remembered.popitem(last=False)


def reload_us(nbytes: int) -> float:
    """About how long bringing it back takes."""
    return RELOAD_US + nbytes / RELOAD_BYTES_PER_US
