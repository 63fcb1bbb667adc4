"""Waiting for what a test waits for, with a deadline."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType


def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Return once the condition holds; fails if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def is_in(thread: int, function: str) -> bool:
    """Whether that thread is in a function of that name."""
    frame: FrameType | None = sys._current_frames()[thread]
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None
