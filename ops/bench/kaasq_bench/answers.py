"""Whether both sides compute the same. No figure of a wrong answer is worth anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

TOLERANCE = 1e-3


class WrongAnswer(Exception):
    """Raised where kaasq and its peer do not agree."""


def check(peer: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises WrongAnswer naming the first output that differs by more than a thousandth."""
    for name, array in expected.items():
        if not np.allclose(given[name], array, rtol=TOLERANCE, atol=TOLERANCE):
            raise WrongAnswer(f"output {name!r} is not what {peer} computes")
