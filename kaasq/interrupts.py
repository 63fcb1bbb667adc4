"""Ctrl-C: while the command is still loading it ends at once, without a word, as it does later; and that it was one is
not forgotten over what fails behind it.
"""

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


def stop_before(error: BaseException) -> KeyboardInterrupt | SystemExit | None:
    """The Ctrl-C, or the end that was asked for, amid which putting things away failed so."""
    before = error.__context__
    while before is not None and not isinstance(before, (KeyboardInterrupt, SystemExit)):
        before = before.__context__
    return before


def _end(*_: object) -> None:
    with suppress(OSError):
        os.write(2, b"\n")  # behind the terminal's ^C, as click does
    os._exit(STOPPED)
