"""Which fault comes when: drawn from a seed, so that a run that failed can be run again. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

SPREAD = 0.5  # of a pause, up and down


class Strike(NamedTuple):
    """One fault to come."""

    pause_s: float
    """After the one before has been healed."""
    fault: str
    victim: int
    """Seed of the choice among equal victims."""


def schedule(seed: str, counts: Mapping[str, int], pause_s: float) -> list[Strike]:
    """So many of each fault, in an order and with pauses that the seed decides."""
    draw = random.Random(seed)
    names = [name for name, count in sorted(counts.items()) for _ in range(count)]
    draw.shuffle(names)
    return [Strike(pause_s * draw.uniform(1 - SPREAD, 1 + SPREAD), name, draw.getrandbits(32)) for name in names]
