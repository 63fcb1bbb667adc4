"""Looking for work for a moment before sleeping: waking a thread takes longer than most of what it then has to do.

As network stacks and locks do it: for a bounded time, and only while it has paid lately.
"""

from __future__ import annotations

import selectors
import zlib
from collections.abc import Callable
from time import perf_counter

FEW = 4
"""Requests under way up to which looking is worth it. With more, what comes next comes soon anyway, and whoever sleeps
until then finds several at once, for which there is less to do than for each by itself."""
CROWDED_S = 250e-6
"""A look takes some microseconds. One that took so long had to wait for a processor, or for the interpreter's lock."""
MOST_CREDIT = 8
LEAST_DEBT, MOST_DEBT = 16, 1024
"""Short waits that are slept through after such a look: where processors are short, who has looked comes last."""
_PAUSE = bytes(8 << 10)
_expecting: set[int] = set()
"""The selectors of this process that wait for something just now, each with a thread of its own."""

Found = list[tuple[selectors.SelectorKey, int]]


class Looking:
    """Whether to look before the next wait, by how the last ones went. Pure.

    Each wait that was over within ``most_s`` is a credit, whether it was slept or looked through; each look in vain
    costs half of them. So a thread whose work comes seldom sleeps, and one that has nothing to do any more soon does.
    Where processors are short, looking costs twice as many waits each time, half as many once it has gone well again.
    """

    def __init__(self, most_s: float) -> None:
        """``most_s``: for how long to look at most; 0: never."""
        self._most_s = most_s
        self._credit = 0
        self._debt = LEAST_DEBT

    @property
    def look_s(self) -> float:
        """For how long to look before the next wait."""
        return self._most_s if self._credit > 0 else 0.0

    def waited(self, waited_s: float, *, came: bool) -> None:
        """What was waited for came after so long; or did not, up to then."""
        if waited_s > self._most_s:
            self._credit = min(self._credit, self._credit // 2)
        elif came and self._credit < MOST_CREDIT:
            self._credit += 1
            if self._credit == MOST_CREDIT:
                self._debt = max(LEAST_DEBT, self._debt // 2)

    def rest(self) -> None:
        """Much came at once: the next short waits are slept through."""
        self._credit = -LEAST_DEBT

    def crowded(self) -> None:
        """Others need what looking takes."""
        self._credit = -self._debt
        self._debt = min(MOST_DEBT, self._debt * 2)


def wait(
    looking: Looking,
    look: Callable[[float | None], bool],
    timeout_s: float | None,
    clock: Callable[[], float] = perf_counter,
) -> bool:
    """Wait up to ``timeout_s`` (None: for ever) for what ``look`` tells, which sleeps as long as it is told to.

    Looks without sleeping first, if ``looking`` says so, and not if others need the processor meanwhile.
    """
    began = now = clock()
    look_s = looking.look_s if timeout_s is None else min(looking.look_s, timeout_s)
    while now - began < look_s:
        came = look(0.0)
        before, now = now, clock()
        if came:
            looking.waited(now - began, came=True)
            return True
        if now - before > CROWDED_S:
            looking.crowded()
            break
    came = look(None if timeout_s is None else max(0.0, timeout_s - (now - began)))
    looking.waited(clock() - began, came=came)
    return came


class PollingSelector(selectors.DefaultSelector):
    """A selector that looks for a moment before it sleeps, beside other threads of the interpreter."""

    def __init__(self, most_s: float) -> None:
        super().__init__()
        self._looking = Looking(most_s)
        self._found: Found = []
        self.expecting: Callable[[], bool] = lambda: True
        """Whether anything may come soon: if not, it sleeps at once."""

    def select(self, timeout: float | None = None) -> Found:
        """See selectors."""
        if (timeout is not None and timeout <= 0) or not self.expecting():
            return super().select(timeout)
        me = id(self)
        _expecting.add(me)
        try:
            if len(_expecting) > FEW:  # they would have to take turns with the interpreter
                return super().select(timeout)
            wait(self._looking, self._look, timeout)
            return self._found
        finally:
            _expecting.discard(me)

    def _look(self, timeout_s: float | None) -> bool:
        self._found = super().select(timeout_s)
        if timeout_s == 0 and not self._found:
            _leave_others_the_interpreter()
        return bool(self._found)


def _leave_others_the_interpreter() -> None:
    """Some microseconds without sleeping and without the interpreter's lock: a checksum does not hold it.

    Looking alone would have it change hands all the time: who wants it wakes up, finds it taken, and sleeps again.
    """
    zlib.crc32(_PAUSE)
