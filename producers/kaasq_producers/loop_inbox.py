"""The way from other threads into one event loop: many calls, one wake-up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

CALLS_A_TURN = 256  # some 1 ms of results; then the loop's other work has its turn


class LoopInbox:
    """Runs functions on the loop, in the order in which threads gave them. They must not raise."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._waking = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Run it on the loop, soon; from any thread. Dropped if the loop is closed: there is nobody left to tell."""
        self._calls.append((function, args))
        if not self._waking:
            self._wake()

    def _wake(self) -> None:
        self._waking = True
        try:
            self.loop.call_soon_threadsafe(self._run)
        except RuntimeError:  # the loop is closed
            self._calls.clear()
            self._waking = False

    def _run(self) -> None:
        self._waking = False  # first: what is posted from now on wakes the loop again
        try:
            for _ in range(min(len(self._calls), CALLS_A_TURN)):
                function, args = self._calls.popleft()
                function(*args)
        finally:  # also where a KeyboardInterrupt ends this turn
            if self._calls and not self._waking:
                self._wake()
