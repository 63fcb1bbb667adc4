"""Blocking calls of an event loop (the store, connecting) on a few threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kaasq.errors import BrokerLost, KaasqError
from kaasq_producers.loop_inbox import LoopInbox

T = TypeVar("T")


class SideThreads:
    """At most ``count`` threads, started when needed. Not the loop's own: those may be busy with the user's calls.

    Also unlike those they outlive the loop quietly: what ends when the loop is closed is dropped.
    """

    def __init__(self, inbox: LoopInbox, count: int) -> None:
        self._inbox = inbox
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="kaasq-client")
        self._running: set[asyncio.Future[Any]] = set()
        self._closed: KaasqError | None = None

    def call(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Run it on a thread. Cancelling the future has no effect on a call that has begun. Raises BrokerLost after
        ``close``.
        """
        if self._closed is not None:
            raise BrokerLost(self._closed.message)
        future: asyncio.Future[T] = self._inbox.loop.create_future()
        self._running.add(future)
        self._executor.submit(self._run, future, function, args)
        return future

    def close(self, error: KaasqError) -> None:
        """On the loop: whoever waits for a call is told that; calls that have not begun never will."""
        self._closed = error
        for future in list(self._running):
            self._settle(future, None, error)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        """On another thread, after ``close``: wait for the calls that had begun."""
        self._executor.shutdown(wait=True)

    def _run(self, future: asyncio.Future[T], function: Callable[..., T], args: tuple[Any, ...]) -> None:
        if future.cancelled():
            self._inbox.post(self._running.discard, future)
            return
        try:
            value = function(*args)
        except BaseException as error:  # noqa: BLE001  # whatever it is: it belongs to whoever waits
            self._inbox.post(self._settle, future, None, error)
        else:
            self._inbox.post(self._settle, future, value, None)

    def _settle(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        self._running.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
