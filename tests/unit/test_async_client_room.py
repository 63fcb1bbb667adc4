"""The core's seam for those who must not block: asking for room, and being called when there is some."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from kaasq.errors import BrokerLost
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.settings import Settings
from kaasq.topology import pool_topology
from kaasq_producers.calls import Call, Sendable
from kaasq_producers.client_core import ClientCore
from kaasq_producers.opening import open_core
from kaasq_producers.prepare import Preparer
from tests.support import graphs
from tests.support.messaging import declare

X = np.arange(4, dtype=np.float32)
SETTINGS = Settings(pending_limit=1)


@pytest.fixture
def core() -> Iterator[ClientCore]:
    """With room for one request, and a pool that answers none."""
    broker = MemoryBroker(MemoryNode(), "ann")
    made = open_core(broker, None, SETTINGS)
    declare(broker, pool_topology("default", "s"))
    yield made
    made.stop()
    broker.close()


@pytest.fixture
def prepared() -> Sendable:
    return Preparer(SETTINGS, None).prepare(graphs.saxpy(), {"x": X, "y": X})


def sent(core: ClientCore, prepared: Sendable) -> Call:
    call = core.send(prepared, lambda _: None)
    assert call is not None
    return call


def test_called_at_once_if_there_is_room(core: ClientCore) -> None:
    called: list[int] = []
    core.pending.on_room(lambda: called.append(threading.get_ident()))
    assert called == [threading.get_ident()]


def test_each_free_place_calls_one_in_order(core: ClientCore, prepared: Sendable) -> None:
    called: list[str] = []
    for name in "ab":
        call = sent(core, prepared)
        if name == "a":
            core.pending.on_room(lambda: called.append("a"))
            core.pending.on_room(lambda: called.append("b"))
        assert core.send(prepared, lambda _: None) is None
        assert core.pending.forget(call)
    assert called == ["a", "b"]


def test_cancelled_request_makes_room(core: ClientCore, prepared: Sendable) -> None:
    called: list[bool] = []
    call = sent(core, prepared)
    core.pending.on_room(lambda: called.append(True))
    assert core.cancel(call)
    assert called
    assert not core.cancel(call)


def test_called_when_nothing_is_sent_any_more(core: ClientCore, prepared: Sendable) -> None:
    called: list[str] = []
    sent(core, prepared)
    core.pending.on_room(lambda: called.append("before"))
    core.stop()
    core.pending.on_room(lambda: called.append("after"))
    assert called == ["before", "after"]
    with pytest.raises(BrokerLost):
        core.send(prepared, lambda _: None)


def test_room_that_is_made_while_one_asks_is_not_missed(
    core: ClientCore, prepared: Sendable, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = sent(core, prepared)
    threads: list[threading.Thread] = []

    def full_a_moment_ago() -> bool:
        """There is no room; before the answer is used, another thread makes some."""
        if not threads:
            threads.append(threading.Thread(target=core.pending.forget, args=(call,)))
            threads[0].start()
            threads[0].join(0.1)  # it may wait for the lock; what it can do without, it has done
            assert len(core.pending) == 0
        return False

    called = threading.Event()
    monkeypatch.setattr(core.pending, "_has_room", full_a_moment_ago)
    core.pending.on_room(called.set)
    assert called.wait(5)
    threads[0].join()


def test_many_askers_and_makers_of_room_leave_nobody_waiting(core: ClientCore, prepared: Sendable) -> None:
    """One place, many who want it: each asks, sends, gives it back. With a lost wake-up all would stop."""
    left = threading.Semaphore(0)

    def take_turns(times: int) -> None:
        for _ in range(times):
            while (call := core.send(prepared, lambda _: None)) is None:
                room = threading.Event()
                core.pending.on_room(room.set)
                assert room.wait(10)
            core.pending.forget(call)
        left.release()

    threads = [threading.Thread(target=take_turns, args=(200,), daemon=True) for _ in range(4)]
    for each in threads:
        each.start()
    until = time.monotonic() + 20
    for _ in threads:
        assert left.acquire(timeout=max(0, until - time.monotonic()))
