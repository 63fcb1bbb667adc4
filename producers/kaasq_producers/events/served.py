"""A service that a client runs: in its own event loop (AsyncClient), or on a thread with one (Client)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from kaasq.errors import BadRequest, KaasqError
from kaasq.settings import Settings
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.service import Service
from kaasq_producers.events.serving import Serving
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.prepare import Preparer
from kaasq_producers.side_threads import SideThreads

SIDE_THREADS = 4


class AsyncServed:
    """``async with client.serve(service):`` serves for as long as the block runs, as in a FastAPI lifespan."""

    def __init__(self, make: Callable[[], Awaitable[Serving]], drain_s: float) -> None:
        self._make = make
        self._drain_s = drain_s
        self._serving: Serving | None = None

    async def start(self) -> None:
        """Subscribe. Raises BrokerLost, BrokerRefused, BadRequest."""
        if self._serving is not None:
            raise BadRequest("it serves already", at="serve")
        self._serving = await self._make()
        await self._serving.start()

    async def stop(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # it bounds the handlers, not this
        """Take no more events and let the handlers that run end, within ``timeout`` seconds (default: the drain time).

        Whether all did; the events of the others are delivered again. Idempotent.
        """
        if self._serving is None:
            return True
        return await self._serving.stop(self._drain_s if timeout is None else timeout)

    async def wait(self) -> None:
        """Until the connection is given up for good; raises why."""
        assert self._serving is not None, "it was not started"
        await asyncio.shield(self._serving.over)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


class Served:
    """``with client.serve(service):`` serves for as long as the block runs, on threads of its own."""

    def __init__(
        self, service: Service, core: ClientCore, preparer: Preparer, settings: Settings, drain_s: float
    ) -> None:
        """Returns once events are collected. Raises BrokerRefused, BadRequest."""
        self._drain_s = drain_s
        self._failed = threading.Event()
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kaasq-service", daemon=True)
        self._thread.start()
        inbox = LoopInbox(self._loop)
        self._threads = SideThreads(inbox, SIDE_THREADS)
        self._ended: bool | None = None
        self._lock = threading.Lock()

        async def start() -> Serving:
            serving = Serving(service, core, preparer, settings, inbox, self._threads)
            serving.over.add_done_callback(self._over)
            await serving.start()
            return serving

        try:
            self._serving = asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        except BaseException:
            self._end_loop()
            raise

    def stop(self, timeout: float | None = None) -> bool:
        """Take no more events and let the handlers that run end, within ``timeout`` seconds (default: the drain time).

        Whether all did; the events of the others are delivered again. Idempotent.
        """
        with self._lock:
            if self._ended is None:
                stopping = self._serving.stop(self._drain_s if timeout is None else timeout)
                self._ended = asyncio.run_coroutine_threadsafe(stopping, self._loop).result()
                self._end_loop()
            return self._ended

    def wait(self, timeout: float | None = None) -> bool:
        """Until the connection is given up for good, which raises why; or for so many seconds: False then."""
        if not self._failed.wait(timeout):
            return False
        assert self._failure is not None
        raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _over(self, over: asyncio.Future[None]) -> None:
        if not over.cancelled():
            self._failure = over.exception() or KaasqError("the service ended")
            self._failed.set()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
