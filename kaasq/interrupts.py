"""Ctrl-C and SIGTERM: while the command is still loading it ends at once, without a word, as it does later; and that
it was one is not forgotten over what fails behind it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

STOPPED = 130
"""The exit code after Ctrl-C, as shells have it."""
TERMINATED = 143
"""The same after SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, what was begun is put away."""


def end_at_once() -> None:
    """Until ``raise_again``; nothing has been begun that wants to be put away. Who ignores it goes on ignoring it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, _end)


def raise_again() -> None:
    """What runs now is to hear of it, as KeyboardInterrupt."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is _end:
            signal.signal(number, handler)


def stop_before(error: BaseException) -> KeyboardInterrupt | SystemExit | None:
    """The Ctrl-C, or the end that was asked for, amid which putting things away failed so."""
    before = error.__context__
    while before is not None and not isinstance(before, (KeyboardInterrupt, SystemExit)):
        before = before.__context__
    return before


def end_by(stop: BaseException) -> NoReturn:
    """Exit as that one has it."""
    if isinstance(stop, SystemExit):
        sys.exit(stop.code)
    sys.exit(TERMINATED if isinstance(stop, Terminated) else STOPPED)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        with suppress(OSError):
            os.write(2, b"\n")  # behind the terminal's ^C, as click does
    os._exit(STOPPED if number == signal.SIGINT else TERMINATED)
