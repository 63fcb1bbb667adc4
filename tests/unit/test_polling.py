"""Looking for work before sleeping: for a bounded time, only while it pays, and not where processors are few."""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

from kaasq import polling
from kaasq.io_thread import IoThread
from kaasq.polling import CROWDED_S, FEW, LEAST_DEBT, MOST_CREDIT, MOST_DEBT, Looking, PollingSelector, wait
from kaasq.processors import BUSY_POLL_S, ENOUGH, busy_poll_s, processors

MOST_S = 1e-3


def eager(most_s: float = MOST_S) -> Looking:
    """One that has had short waits only."""
    looking = Looking(most_s)
    for _ in range(100):
        looking.waited(most_s / 2, came=True)
    return looking


def test_a_thread_sleeps_until_it_has_had_a_short_wait():
    looking = Looking(MOST_S)
    looking.waited(2 * MOST_S, came=True)
    assert looking.look_s == 0
    looking.waited(MOST_S / 2, came=True)
    assert looking.look_s == MOST_S


def test_however_busy_it_was_it_looks_in_vain_only_a_few_times():
    looking, looks = eager(), 0
    while looking.look_s:
        looking.waited(1.0, came=False)
        looks += 1
    assert looks <= MOST_CREDIT.bit_length()


def test_a_wait_that_was_cut_short_tells_nothing():
    looking = eager()
    for _ in range(100):
        looking.waited(MOST_S / 2, came=False)
    assert looking.look_s == MOST_S
    looking = Looking(MOST_S)
    looking.waited(MOST_S / 2, came=False)
    assert looking.look_s == 0


def slept_through(looking: Looking) -> int:
    """Short waits until it looks again."""
    count = 0
    while not looking.look_s:
        looking.waited(MOST_S / 2, came=True)
        count += 1
    return count


def test_who_looked_while_others_needed_the_processor_sleeps_for_many_waits_and_more_each_time():
    looking = eager()
    looking.crowded()
    looking.waited(1.0, came=True)
    assert slept_through(looking) == LEAST_DEBT + 1
    for _ in range(100):
        looking.crowded()
    assert slept_through(looking) == MOST_DEBT + 1


def test_after_much_at_once_some_short_waits_are_slept_through():
    looking = eager()
    for _ in range(3):
        looking.rest()
        assert slept_through(looking) == LEAST_DEBT + 1


def test_who_looked_well_for_a_while_is_forgiven():
    looking = eager()
    for _ in range(100):
        looking.crowded()
    for _ in range(100):
        slept_through(looking)
        for _ in range(MOST_CREDIT):
            looking.waited(MOST_S / 2, came=True)
        looking.waited(1.0, came=False)
    looking.crowded()
    assert slept_through(looking) == LEAST_DEBT + 1


def test_without_time_to_look_it_never_looks():
    assert eager(0.0).look_s == 0


class Thing:
    """Comes at the nth look, and has a clock of its own, on which a look takes some time; a sleep takes all it may."""

    def __init__(self, nth: int, takes_s: float = 2e-6) -> None:
        self.nth = nth
        self.takes_s = takes_s
        self.now = 1000.0
        self.looked: list[float | None] = []

    def look(self, timeout_s: float | None) -> bool:
        self.looked.append(timeout_s)
        self.now += timeout_s or self.takes_s
        return len(self.looked) >= self.nth

    def clock(self) -> float:
        return self.now


def test_what_comes_soon_is_found_without_sleeping():
    thing = Thing(nth=3)
    assert wait(eager(), thing.look, None, thing.clock)
    assert thing.looked == [0.0, 0.0, 0.0]


def test_what_does_not_come_soon_is_slept_for_and_not_longer_than_asked():
    thing = Thing(nth=1_000_000)
    assert not wait(eager(), thing.look, 5.0, thing.clock)
    *looks, slept = thing.looked
    assert set(looks) == {0.0}
    assert slept == pytest.approx(5.0 - MOST_S, abs=1e-5)
    assert thing.now == pytest.approx(1005.0)


def test_looking_ends_with_the_timeout():
    thing = Thing(nth=1_000_000)
    assert not wait(eager(60.0), thing.look, MOST_S, thing.clock)
    assert thing.now == pytest.approx(1000 + MOST_S, abs=1e-5)
    assert set(thing.looked) == {0.0}


def test_who_has_to_wait_for_a_processor_sleeps_instead_of_looking():
    thing = Thing(nth=2, takes_s=2 * CROWDED_S)
    assert wait(eager(60.0), thing.look, None, thing.clock)
    assert thing.looked == [0.0, None]


def test_a_polling_selector_finds_what_another_one_would():
    ours, theirs = socket.socketpair()
    with PollingSelector(60.0) as selector, ours, theirs:
        key = selector.register(ours, selectors.EVENT_READ)
        assert selector.select(0) == []
        assert selector.select(0.01) == []
        for _ in range(3):
            theirs.send(b"x")
            assert selector.select(30) == [(key, selectors.EVENT_READ)]
            ours.recv(1)
        answer = threading.Timer(0.05, theirs.send, [b"x"])
        answer.start()
        assert selector.select(None) == [(key, selectors.EVENT_READ)]
        answer.join()


def test_a_polling_selector_that_expects_nothing_uses_no_processor():
    ours, theirs = socket.socketpair()
    with PollingSelector(60.0) as selector, ours, theirs:
        selector.register(ours, selectors.EVENT_READ)
        theirs.send(b"x")
        assert selector.select(1)  # a short wait: from now on it looks
        ours.recv(1)
        selector.expecting = lambda: False
        assert used_s(lambda: selector.select(0.3)) < 0.1


def test_where_many_threads_wait_for_something_none_of_them_looks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(polling, "CROWDED_S", 60.0)  # whatever else needs this machine
    count = FEW + 1
    pairs = [socket.socketpair() for _ in range(count)]
    selectors_ = [PollingSelector(60.0) for _ in range(count)]
    for selector, (ours, theirs) in zip(selectors_, pairs, strict=True):
        selector.register(ours, selectors.EVENT_READ)
        theirs.send(b"x")
        assert selector.select(1)  # a short wait: from now on it looks
        ours.recv(1)
    used: list[float] = []
    gate = threading.Barrier(count)

    def look(selector: PollingSelector) -> None:
        gate.wait()
        used.append(used_s(lambda: selector.select(0.5)))

    threads = [threading.Thread(target=look, args=[each]) for each in selectors_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(used) < 0.1  # the last one at least; the others may have begun before it
    alone = used_s(lambda: selectors_[0].select(1.0))
    assert alone > 0.1
    for selector, pair in zip(selectors_, pairs, strict=True):
        selector.close()
        for each in pair:
            each.close()


def used_s(call) -> float:
    """Processor time of this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


def test_an_io_thread_that_looks_does_all_that_another_one_does():
    io = IoThread("test", busy_poll_s=0.05)
    ours, theirs = socket.socketpair()
    read: list[bytes] = []
    posted, later, readable = threading.Event(), threading.Event(), threading.Event()

    def on_readable() -> None:
        read.append(ours.recv(10))
        readable.set()

    io.start()
    io.add_reader(ours.fileno(), on_readable)
    for _ in range(20):
        posted.clear()
        io.post(posted.set)
        assert posted.wait(30)
    theirs.send(b"x")
    assert readable.wait(30)
    io.call_later(0.02, later.set)
    assert later.wait(30)
    io.remove_reader(ours.fileno())
    io.post(io.stop)
    io.join(30)
    ours.close()
    theirs.close()
    assert read == [b"x"]


def written(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "share"),
    [
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "25000 100000"}, 0.25),
        ("0::/elsewhere\n", {"cpu.max": "50000 100000\n"}, 0.5),
        (
            "5:cpu,cpuacct:/a\n1:name=systemd:/x\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "20000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
            0.2,
        ),
    ],
)
def test_a_control_groups_quota_counts(tmp_path, own, files, share):
    (tmp_path / "own").write_text(own)
    written(tmp_path / "groups", files)
    assert processors(tmp_path / "groups", tmp_path / "own") == share


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "what is this\n"}),
        ("0::/\n", {}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
    ],
)
def test_without_a_quota_the_affinity_counts(tmp_path, own, files):
    (tmp_path / "own").write_text(own)
    written(tmp_path / "groups", files)
    assert processors(tmp_path / "groups", tmp_path / "own") == len(os.sched_getaffinity(0))
    assert processors(tmp_path / "groups", tmp_path / "nowhere") == len(os.sched_getaffinity(0))


def test_what_is_set_counts_whatever_the_machine_has(monkeypatch):
    monkeypatch.setattr("kaasq.processors.processors", lambda: 1.0)
    assert busy_poll_s(0.002) == 0.002
    monkeypatch.setattr("kaasq.processors.processors", lambda: 1000.0)
    assert busy_poll_s(0.0) == 0


def test_by_default_it_looks_where_each_worker_has_processors_enough(monkeypatch):
    monkeypatch.setattr("kaasq.processors.processors", lambda: float(2 * ENOUGH))
    assert (busy_poll_s(None), busy_poll_s(None, workers=2), busy_poll_s(None, workers=3)) == (
        BUSY_POLL_S,
        BUSY_POLL_S,
        0,
    )
    monkeypatch.setattr("kaasq.processors.processors", lambda: 2.0)
    assert busy_poll_s(None) == 0
