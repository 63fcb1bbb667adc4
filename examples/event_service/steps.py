"""The chain: what follows when a photo was smoothed, or something failed. Knows nothing of HTTP."""

from __future__ import annotations

import logging

import kaasq
from examples.event_service.graphs import histogram

log = logging.getLogger(__name__)

service = kaasq.Service("photos")


@service.on("photos.smooth.completed")
async def count(event: kaasq.Event, step: kaasq.AsyncStep) -> None:
    smoothed = event.outputs["smoothed"]  # kept in the store as photos/<id>/smoothed; it is not read here
    assert smoothed.name is not None
    assert smoothed.shape is not None
    photo = smoothed.name.rpartition("/")[0]
    step.submit(histogram(*smoothed.shape), image=smoothed, counts=kaasq.Keep(f"{photo}/counts"))


@service.on("photos.#.failed", "photos.#.expired")
async def tell(event: kaasq.Event, _step: kaasq.AsyncStep) -> None:
    log.error("request %s: %s", event.request_id, event.error)
