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
    """Where each buffer lies, by name, how much memory that takes, and what of it starts as zeros.

    What is ``given`` contents lies before the zeros, what needs neither behind them.
    """

    places: dict[str, Extent]
    nbytes: int
    zeroed: Extent
    given: tuple[str, ...] = ()


def lay_out(
    buffers: Sequence[Buffer], elsewhere: AbstractSet[str], overwritten: AbstractSet[str] = frozenset()
) -> Layout:
    """Those that get contents first, then those that start as zeros, then the others.

    ``elsewhere``: those that lie there; ``overwritten``: those of which nothing is read before all of it is written.
    """
    places: dict[str, Extent] = {}
    end = 0

    def place(these: Sequence[Buffer]) -> None:
        nonlocal end
        for buffer in these:
            places[buffer.name] = Extent(end, buffer.nbytes)
            end += -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT  # an empty buffer has an address too

    given = [each for each in buffers if each.given and each.name not in elsewhere]
    place(given)
    start = end
    place([each for each in buffers if not each.given and each.name not in overwritten])
    zeroed = Extent(start, end - start)
    place([each for each in buffers if not each.given and each.name in overwritten])
    return Layout(places, end, zeroed, tuple(each.name for each in given))
