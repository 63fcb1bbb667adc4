"""Where a request's own buffers lie within one piece of memory. Pure.

The same graph with the same inputs shared lies the same way each time, so addresses repeat from request to request.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from kaasq.model import Buffer

ALIGNMENT = 512  # of each buffer, as an allocation of its own has it on a GPU


class Extent(NamedTuple):
    """Some bytes of the memory."""

    offset: int
    nbytes: int


class Layout(NamedTuple):
    """Where each buffer lies, by name, how much memory that takes, and what of it starts as zeros."""

    places: dict[str, Extent]
    nbytes: int
    zeroed: Extent


def lay_out(buffers: Sequence[Buffer], elsewhere: AbstractSet[str]) -> Layout:
    """Those that get contents first, then the others, which start as zeros; not those that lie ``elsewhere``."""
    places: dict[str, Extent] = {}
    end = 0

    def place(buffer: Buffer) -> None:
        nonlocal end
        places[buffer.name] = Extent(end, buffer.nbytes)
        end += -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT  # an empty buffer has an address too

    for each in buffers:
        if each.given and each.name not in elsewhere:
            place(each)
    start = end
    for each in buffers:
        if not each.given:
            place(each)
    return Layout(places, end, Extent(start, end - start))
