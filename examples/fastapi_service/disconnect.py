"""Work that ends when the HTTP client goes away. An ASGI server only says so to who listens."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from fastapi import Request

T = TypeVar("T")


class Disconnected(Exception):
    """Nobody waits for the answer any more; the work was cancelled."""


async def while_connected(request: Request, work: asyncio.Future[T]) -> T:
    """What ``work`` gives. Raises Disconnected. The request's body must have been read."""
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        either: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Disconnected
    finally:
        gone.cancel()
        work.cancel()  # of no effect on what is done


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
