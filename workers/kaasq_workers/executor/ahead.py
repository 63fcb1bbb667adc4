"""Requests that this executor made of continuations, kept for when they begin here: they need not be read and checked
again, step by step, with all that is still to follow them.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from kaasq.codec import Decoded
from kaasq.messages import Continuation
from kaasq.model import GraphSpec

MOST = 128  # as many as two groups of requests that end together
MOST_BYTES = 1 << 20  # of all that follows a request: what is remembered keeps it, and of more, reading is the least


class Below:
    """What was found of the continuations of a request, those nested in them too, when it was checked.

    By their tuples, each of which has a place in ``then``.
    """

    def __init__(self, then: tuple[Continuation, ...]) -> None:
        self.then = then
        self._found: dict[int, Found] = {}

    def add(self, then: tuple[Continuation, ...], found: Found) -> None:
        """What was found of these."""
        self._found[id(then)] = found

    def of(self, then: tuple[Continuation, ...]) -> Found:
        """What was found of these, the request's own or nested ones."""
        return self._found[id(then)] if then else NOTHING


class Found(NamedTuple):
    """Of continuations that stand together: the bytes of their messages, at most; they themselves, with the hashes of
    their graphs in place of these; and the graphs by their hashes, of nested ones too.
    """

    nbytes: int
    by_hash: tuple[Continuation, ...]
    graphs: dict[str, GraphSpec]


NOTHING = Found(0, (), {})


class Ahead(NamedTuple):
    """A request as it would be read."""

    decoded: Decoded
    below: Below


class Made:
    """The last of them, by their bodies. For any thread."""

    def __init__(self) -> None:
        self._by_body: dict[bytes, Ahead] = {}
        self._lock = threading.Lock()

    def add(self, body: bytes, ahead: Ahead) -> None:
        """One more."""
        if ahead.below.of(ahead.below.then).nbytes > MOST_BYTES:
            return
        with self._lock:
            if len(self._by_body) >= MOST:
                del self._by_body[next(iter(self._by_body))]
            self._by_body[body] = ahead

    def take(self, body: bytes) -> Ahead | None:
        """The request with that body, once."""
        if not self._by_body or len(body) > MOST_BYTES:  # else the body is hashed, which takes as long as reading it
            return None
        with self._lock:
            return self._by_body.pop(body, None)
