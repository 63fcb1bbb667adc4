"""Ctrl-C, SIGTERM and SIGHUP: while the command is still loading it ends at once, without a word, as it does later; and
that it was one is not forgotten over what fails behind it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn

_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}


class Terminated(KeyboardInterrupt):
    """SIGTERM, or SIGHUP, for the terminal was closed: as after Ctrl-C, what was begun is put away."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def asking_to_stop() -> list[signal.Signals]:
    """The signals that ask a program to end; not SIGHUP where it is ignored (``nohup``) or has another use."""
    hangs_up = signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, _end, _terminate)
    return [each for each in _USUAL if hangs_up or each != signal.SIGHUP]


def end_at_once() -> None:
    """Until ``raise_again``; nothing has been begun that wants to be put away. Who ignores it goes on ignoring it."""
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, _end)


def raise_again() -> None:
    """What runs now is to hear of it, as KeyboardInterrupt."""
    for number in _USUAL:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _terminate)


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
    sys.exit(_code(stop.number if isinstance(stop, Terminated) else signal.SIGINT))


def _code(number: int) -> int:
    """The exit code after a signal, as shells have it."""
    return 128 + number


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    if number == signal.SIGINT:
        with suppress(OSError):
            os.write(2, b"\n")  # behind the terminal's ^C, as click does
    os._exit(_code(number))
