"""A stream of requests: sent as fast as a window allows, handed out as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from kaasq.errors import KaasqError
from kaasq_producers.result import Result

Inputs = Mapping[str, Any]
Submit = Callable[[Inputs], "asyncio.Future[Result]"]


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """How one of several requests ended."""

    index: int
    """Its place among the inputs, from 0."""
    inputs: Inputs
    """What it was given."""
    outcome: Result | KaasqError

    @property
    def result(self) -> Result:
        """The result; raised if it is an error."""
        if isinstance(self.outcome, KaasqError):
            raise self.outcome
        return self.outcome

    @property
    def error(self) -> KaasqError | None:
        """What it failed with, if it did."""
        return self.outcome if isinstance(self.outcome, KaasqError) else None


async def completions(
    submit: Submit, inputs: Iterable[Inputs] | AsyncIterable[Inputs], limit: int
) -> AsyncGenerator[Completion, None]:
    """Submit what ``inputs`` yields; at most ``limit`` requests are on their way or wait to be taken from here.

    An error of ``inputs`` is raised once everything sent before it has been handed out. Whoever stops early (``break``,
    an exception, cancellation) cancels what is on its way.
    """
    room = asyncio.Semaphore(limit)
    running: set[asyncio.Future[Result]] = set()
    ended: asyncio.Queue[tuple[int, Inputs, asyncio.Future[Result]] | None] = asyncio.Queue()
    sent = taken = 0

    def finished(index: int, given: Inputs, future: asyncio.Future[Result]) -> None:
        running.discard(future)
        ended.put_nowait((index, given, future))

    async def feed() -> None:
        nonlocal sent
        async with aclosing(_asynchronous(inputs)) as source:
            while True:
                await room.acquire()  # first: nothing is made that would have to wait
                try:
                    given = await anext(source)
                except StopAsyncIteration:
                    return
                future = submit(given)
                running.add(future)
                future.add_done_callback(partial(finished, sent, given))
                sent += 1

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(lambda _: ended.put_nowait(None))  # wakes whoever waits for a request that never comes
    try:
        while not feeder.done() or taken < sent:
            item = await ended.get()
            if item is not None:
                index, given, future = item
                taken += 1
                yield Completion(index, given, _outcome(future))
                room.release()  # only now: what is in the consumer's hands counts, too
        await feeder
    finally:
        feeder.cancel()
        for future in running:
            future.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


def _outcome(future: asyncio.Future[Result]) -> Result | KaasqError:
    try:
        return future.result()
    except KaasqError as error:
        return error


async def _asynchronous(inputs: Iterable[Inputs] | AsyncIterable[Inputs]) -> AsyncGenerator[Inputs, None]:
    if isinstance(inputs, AsyncIterable):
        async for each in inputs:
            yield each
    else:
        for each in inputs:
            yield each
