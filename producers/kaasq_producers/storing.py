"""What is too large for a message goes to the store; and how long a request may take, and its data lie there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kaasq.errors import BadRequest, StoreUnavailable
from kaasq.messages import Stored
from kaasq.model import Buffer
from kaasq_producers.buffers import Buffers
from kaasq_producers.values import Data
from kaasq_storage.protocol import DEFAULT_TTL_S

LONGEST_S = 10 * 365 * 24 * 3600.0
SHORTEST_S = 0.001  # what the message can say
INPUT_TTL_S = 3600.0  # an input that went through the store outlives its request by this


def checked_timeout(value: Any) -> float:
    """A request's timeout in seconds. Raises BadRequest for what is none."""
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
