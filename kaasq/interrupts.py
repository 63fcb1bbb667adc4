"""Ctrl-C while the command is still loading: it ends at once, without a word, as it does later."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

STOPPED = 130
"""The exit code after Ctrl-C, as shells have it."""


def end_at_once() -> None:
    """Until ``raise_again``; nothing has been begun that wants to be put away. Who ignores it goes on ignoring it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """What runs now is to hear of it, as KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    with suppress(OSError):
        os.write(2, b"\n")  # behind the terminal's ^C, as click does
    os._exit(STOPPED)
