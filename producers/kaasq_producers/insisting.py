"""What is done although Ctrl-C comes again and again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

MOST_INTERRUPTS = 20


def insist(act: Callable[[], None]) -> None:
    """Do it, from the beginning again whenever it is interrupted: so it has to be something that may be done twice."""
    for _ in range(MOST_INTERRUPTS):
        with suppress(KeyboardInterrupt):
            return act()
    return None
