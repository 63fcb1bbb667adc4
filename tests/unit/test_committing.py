"""When what ended is committed: in order, in company, by whom, and what becomes of it if that fails or never ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kaasq_workers.executor import committing
from kaasq_workers.executor.committing import GROUP_SIZE, Commits, Durable
from kaasq_workers.executor.ended import Ended
from kaasq_workers.link import Job
from tests.support.waiting import until


def ended(tag: int) -> Ended:
    return Ended(job=Job(tag, "guest", f"r-{tag}", b"", None, None), reply_type="")


class Store:
    """Groups as they are committed, and by which thread; each waits until it may."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.threads: list[threading.Thread] = []
        self.may = threading.Event()
        self.may.set()
        self.fault: Exception | None = None
        self.pause_s = 0.0

    def commit(self, group: list[Ended]) -> list[Job]:
        self.groups.append([each.job.tag for each in group])
        self.threads.append(threading.current_thread())
        assert self.may.wait(20)
        time.sleep(self.pause_s)
        if self.fault is not None:
            raise self.fault
        return [each.job for each in group if each.goes_on]

    @property
    def by_us(self) -> list[bool]:
        return [each is threading.current_thread() for each in self.threads]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def commits(store: Store) -> Iterator[Commits]:
    made = Commits(store.commit, at_once=False)
    yield made
    store.may.set()
    made.close()


def learnt(commits: Commits, count: int) -> list[Durable]:
    found: list[Durable] = []
    while len(found) < count:
        commits.wait(20)
        found += commits.learn()
    return found


def test_the_thread_commits_what_is_to_be_committed_now_and_the_executor_goes_on(store, commits):
    store.may.clear()
    commits.add(ended(1))
    commits.flush()
    until(lambda: store.groups)
    assert not list(commits.learn())
    store.may.set()
    assert learnt(commits, 1) == [Durable([1], [])]
    assert store.by_us == [False]


def test_what_ends_during_a_commit_shares_the_next_one(store, commits):
    store.may.clear()
    commits.add(ended(1))
    commits.flush()
    until(lambda: store.groups)
    for tag in (2, 3, 4):
        commits.add(ended(tag))
        commits.flush()
    store.may.set()
    assert [each.tags for each in learnt(commits, 2)] == [[1], [2, 3, 4]]


def test_the_thread_takes_over_from_an_executor_that_has_begun_something_long(store, commits):
    commits.add(ended(1))
    commits.lend()
    assert learnt(commits, 1) == [Durable([1], [])]  # though it was never flushed
    commits.add(ended(2))
    commits.lend()
    assert learnt(commits, 1) == [Durable([2], [])]


def test_without_a_disk_to_wait_for_the_executor_commits_by_itself(store):
    with Commits(store.commit, at_once=True) as commits:
        commits.add(ended(1))
        commits.add(ended(2))
        commits.flush()
        assert list(commits.learn()) == [Durable([1, 2], [])]
        commits.flush()
    assert (store.groups, store.by_us) == ([[1, 2]], [True])


def test_who_has_nothing_else_to_do_commits_by_himself_while_that_is_fast(store, commits, monkeypatch):
    def flush(tag: int) -> bool:
        """Whether we did it."""
        commits.add(ended(tag))
        commits.flush(alone=True)
        assert [each.tags for each in learnt(commits, 1)] == [[tag]]
        return store.by_us[-1]

    assert flush(1)
    monkeypatch.setattr(committing, "HERE_S", -1.0)
    assert not flush(2)
    monkeypatch.setattr(committing, "HERE_S", 20.0)
    assert flush(3)


def test_a_slow_disk_is_the_threads_from_the_next_commit_on(store, commits):
    for tag, ours in ((1, True), (2, False)):
        store.pause_s = 10 * committing.HERE_S
        commits.add(ended(tag))
        commits.flush(alone=True)
        assert [each.tags for each in learnt(commits, 1)] == [[tag]]
        assert store.by_us[-1] == ours


def test_but_never_beside_the_thread(store):
    store.may.clear()
    with Commits(store.commit, at_once=True) as commits:
        commits.add(ended(1))
        commits.lend()
        until(lambda: store.groups)
        commits.add(ended(2))
        commits.flush()
        assert store.groups == [[1]]
        store.may.set()
        assert [each.tags for each in learnt(commits, 2)] == [[1], [2]]
    assert store.by_us == [False, False]


def test_what_is_pending_at_the_end_is_committed(store):
    with Commits(store.commit, at_once=False) as commits:
        commits.add(ended(1))
    assert store.groups == [[1]]


def test_a_full_group_is_one_that_no_more_may_join(store, commits):
    for tag in range(1, GROUP_SIZE):
        commits.add(ended(tag))
    assert not commits.full
    commits.add(ended(GROUP_SIZE))
    assert commits.full
    assert commits.ripe
    commits.flush()
    until(lambda: not commits.full)


def test_what_goes_on_is_awaited_until_it_may(store, commits):
    one = ended(1)
    one.goes_on = True
    store.may.clear()
    commits.add(one)
    assert commits.awaited
    commits.flush()
    store.may.set()
    assert learnt(commits, 1) == [Durable([1], [one.job])]
    assert not commits.awaited


def test_what_committing_raises_the_executor_does(store):
    store.fault = RuntimeError("broken")
    with pytest.raises(RuntimeError, match="broken"), Commits(store.commit, at_once=False) as commits:
        commits.add(ended(1))


def test_after_a_failure_nothing_else_is_committed(store):
    store.fault = RuntimeError("broken")
    commits = Commits(store.commit, at_once=False)
    commits.add(ended(1))
    commits.flush()
    with pytest.raises(RuntimeError, match="broken"):
        learnt(commits, 1)
    commits.add(ended(2))
    commits.close()
    assert store.groups == [[1]]


def test_a_commit_that_does_not_end_is_noticed(store, commits, monkeypatch):
    monkeypatch.setattr(committing, "STUCK_S", 0.02)
    assert not commits.stuck
    store.may.clear()
    commits.add(ended(1))
    commits.flush()
    until(lambda: commits.stuck)
    store.may.set()
    until(lambda: not commits.stuck)
