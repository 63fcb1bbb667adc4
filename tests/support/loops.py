"""An event loop for a test, in which nothing may go unnoticed; and a client of either kind behind one face."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from kaasq_producers import AsyncClient, Client

T = TypeVar("T")
TIMEOUT_S = 30.0


def play(main: Callable[[], Coroutine[Any, Any, T]], timeout_s: float = TIMEOUT_S) -> T:
    """Run it in a loop of its own. Fails also if an error went to nobody, or a task was left pending."""
    unnoticed: list[dict[str, Any]] = []

    async def watched() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unnoticed.append(context))
        async with asyncio.timeout(timeout_s):
            result = await main()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        closing = {each for each in left if type(each.get_coro()).__name__ == "async_generator_athrow"}
        if closing:  # a loop over a generator was left: asyncio closes that, and tells nobody when it has
            await asyncio.wait(closing, timeout=timeout_s)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        return result

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # a coroutine that was never awaited
        try:
            return asyncio.run(watched())
        finally:
            gc.collect()  # futures complain when they are collected
            assert not unnoticed, unnoticed


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # what is waited for happens on other threads
            await asyncio.sleep(0.002)


class Ticker:
    """Measures for how long the loop did nothing else: its longest gap between two ticks."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest_s = max(self.longest_s, now - last)
            last = now

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0.01)
        self.longest_s = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.002)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Threaded:
    """An AsyncClient as a thread sees it: each call is made in a loop that runs on another thread, and waited for."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **named: Any) -> Any:
            async def inside() -> Any:
                made = method(*args, **named)
                return made if name == "submit" else await made

            made = asyncio.run_coroutine_threadsafe(inside(), self._loop).result(TIMEOUT_S)
            return _Awaited(made, self._loop) if name == "submit" else made

        return call

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Awaited:
    """A future of that loop, with the methods of one for threads."""

    def __init__(self, future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._future, self._loop = future, loop

    def result(self, timeout_s: float = TIMEOUT_S) -> Any:
        async def inside() -> Any:
            return await self._future

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(timeout_s)

    def cancel(self) -> bool:
        async def inside() -> bool:
            return self._future.cancel()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(TIMEOUT_S)


class Plain:
    """A Client, with ``end`` as Threaded has it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def end(self) -> None:
        self._client.close()
