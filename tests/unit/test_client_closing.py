"""Closing a client after Ctrl-C, and Ctrl-C again while it closes: what was cancelled is told, or said not to be."""

from __future__ import annotations

import linecache
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from kaasq import topology
from kaasq.broker import Done, Message
from kaasq.errors import BrokerLost
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq_producers import Client, base, insisting
from kaasq_producers.futures import Waiter
from tests.support import graphs
from tests.support.fake_worker import FakeWorker, Held
from tests.support.logs import log_lines
from tests.support.waiting import is_in, until

X = np.arange(4, dtype=np.float32)
GRAPH = graphs.saxpy()
ROOT = str(Path(base.__file__).parents[2])


@pytest.fixture
def node() -> MemoryNode:
    return MemoryNode()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=str(tmp_path / "store"), store_sync=False, timeout=60)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts: a shell's background job begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupting:
    """Ctrl-C at the line of that number within ``_shut``, and then at that of the next number within its repetition."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)
        self._left = 0
        self.missed = False
        """Whether there were fewer lines."""

    def arm(self) -> None:
        if self._numbers:
            self._left, self.missed = self._numbers.pop(0), True
            sys.settrace(self._begin)

    def _begin(self, frame: FrameType, event: str, _: object) -> Any:
        return self._call(frame, event, _) if frame.f_code is base.ClientBase._shut.__code__ else None

    def _call(self, frame: FrameType, _event: str, _: object) -> Any:
        sys.settrace(self._call)  # what it calls, too
        return self._line if frame.f_code.co_filename.startswith(ROOT) else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        # The line of a `with` comes again before it is left, where Python looks for no signals.
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not source.lstrip().startswith("with "):
            self._left -= 1
            if self._left < 0:
                self.missed = False
                raise KeyboardInterrupt  # which also ends the tracing
        return self._line


@pytest.fixture
def interrupted(
    node: MemoryNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Interrupting]]:
    """Runs a request that is interrupted, and closes its client, which is interrupted at lines of those numbers."""
    tracing, held = sys.gettrace(), Held()
    cancelled = topology.control_queue("default", "fake")

    def run(*numbers: int) -> Interrupting:
        interrupting = Interrupting(*numbers)

        def insist(act: Callable[[], None]) -> None:
            interrupting.arm()
            insisting.insist(act)

        def wait(_: object, timeout_s: float = -1) -> None:
            held.next()
            raise KeyboardInterrupt

        monkeypatch.setattr(base, "insist", insist)
        monkeypatch.setattr(base, "HURRY_S", 0.1)
        broker, before = MemoryBroker(node, "ann"), len(node.messages(cancelled))
        client = Client(broker, settings=settings)
        client.connect()
        with monkeypatch.context() as patched:
            patched.setattr(Waiter, "wait", wait)
            with pytest.raises(KeyboardInterrupt):
                client.run(GRAPH, x=X, y=X)
        interrupting.arm()
        try:
            client.close()
        except KeyboardInterrupt:
            assert numbers
        finally:
            sys.settrace(tracing)
        assert len(node.messages(cancelled)) == before + 1, numbers
        until(lambda: not broker._io._thread.is_alive())
        return interrupting

    with FakeWorker(MemoryBroker(node, "worker"), held):
        yield run


def test_ctrl_c_at_any_line_of_closing_after_another_loses_no_cancellation(
    interrupted: Callable[..., Interrupting],
) -> None:
    number = 0
    while not interrupted(number).missed:
        number += 1
    assert number > 50
    draw = random.Random(1)
    for _ in range(15):
        interrupted(draw.randrange(number), draw.randrange(number))


class Mute(MemoryBroker):
    """Takes cancellations, and never gets to publish them: until it is closed, as one whose broker takes nothing."""

    def publish(self, message: Message, *, exchange: str, done: Done | None = None, **more: Any) -> None:
        if exchange != topology.CONTROL:
            super().publish(message, exchange=exchange, done=done, **more)
            return
        assert done is not None
        self.waiting = done

    def close(self, timeout_s: float = 5.0) -> None:
        waiting = self.waiting
        super().close(timeout_s)
        waiting(BrokerLost("the broker connection was closed", closed=True))


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_the_waiting_and_what_may_go_on_is_told(
    node: MemoryNode, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CANCEL_TIMEOUT_S", 60.0)
    held = Held()

    def interrupt() -> None:
        main = int(threading.main_thread().ident or 0)
        for where in ("run", "_shut"):
            until(partial(is_in, main, where))
            if where == "run":
                held.next()
            signal.pthread_kill(main, signal.SIGINT)

    with FakeWorker(MemoryBroker(node, "worker"), held), log_lines() as lines:
        thread = threading.Thread(target=interrupt)
        client = Client(Mute(node, "ann"), settings=settings)
        client.connect()
        thread.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt), client:
            client.run(GRAPH, x=X, y=X)
        assert time.monotonic() - began < 30
        thread.join()
    told = [line for line in lines if line["event"] == "cancel.not_sent"]
    assert [line["code"] for line in told] == ["broker_lost"]
    assert told[0]["error"].endswith("it may go on")
    assert told[0]["request"]
