"""Starts an executor, as a process or (for kaasq.local) as a thread, and holds the front's end of the link."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from kaasq.settings import Settings
from kaasq_workers.link import FrameReader, FromExecutor, Job, Vitals, frame

_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 256 << 10


class Link:
    """The front's end: never blocks. What the executor does not take at once waits for ``flush``."""

    def __init__(self, sock: socket.socket, vitals: Vitals) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(FromExecutor)
        self._backlog = bytearray()
        self.vitals = vitals

    def fileno(self) -> int:
        """For watching readability."""
        return self._sock.fileno()

    def send(self, jobs: list[Job]) -> bool:
        """Send as one frame; whether all of it went. Raises OSError if the executor is gone."""
        self._backlog += frame(jobs)
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; whether all of it went. Raises OSError if the executor is gone."""
        while self._backlog:
            try:
                sent = self._sock.send(self._backlog)
            except BlockingIOError:
                return False
            del self._backlog[:sent]
        return True

    def receive(self) -> list[FromExecutor] | None:
        """What has arrived; None when the executor is gone."""
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._reader.feed(data)) if data else None

    def close(self) -> None:
        """Hang up: the executor finishes what it is doing and ends."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def dispose(self) -> None:
        """Free the socket."""
        self._sock.close()


class Handle(Protocol):
    """A started executor."""

    link: Link
    killable: bool

    def kill(self) -> None:
        """End it now, whatever it is doing."""

    def wait(self, timeout_s: float) -> str | None:
        """Wait for its end: how it ended, for people, or None if it is still running."""


class ProcessHandle:
    """An executor in a process of its own."""

    killable = True

    def __init__(self, settings: Settings) -> None:
        ours, theirs = socket.socketpair()
        vitals, vitals_fd = Vitals.create()
        os.set_inheritable(vitals_fd, True)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kaasq_workers.executor", str(theirs.fileno()), str(vitals_fd)],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(), vitals_fd),
                process_group=0,  # a terminal's Ctrl-C is for the front alone
            )
        finally:
            theirs.close()
            os.close(vitals_fd)
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            # The executor has no business with the broker: its password stays here.
            stdin.write(msgspec.json.encode(msgspec.structs.replace(settings, broker_url="")))
        self.link = Link(ours, vitals)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def wait(self, timeout_s: float) -> str | None:
        """How it ended: "exit code 1", "SIGSEGV"."""
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class ThreadHandle:
    """An executor in a thread of this process: nothing to isolate, nothing to kill."""

    killable = False

    def __init__(self, settings: Settings, serve: Callable[[socket.socket, Vitals, Settings], None]) -> None:
        ours, theirs = socket.socketpair()
        vitals, vitals_fd = Vitals.create()
        os.close(vitals_fd)

        def run() -> None:
            try:
                serve(theirs, vitals, settings)
            finally:
                theirs.close()

        self._thread = threading.Thread(target=run, name="kaasq-executor", daemon=True)
        self._thread.start()
        self.link = Link(ours, vitals)

    def kill(self) -> None:
        """Hang up; a thread cannot be killed."""
        self.link.close()

    def wait(self, timeout_s: float) -> str | None:
        """Wait for the thread."""
        self._thread.join(timeout_s)
        return None if self._thread.is_alive() else "thread ended"


def die_with_parent() -> None:
    """Have the kernel kill this process when its front dies, even inside an endless kernel. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
