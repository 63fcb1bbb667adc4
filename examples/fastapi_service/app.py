"""A similarity search over HTTP: FastAPI in front, kaasq workers behind. See README.md."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from examples.fastapi_service import failures
from examples.fastapi_service.disconnect import Disconnected, while_connected
from examples.fastapi_service.search import best, similarity
from kaasq import AsyncClient, BufferRef, Graph, KaasqError

TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 5.0  # a worker that sees the kernel for the first time compiles it, which takes a second or two
WINDOW = 64  # requests of one batch that are on their way at a time
MAX_BATCH = 10_000
MAX_WIDTH = 4096

Vector = Annotated[list[float], Field(min_length=1, max_length=MAX_WIDTH)]


class Search(BaseModel):
    """One query."""

    vector: Vector
    top: int = Field(5, ge=1, le=100)


class Batch(BaseModel):
    """Many queries."""

    vectors: list[Vector] = Field(min_length=1, max_length=MAX_BATCH)
    top: int = Field(5, ge=1, le=100)


@dataclass(frozen=True)
class Index:
    """The vectors that are searched: in the store, and on the workers' devices for as long as they are used."""

    client: AsyncClient
    graph: Graph
    vectors: BufferRef


def create_app(
    open_client: Callable[[], AbstractAsyncContextManager[AsyncClient]] = AsyncClient,
    vectors: npt.NDArray[np.float32] | None = None,
) -> FastAPI:
    """The application. Without ``vectors`` (rows, width; float32) those of the .npy file that SEARCH_VECTORS names."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        searched = np.load(Path(os.environ["SEARCH_VECTORS"])) if vectors is None else vectors
        async with open_client() as client:
            await client.connect()  # a broker that is not there is noticed now, not with the first request
            ref = await client.put(searched, "search/vectors")
            app.state.index = Index(client, similarity(*searched.shape), ref)
            yield

    app = FastAPI(title="Similarity search", lifespan=lifespan)
    app.add_exception_handler(KaasqError, failures.answer)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether a worker answers; 503 or 504 if not."""
        index: Index = app.state.index
        _, width = index.vectors.shape or (0, 0)
        result = await index.client.run(
            index.graph, vectors=index.vectors, query=np.ones(width, np.float32), timeout=HEALTH_TIMEOUT_S
        )
        return {"status": "ok", "worker": f"{result.worker.host} {result.worker.device}"}

    @app.post("/search")
    async def search(request: Request, wanted: Search) -> Response:
        """The vectors that are most similar to one. Who hangs up cancels it."""
        index: Index = app.state.index
        future = index.client.submit(index.graph, vectors=index.vectors, query=wanted.vector, timeout=TIMEOUT_S)
        try:
            result = await while_connected(request, future)
        except Disconnected:
            return Response(status_code=failures.CLIENT_GONE)
        found = {"matches": best(result["scores"], wanted.top), "kernel_us": result.timings.kernel}
        return Response(msgspec.json.encode(found), media_type="application/json")

    @app.post("/search/batch")
    async def batch(wanted: Batch) -> StreamingResponse:
        """One line of JSON for each vector, as they are ready; a vector that fails is a line, too."""
        return StreamingResponse(lines(app.state.index, wanted), media_type="application/x-ndjson")

    return app


async def lines(index: Index, wanted: Batch) -> AsyncIterator[bytes]:
    """At most WINDOW requests ahead of who reads. Closed early (the reader hung up), it cancels them."""
    queries = ({"query": each} for each in wanted.vectors)
    stream = index.client.map(index.graph, queries, limit=WINDOW, timeout=TIMEOUT_S, vectors=index.vectors)
    async with aclosing(stream):
        async for done in stream:
            found = (
                failures.body(done.error)
                if done.error is not None
                else {"matches": best(done.result["scores"], wanted.top)}
            )
            yield msgspec.json.encode({"index": done.index, **found}) + b"\n"
