"""The requests of a client that have no reply yet, and who waits for room for another. No I/O.

A request and all that is to follow it have a place each, under their ids.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable

from kaasq.errors import KaasqError
from kaasq_producers.calls import Awaited, Call


class Pending:
    """At most ``limit`` of them, or what follows the last one more. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.over: KaasqError | None = None
        """Why nothing is sent any more."""
        self._awaited: dict[str, Awaited] = {}
        self._chains: dict[str, Call] = {}  # requests of which something that follows is pending, or they are
        self._room = threading.Condition()
        self._waiting = 0
        self._callbacks: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._awaited)

    @property
    def is_full(self) -> bool:
        """Whether there is no room now; if nothing is sent any more, ``add`` says so instead."""
        return len(self._awaited) >= self.limit and self.over is None

    def add(self, call: Call) -> bool:
        """Await it and all that follows it. False if there is no room. Raises why nothing is sent any more."""
        with self._room:
            if self.over is not None:
                raise copy.copy(self.over)  # a raised exception collects its raiser's traceback
            if len(self._awaited) >= self.limit:
                return False
            self._awaited[call.id] = call
            if call.following:
                self._chains[call.id] = call
                self._awaited.update((each.id, each) for each in call.chain())
        return True

    def find(self, request_id: str) -> Awaited | None:
        """What has that id; also a request that has its reply already, while something that follows it has none."""
        return self._awaited.get(request_id) or self._chains.get(request_id)

    def forget(self, call: Awaited) -> bool:
        """Await it no longer, and tell one who waits for room. False if it was not awaited."""
        if self._awaited.pop(call.id, None) is None:
            return False
        if call.call.following and not self.awaits(call.call):
            self._chains.pop(call.call.id, None)
        if self._waiting or self._callbacks:
            with self._room:
                self._room.notify()
                callback = self._callbacks.popleft() if self._callbacks else None
            if callback is not None:
                callback()
        return True

    def awaits(self, call: Call) -> bool:
        """Whether it, or something that follows it, has no reply."""
        return call.id in self._awaited or any(each.id in self._awaited for each in call.chain())

    def all(self) -> list[Awaited]:
        """All that have no reply."""
        with self._room:
            return list(self._awaited.values())

    def calls(self) -> list[Call]:
        """The requests to ask for: those without a reply, and those of which something that follows has none.

        What follows a request is asked for by asking for that one: its worker publishes again what follows it.
        """
        return list({each.call.id: each.call for each in list(self._awaited.values())}.values())

    def wait_for_room(self, timeout_s: float) -> bool:
        """Block until there is likely to be room again. False if it took too long."""
        with self._room:
            self._waiting += 1
            try:
                return self._room.wait_for(self._has_room, timeout_s)
            finally:
                self._waiting -= 1

    def on_room(self, callback: Callable[[], None]) -> None:
        """Call back once there is likely to be room again, or nothing is sent any more: from any thread, at once
        if that is so now. It is called once, and must neither block nor raise; each free place calls one of them, which
        has to ask again if it was not enough.
        """
        with self._room:
            # First this, then the look at the room: ``forget`` makes room and then looks here, without the lock.
            self._callbacks.append(callback)
            if not self._has_room():
                return
            self._callbacks.remove(callback)
        callback()

    def close(self, error: KaasqError) -> KaasqError:
        """Take no more, and tell all who wait for room. Returns why: what it was closed with first."""
        with self._room:
            if self.over is None:
                self.over = error
            self._room.notify_all()
            callbacks, self._callbacks = self._callbacks, deque()
        for callback in callbacks:
            callback()
        return self.over

    def _has_room(self) -> bool:
        return self.over is not None or len(self._awaited) < self.limit
