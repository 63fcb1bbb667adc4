"""One thread with one event loop: where a broker does its I/O and from where it calls back."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from kaasq.broker import OnState, State
from kaasq.errors import KaasqError
from kaasq.log import get_logger
from kaasq.polling import PollingSelector

log = get_logger()


def invoke(callback: Callable[..., object], *args: object) -> None:
    """Call back into code that is not the broker's: what it raises is logged and does not break the I/O.

    Also what is no Exception: a sys.exit() in a callback would end this thread without a word, not the program.
    """
    try:
        callback(*args)
    except BaseException:  # whatever it is: the connection and the other callbacks must go on
        with contextlib.suppress(Exception):  # standard error may be closed, a callback's repr() may raise
            log.exception("callback.failed", callback=getattr(callback, "__qualname__", None) or repr(callback))


class IoThread:
    """A daemon thread running an event loop, and a cheap way into it from other threads.

    Waking a loop costs a system call, so posts are collected: many posts, one wake-up.
    """

    def __init__(self, name: str, busy_poll_s: float = 0.0) -> None:
        """``busy_poll_s``: for how long it looks for work at most before it sleeps."""
        self._polling = PollingSelector(busy_poll_s) if busy_poll_s else None
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._waking = False
        self._loop: asyncio.SelectorEventLoop | None = None
        self._ident = 0
        self._finished = False
        self._in_turn = False
        self._at_end: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def loop(self) -> asyncio.SelectorEventLoop:
        """The loop; only to be used on this thread."""
        assert self._loop is not None, "the I/O thread is not started"
        return self._loop

    @property
    def inside(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.get_ident() == self._ident

    @property
    def started(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        self._loop = asyncio.SelectorEventLoop(self._polling or selectors.DefaultSelector())
        self._thread.start()

    def stop(self) -> None:
        """End the thread, from itself."""
        if not self._finished:
            self.loop.stop()

    def join(self, timeout_s: float) -> None:
        """Wait for its end, unless on the thread itself. Never started, it is over now."""
        if self._loop is None:
            self._finished = True
            self._drain()
        elif not self.inside:
            self._thread.join(timeout_s)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Run it on this thread, in order; before ``start``: then. After ``stop`` there is no thread any more
        and the caller runs it, so that nobody waits in vain: the function has to look whether all is over.
        """
        self._inbox.append((function, args))
        if self._finished:
            self._drain()
        elif not self._waking and self._loop is not None:
            try:
                self._waking = True
                (self._loop.call_soon if self.inside else self._loop.call_soon_threadsafe)(self._drain)
            except RuntimeError:  # the loop was closed this very moment
                self._drain()
            except BaseException:  # Ctrl-C: it may not have been woken
                self._waking = False
                raise

    def turn(self, function: Callable[..., object], *args: Any) -> None:
        """Run it, and then what it left ``at_end``. Every way into this thread that may lead to much output goes
        through here, so that the output is written once, and without another round of the loop.
        """
        self._in_turn = True
        try:
            function(*args)
        finally:
            self._in_turn = False
            self._end_turn()

    def at_end(self, callback: Callable[[], None]) -> None:
        """On this thread: run it at the end of the present turn, or soon if there is none."""
        self._at_end.append(callback)
        if not self._in_turn and len(self._at_end) == 1:
            self.loop.call_soon(self._end_turn)

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run it on this thread; dropped after ``stop``."""
        if not self._finished:
            self.post(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Run it on this thread after a delay. Returns a function that cancels it."""
        timer = _Timer(self, callback)
        if self.inside:
            timer.arm(delay_s)
        else:
            self.call_soon(lambda: timer.arm(delay_s))
        return timer.cancel

    def expects(self, anything: Callable[[], bool]) -> None:
        """Look for work only while there is ``anything`` to be expected: it is asked before each wait."""
        if self._polling is not None:
            self._polling.expecting = anything

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Call back on this thread whenever the file descriptor is readable."""
        if self.inside:
            self.loop.add_reader(fd, self.turn, invoke, on_readable)
        else:
            self.call_soon(lambda: self.add_reader(fd, on_readable))

    def remove_reader(self, fd: int) -> None:
        """Stop watching. From another thread it returns once nothing more will be called."""
        if self.inside:
            self.loop.remove_reader(fd)
        elif self.started and not self._finished:
            # The caller is about to close the descriptor, and its number may be reused at once.
            removed = threading.Event()
            self.post(self._remove_reader, fd, removed)
            removed.wait(timeout=5)

    def _remove_reader(self, fd: int, removed: threading.Event) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(fd)
        removed.set()

    def _run(self) -> None:
        loop = self.loop
        self._ident = threading.get_ident()
        asyncio.set_event_loop(loop)
        loop.call_soon(self._drain)  # what was posted before the start
        try:
            loop.run_forever()
        finally:
            self._finished = True  # first this, then the last drain: a post sees one or is seen by the other
            self._drain()
            _cancel_tasks(loop)
            loop.run_until_complete(asyncio.sleep(0))  # transports that were told to close do so in the next turn
            loop.close()
            self._ident = 0

    def _end_turn(self) -> None:
        ending, self._at_end = self._at_end, []
        for each in ending:
            invoke(each)

    def _drain(self) -> None:
        self.turn(self._run_inbox)

    def _run_inbox(self) -> None:
        self._waking = False  # first: what is posted from now on wakes the loop again
        inbox = self._inbox
        for _ in range(len(inbox)):  # not what is posted meanwhile: sockets get their turn
            try:
                function, args = inbox.popleft()
            except IndexError:
                return
            invoke(function, *args)


def _cancel_tasks(loop: asyncio.SelectorEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


class _Timer:
    """A delayed call that any thread may cancel."""

    __slots__ = ("_callback", "_handle", "_io")

    def __init__(self, io: IoThread, callback: Callable[[], None]) -> None:
        self._io = io
        self._callback: Callable[[], None] | None = callback
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, delay_s: float) -> None:
        if self._callback is not None:
            self._handle = self._io.loop.call_later(delay_s, self._fire)

    def cancel(self) -> None:
        self._callback = None
        if self._handle is not None:
            if self._io.inside:
                self._handle.cancel()
            else:
                self._io.call_soon(self._handle.cancel)

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            self._io.turn(invoke, callback)


class IoBroker:
    """The part of the Broker protocol that every broker with an I/O thread has in common."""

    def __init__(self, thread_name: str, busy_poll_s: float = 0.0) -> None:
        self._io = IoThread(thread_name, busy_poll_s)
        self._watchers: list[OnState] = []

    def watch(self, on_state: OnState) -> None:
        self._watchers.append(on_state)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._io.call_soon(callback)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        return self._io.call_later(delay_s, callback)

    def expects(self, anything: Callable[[], bool]) -> None:
        self._io.expects(anything)

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        self._io.add_reader(fd, on_readable)

    def remove_reader(self, fd: int) -> None:
        self._io.remove_reader(fd)

    def _tell(self, state: State, error: KaasqError | None = None) -> None:
        invoke(self._log_state, state, error)
        for each in list(self._watchers):
            invoke(each, state, error)

    def _log_state(self, state: State, error: KaasqError | None) -> None:
        good = state in {State.CONNECTED, State.UNBLOCKED}
        fields = {} if error is None else {"error": error.message}
        (log.info if good else log.warning)(f"broker.{state.value}", **fields)
