"""What is too large for a message goes to the store; and how long a request may take, and its data lie there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from kaasq.errors import BadRequest, StoreUnavailable
from kaasq.messages import Stored
from kaasq.model import Buffer
from kaasq_producers.buffers import Buffers
from kaasq_producers.values import Data
from kaasq_storage.protocol import DEFAULT_TTL_S

LONGEST_S = 10 * 365 * 24 * 3600.0
SHORTEST_S = 0.001  # what the message can say
PACK_BYTES = 64 << 10  # what the store keeps without a file of its own
INPUT_TTL_S = 3600.0  # an input that went through the store outlives its request by this


def checked_timeout(value: Any) -> float:
    """A request's timeout in seconds. Raises BadRequest for what is none."""
    if isinstance(value, np.generic):  # computed from measurements
        value = value.item()
    if not isinstance(value, (int, float)) or not SHORTEST_S <= value <= LONGEST_S:  # refuses NaN, too
        raise BadRequest(
            f"expected a time from {SHORTEST_S:g} to {LONGEST_S:.0f} seconds (ten years), given {value!r}", at="timeout"
        )
    return value


class Storing:
    """Puts inputs into a client's store, if it has one. Thread-safe."""

    def __init__(self, buffers: Buffers | None, inline_limit: int) -> None:
        self._buffers = buffers
        self._inline_limit = inline_limit

    def store(self, values: Sequence[tuple[Data, Buffer]], timeout_s: float | None) -> list[Stored]:
        """Where they lie, for as long as the request lives that takes them. Raises what the store raises."""
        views = [(memoryview(data).cast("B"), buffer) for data, buffer in values]
        if not views:
            return []
        if self._buffers is None:
            view, buffer = views[0]
            raise StoreUnavailable(
                f"input {buffer.name!r} has {view.nbytes} bytes, all inputs together may have {self._inline_limit} in "
                f"a message (inline_limit), and this client has no store to put it into",
                buffer=buffer.name,
            )
        ttl_s = DEFAULT_TTL_S if timeout_s is None else timeout_s + INPUT_TTL_S
        return [Stored(ref=ref) for ref in self._buffers.put_all(views, ttl_s=ttl_s)]

    def store_items(self, values: Sequence[tuple[Data, Buffer]], timeout_s: float | None) -> list[Stored]:
        """The same for items of lists, of which small ones share an object: a thousand cost more than their bytes."""
        views = [(memoryview(data).cast("B"), buffer) for data, buffer in values]
        packs = packed([view.nbytes for view, _ in views])
        if self._buffers is None:
            return self.store(values, timeout_s)  # which says so
        put = self.store([_pack(views[first:end]) for first, end in packs], timeout_s)
        found: list[Stored] = []
        for (first, end), stored in zip(packs, put, strict=True):
            starts = accumulate((view.nbytes for view, _ in views[first : end - 1]), initial=0)
            found += [stored] if end == first + 1 else [Stored(ref=stored.ref, offset=at) for at in starts]
        return found


def packed(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Which of those that follow each other are put together: the place of the first, and that behind the last."""
    packs: list[tuple[int, int]] = []
    first = held = 0
    for place, nbytes in enumerate(sizes):
        if place > first and held + nbytes > PACK_BYTES:
            packs.append((first, place))
            first, held = place, 0
        held += nbytes
    return [*packs, (first, len(sizes))] if sizes else []


def _pack(views: Sequence[tuple[memoryview, Buffer]]) -> tuple[Data, Buffer]:
    if len(views) == 1:
        return views[0]
    data = b"".join(view for view, _ in views)
    return data, Buffer(name=views[0][1].name, role="input", nbytes=len(data))
