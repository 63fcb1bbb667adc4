"""The event-driven example: over HTTP in this process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import numpy as np

import kaasq
from examples.event_service.app import create_app
from examples.event_service.app import lines as event_lines
from tests.support.loops import play


def counts_of(pixels: list[list[float]]) -> list[int]:
    """What the two graphs compute, in NumPy."""
    image = np.array(pixels, np.float32)
    padded = np.pad(image, 1, constant_values=np.nan)
    around = [
        padded[1 + i : 1 + i + image.shape[0], 1 + j : 1 + j + image.shape[1]] for i in (-1, 0, 1) for j in (-1, 0, 1)
    ]
    bins = np.clip((np.nanmean(around, axis=0) * 16).astype(int), 0, 15)
    return np.bincount(bins.ravel(), minlength=16).tolist()


async def until_done(http: httpx.AsyncClient, photo: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            shown = (await http.get(f"/photos/{photo}")).json()
            if shown["status"] == "done":
                return dict(shown)
            assert shown["status"] == "pending"
            await asyncio.sleep(0.02)


def test_photos_go_through_both_graphs_and_are_followed() -> None:
    async def main() -> None:

        app = create_app(lambda: kaasq.local_async(device="cpu"))
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://photos") as http,
        ):
            stream = event_lines(app.state.client, 6)
            assert await anext(stream) == b": listening\n\n"
            pictures = [[[(i * j % 7) / 7 + 0.01 for i in range(9)] for j in range(5 + size)] for size in range(3)]
            ids = []
            for pixels in pictures:
                answer = await http.post("/photos", json={"pixels": pixels})
                assert answer.status_code == 202
                ids.append(answer.json()["id"])
            for photo, pixels in zip(ids, pictures, strict=True):
                assert (await until_done(http, photo))["counts"] == counts_of(pixels)
            told = [json.loads(line.removeprefix(b"data: ")) async for line in stream]
            assert sorted((each["graph"], each["word"]) for each in told) == [
                *[("photos.histogram", "completed")] * 3,
                *[("photos.smooth", "completed")] * 3,
            ]
            assert (await http.get("/photos/none")).status_code == 404
            refused: list[dict[str, Any]] = [{"pixels": []}, {"pixels": [[2.0]]}, {"pixels": [[0.1], [0.1, 0.2]]}]
            for wrong in refused:
                assert (await http.post("/photos", json=wrong)).status_code == 422

    play(main)
