"""Decides which unconfirmed publishes are lost, and not just slow. No I/O.

A publish may be lost in a cluster whose node dies, and its confirm then never comes, or once the node is back. A broker
that is merely slow confirms nothing newer for the same queue either; there, repeating would only make it slower. So a
publish is lost if it is old, and one for the same place that was sent later is confirmed. Where nothing was sent later,
because everybody waits, the oldest one alone is given up, for its repeat to find that out; while nothing comes of that,
at doubling intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Protocol


class Sent(Protocol):
    """A publish that was sent."""

    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def sent_at(self) -> float: ...


class Overtaken:
    """What was confirmed on one channel. Tags grow in the order of sending."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._newest: dict[tuple[str, str], int] = {}
        self._probe_at = float("-inf")
        self._pause_s = patience_s

    def reset(self) -> None:
        """It is another channel from now on: tags begin anew."""
        self._newest.clear()

    def confirmed(self, item: Sent, tag: int) -> None:
        """The broker has it."""
        place = (item.exchange, item.routing_key)
        self._newest[place] = max(tag, self._newest.get(place, 0))
        self._pause_s = self._patience_s

    def lost(self, unconfirmed: Mapping[int, Sent], now: float) -> list[int]:
        """The tags to give up. ``unconfirmed``: oldest first.

        Forgets what can overtake none of them: each client has a place of its own, and there is no end of clients.
        """
        oldest = next(iter(unconfirmed), float("inf"))
        self._newest = {place: tag for place, tag in self._newest.items() if tag > oldest}
        before = now - self._patience_s
        old = list(takewhile(lambda each: each[1].sent_at < before, unconfirmed.items()))
        lost = [tag for tag, item in old if tag < self._newest.get((item.exchange, item.routing_key), 0)]
        if old and not lost and now >= self._probe_at:
            lost = [old[0][0]]
            self._probe_at = now + self._pause_s
            self._pause_s *= 2
        return lost
