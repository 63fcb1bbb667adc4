"""Which of the dead letters a command is about. Pure."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from kaasq.dead_letter import DeadLetter
from kaasq.errors import BadRequest

_AGE = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|d)?")
_SECONDS = {None: 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


_SAME = {"deadline_exceeded": "expired"}  # what a reply calls it, and RabbitMQ


class Selection(NamedTuple):
    """Letters of one tenant or subscription, with one code, older or younger than so many seconds; None: any."""

    tenant: str | None = None
    code: str | None = None
    older_s: float | None = None
    younger_s: float | None = None
    subscription: str | None = None

    def __call__(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of them. One that does not say its age is neither older nor younger."""
        if self.tenant is not None and letter.tenant != self.tenant:
            return False
        if self.subscription is not None and letter.subscription != self.subscription:
            return False
        if self.code is not None and letter.code not in {self.code, _SAME.get(self.code)}:
            return False
        if self.older_s is None and self.younger_s is None:
            return True
        age_s = age_of(letter)
        return (
            age_s is not None
            and (self.older_s is None or age_s > self.older_s)
            and (self.younger_s is None or age_s < self.younger_s)
        )


def age_of(letter: DeadLetter) -> float | None:
    """For how many seconds it has been dead."""
    return None if letter.buried_ms is None else max(0.0, time.time() - letter.buried_ms / 1000)


def seconds(text: str, at: str) -> float:
    """``90``, ``90s``, ``15min``, ``2h``, ``7d`` in seconds. Raises BadRequest."""
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise BadRequest(f"{text!r} is no time: expected a number with s, min, h or d, such as 2h", at=at)
    return float(found[1]) * _SECONDS[found[2]]


def is_meant(letter: DeadLetter, given: str) -> bool:
    """Whether an id given by hand, or its first 8 digits or more, means this letter."""
    return letter.id == given or (len(given) >= SHORT_ID and letter.id.startswith(given))


SHORT_ID = 8
