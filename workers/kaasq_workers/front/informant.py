"""The process that looks into the store for the front, as the front has it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kaasq_workers.channel import FrameReader, frame
from kaasq_workers.front.handles import SECRETS
from kaasq_workers.link import ANSWER_BYTES, Job, Said

FRAMED = 1024  # bytes around an answer


class Informant(Protocol):
    """Answers one question at a time."""

    def fileno(self) -> int:
        """For watching readability."""

    def ask(self, job: Job) -> None:
        """A question. Raises OSError if it is gone."""

    def heard(self) -> list[Said] | None:
        """What it has said; None when it is gone. Raises what FrameReader does for what is no word of its."""

    def kill(self) -> None:
        """End it, whatever it is doing."""

    def gone(self) -> bool:
        """Whether it has ended, and been reaped."""


class ProcessInformant:
    """A process, started at once. Raises OSError: none to be had just now."""

    def __init__(self, store: Path, device: str) -> None:
        self._sock, theirs = socket.socketpair()
        self._reader = FrameReader(Said, ANSWER_BYTES + FRAMED)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kaasq_workers.informing", str(theirs.fileno()), str(store), device],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={name: value for name, value in os.environ.items() if name not in SECRETS},
                process_group=0,  # a terminal's Ctrl-C is for the front alone
            )
        except BaseException:
            self._sock.close()
            raise
        finally:
            theirs.close()
        self._sock.setblocking(False)

    def fileno(self) -> int:
        """See Informant."""
        return self._sock.fileno()

    def ask(self, job: Job) -> None:
        """See Informant. It has answered all others, so that there is room for one."""
        question = frame([job])
        if self._sock.send(question) < len(question):
            raise BlockingIOError("it does not read")

    def heard(self) -> list[Said] | None:
        """See Informant."""
        return self._reader.receive(self._sock)

    def kill(self) -> None:
        """See Informant."""
        self._sock.close()
        self._process.kill()

    def gone(self) -> bool:
        """See Informant."""
        return self._process.poll() is not None


def starter(store: Path, device: str) -> Callable[[], Informant]:
    """What starts one."""
    return lambda: ProcessInformant(store, device)
