"""Events one after the other: ``for event in client.events(...)``, and ``async for`` in an event loop."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self

from kaasq.broker import Delivery
from kaasq.errors import KaasqError
from kaasq.events import EventMessage
from kaasq.settings import Settings
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.event import Event, heard
from kaasq_producers.events.subscription import Subscription, Wanted
from kaasq_producers.futures import Waiter
from kaasq_producers.loop_inbox import LoopInbox


class _Heard:
    """Events that came and were not asked for yet. Thread-safe; ``wake`` is called when there is news, on any thread.

    When the connection is lost they are dropped, since the broker delivers them again.
    """

    def __init__(self, core: ClientCore, wanted: Wanted, settings: Settings, wake: Callable[[], None]) -> None:
        self._waiting: deque[tuple[EventMessage, Delivery]] = deque()
        self._wake = wake
        self.over: KaasqError | None = None
        self.subscription = Subscription(
            core, wanted, settings, on_event=self._put, on_lost=self._waiting.clear, on_over=self._end
        )

    def take(self) -> tuple[EventMessage, Delivery] | None:
        """The next one, if there is one."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def close(self, current: Delivery | None) -> None:
        """What was not asked for goes back, and so does the current one, if it was not acked."""
        self.subscription.stop(partial(self._give_back, current))

    def _give_back(self, current: Delivery | None) -> None:
        if current is not None:
            current.requeue()  # of no effect once it was acked; first, for the order
        while (each := self.take()) is not None:
            each[1].requeue()

    def _put(self, event: EventMessage, delivery: Delivery) -> None:
        self._waiting.append((event, delivery))
        self._wake()

    def _end(self, error: KaasqError) -> None:
        self.over = error
        self._wake()


class Events:
    """Events as they come, for one thread: an iterator without an end, and a context manager that ends it.

    An event counts as handled once the next one is asked for (or ``event.ack()`` is called). What was not is given
    back when this is closed, and delivered again: to this subscription's next listener, if it has a name.
    """

    def __init__(self, core: ClientCore, wanted: Wanted, settings: Settings) -> None:
        self._news = threading.Condition()
        self._buffers = core.buffers
        self._heard = _Heard(core, wanted, settings, self._notify)
        self._current: Delivery | None = None
        self._closed = False
        started: Waiter[bool] = Waiter()
        self._heard.subscription.start(lambda error: started.set(error or True))
        try:
            started.wait(settings.connect_timeout * 2)
        except BaseException:
            self._heard.close(None)
            raise

    def next(self, timeout: float | None = None) -> Event:
        """The next event; acks the one before. Raises TimeoutError after so many seconds, and what ends all events."""
        current, self._current = self._current, None
        if current is not None:
            current.ack()
        until = None if timeout is None else time.monotonic() + timeout
        with self._news:
            while (found := self._heard.take()) is None:
                if self._closed:
                    raise StopIteration
                if self._heard.over is not None:
                    raise copy.copy(self._heard.over)
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no event within {timeout:g} s")
                self._news.wait(left)
        event, self._current = found
        return heard(event, self._buffers, sealed=False, settle=self._current.ack)

    def close(self) -> None:
        """Listen no more. From any thread; who waits for an event gets the end of the iteration. Idempotent."""
        with self._news:
            closed, self._closed = self._closed, True
            self._news.notify_all()
        if not closed:
            current, self._current = self._current, None
            self._heard.close(current)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self.next()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _notify(self) -> None:
        with self._news:
            self._news.notify_all()


class AsyncEvents:
    """The same for one task of an event loop. It listens from the beginning of its ``async with`` block, or from the
    first event that is asked for.
    """

    def __init__(
        self, core: Callable[[], Awaitable[ClientCore]], inbox: LoopInbox, wanted: Wanted, settings: Settings
    ) -> None:
        self._core = core
        self._inbox = inbox
        self._wanted = wanted
        self._settings = settings
        self._heard: _Heard | None = None
        self._core_used: ClientCore | None = None
        self._news = asyncio.Event()
        self._current: Delivery | None = None
        self._closed = False

    async def next(self) -> Event:
        """The next event; acks the one before. ``asyncio.timeout`` bounds the wait, and loses nothing."""
        current, self._current = self._current, None
        if current is not None:
            current.ack()
        if self._heard is None:
            await self._start()
        assert self._heard is not None
        while True:
            self._news.clear()  # first: what comes from now on wakes us
            found = self._heard.take()
            if found is not None:
                break
            if self._closed:
                raise StopAsyncIteration
            if self._heard.over is not None:
                raise copy.copy(self._heard.over)
            await self._news.wait()
        event, self._current = found
        assert self._core_used is not None
        return heard(event, self._core_used.buffers, sealed=True, settle=self._current.ack)

    async def aclose(self) -> None:
        """Listen no more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._news.set()
        current, self._current = self._current, None
        if self._heard is not None:
            self._heard.close(current)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.next()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _start(self) -> None:
        if self._closed:
            raise StopAsyncIteration
        core = self._core_used = await self._core()
        started = self._inbox.loop.create_future()

        def settle(error: KaasqError | None) -> None:
            if not started.done():
                started.set_result(error)

        self._heard = _Heard(core, self._wanted, self._settings, lambda: self._inbox.post(self._news.set))
        self._heard.subscription.start(lambda error: self._inbox.post(settle, error))
        try:
            error = await started
        except BaseException:
            await self.aclose()
            raise
        if error is not None:
            await self.aclose()
            raise error
