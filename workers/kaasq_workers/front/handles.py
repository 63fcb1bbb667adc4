"""A started executor: a process or, for kaasq.local, a thread."""

from __future__ import annotations

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

from kaasq_workers.channel import Link
from kaasq_workers.link import GAVE_UP, Orders
from kaasq_workers.vitals import Vitals

CLEAN_EXIT = f"exit code {GAVE_UP}"
SECRETS = frozenset({"KAASQ_BROKER_URL"})  # kernels of the CPU device can read their process's environment


class Handle(Protocol):
    """A started executor."""

    link: Link
    killable: bool

    def kill(self) -> None:
        """End it now, whatever it is doing."""

    def wait(self, timeout_s: float) -> str | None:
        """Wait for its end: how it ended, for people, or None if it is still running."""


class ProcessHandle:
    """An executor in a process of its own. It loads what it needs at once, and opens its device when told to begin."""

    killable = True

    def __init__(self, device: str) -> None:
        ours, theirs = socket.socketpair()
        vitals, vitals_fd = Vitals.create()
        os.set_inheritable(vitals_fd, True)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kaasq_workers.executor", str(theirs.fileno()), str(vitals_fd), device],
                stdin=subprocess.PIPE,
                pass_fds=(theirs.fileno(), vitals_fd),
                env={name: value for name, value in os.environ.items() if name not in SECRETS},
                process_group=0,  # a terminal's Ctrl-C is for the front alone
            )
        finally:
            theirs.close()
            os.close(vitals_fd)
        self.link = Link(ours, vitals)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def begin(self, orders: Orders) -> None:
        """Have it open device and store, and serve."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(msgspec.json.encode(orders))

    def kill(self) -> None:
        """SIGKILL to it and to the compilers it may have started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

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

    def __init__(self, orders: Orders, serve: Callable[[socket.socket, Vitals, Orders], object]) -> None:
        ours, theirs = socket.socketpair()
        vitals, vitals_fd = Vitals.create()
        os.close(vitals_fd)

        def run() -> None:
            try:
                serve(theirs, vitals, orders)
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
