"""Photos over HTTP: one request publishes the first graph of a chain, the steps publish the next. See README.md."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import msgspec
import numpy as np
from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.event_service.graphs import smooth
from examples.event_service.steps import service
from examples.fastapi_service import failures
from kaasq import AsyncClient, KaasqError, Keep, NameNotFound

MAX_SIDE = 2048
MAX_EVENTS = 1000

Row = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=MAX_SIDE)]


class Photo(BaseModel):
    """Grey values from 0 to 1, row by row."""

    pixels: list[Row] = Field(min_length=1, max_length=MAX_SIDE)


def create_app(open_client: Callable[[], AbstractAsyncContextManager[AsyncClient]] = AsyncClient) -> FastAPI:
    """The application. It takes photos and runs the steps; ``kaasq serve`` can run the steps elsewhere as well."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_client() as client, client.serve(service):
            app.state.client = client
            yield

    app = FastAPI(title="Photos", lifespan=lifespan)
    app.add_exception_handler(KaasqError, failures.answer)

    @app.post("/photos", status_code=202)
    async def add(photo: Photo) -> dict[str, str]:
        """Begin the chain. It goes on whatever becomes of this process."""
        if len({len(row) for row in photo.pixels}) != 1:
            raise HTTPException(422, "all rows must have the same length")
        client: AsyncClient = app.state.client
        name = f"photos/{uuid.uuid4().hex}"
        image = await client.put(np.array(photo.pixels, np.float32), f"{name}/image")
        assert image.shape is not None
        await client.run(smooth(*image.shape), image=image, smoothed=Keep(f"{name}/smoothed"))
        return {"id": name.removeprefix("photos/")}

    @app.get("/photos/{photo}")
    async def show(photo: str) -> dict[str, Any]:
        """The counts, once they are there."""
        client: AsyncClient = app.state.client
        names = {each.name.rpartition("/")[2] for each in await client.names(f"photos/{photo}/")}
        if not names:
            raise HTTPException(404, f"there is no photo {photo!r}")
        try:
            counts = await client.get(f"photos/{photo}/counts")
        except NameNotFound:
            return {"status": "pending", "steps": sorted(names)}
        return {"status": "done", "counts": counts.tolist()}

    @app.get("/events")
    async def follow(limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = MAX_EVENTS) -> StreamingResponse:
        """How requests end, as server-sent events, from now on."""
        return StreamingResponse(lines(app.state.client, limit), media_type="text/event-stream")

    return app


async def lines(client: AsyncClient, limit: int) -> AsyncIterator[bytes]:
    """Whoever reads slowly has up to 10,000 events waiting at the broker, not here."""
    async with client.events("photos.#") as events:
        yield b": listening\n\n"
        for _ in range(limit):
            event = await events.next()
            told = {"request": event.request_id, "graph": event.graph, "word": event.word}
            yield b"data: " + msgspec.json.encode(told) + b"\n\n"
