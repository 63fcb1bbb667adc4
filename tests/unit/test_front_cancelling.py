"""Cancelled requests at the front: the executor is told until it is durable, and stopped where it does not listen."""

from __future__ import annotations

import time

import pytest

from kaasq.settings import Settings
from kaasq_workers.front import oversight
from kaasq_workers.link import Withdrawn
from tests.support.front_bench import Bench, reply


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_cancellation_is_acked_once_it_is_durable(bench):
    cancel = bench.cancel("one")
    (told,) = bench.executor.told()
    assert (told.tenant, told.id) == ("guest", "one")
    assert cancel.settled is None
    bench.note(told)
    assert cancel.settled == "ack"


def test_a_cancellation_that_could_not_be_recorded_is_told_again_later(bench):
    cancel = bench.cancel("one")
    (told,) = bench.executor.told()
    bench.note(told, durable=False)
    assert (cancel.settled, bench.executor.told()) == (None, [])
    bench.loop.run_timers()
    assert bench.executor.told() == [told]


def test_an_executor_that_died_before_it_noted_a_cancellation_leaves_it_to_the_next(bench):
    cancel = bench.cancel("one")
    bench.die()
    bench.revive()
    (told,) = bench.executor.told()
    bench.note(told)
    assert cancel.settled == "ack"


def test_a_request_that_the_executor_has_is_marked_for_it_to_see(bench):
    bench.take("other")
    bench.take("one")
    other, one = bench.executor.received()
    bench.cancel("one")
    assert bench.executor.vitals.withdrawn(one.tag)
    assert not bench.executor.vitals.withdrawn(other.tag)


def test_another_tenants_request_with_the_same_id_goes_on(bench):
    bench.take("one", user_id="ann")
    (job,) = bench.executor.received()
    bench.cancel("one", user_id="bob")
    assert not bench.executor.vitals.withdrawn(job.tag)
    assert [each.tenant for each in bench.executor.told()] == ["bob"]


def test_a_cancellation_is_recorded_by_its_tenants_own_executor():
    bench = Bench(Settings(isolation="tenant", isolation_executors=2))
    bench.take("one", user_id="ann")
    anns = bench.executor
    (job,) = anns.received()
    bench.cancel("first", user_id="bob")  # who has no executor yet, nor has anybody: hers is the only one that is up
    (told,) = anns.told()
    bench.note(told)
    bench.take("two", user_id="bob")
    assert bench.executor is not anns
    second, third = bench.cancel("two", user_id="bob"), bench.cancel("one", user_id="ann")
    (to_ann,) = anns.told()
    assert (to_ann.id, second.settled) == ("one", None)  # his waits for his own, which is starting
    bench.say_hello()
    (to_bob,) = bench.executor.told()
    assert (to_bob.tenant, to_bob.id) == ("bob", "two")
    anns.channel.send([Withdrawn([to_bob.tag, to_ann.tag], durable=True)])
    bench.loop.turn()
    assert (second.settled, third.settled) == (None, "ack")  # what she says of his counts for nothing
    bench.note(to_bob)
    assert second.settled == "ack"
    assert job.tenant == "ann"


def test_a_cancelled_request_that_goes_on_has_its_executor_killed_and_the_others_run_again(bench, monkeypatch):
    monkeypatch.setattr(oversight, "CANCEL_GRACE_S", 0.05)
    stuck = bench.take("stuck")
    bench.take("other")
    job, _ = bench.executor.received()
    bench.executor.vitals.begin(job.tag)
    bench.cancel("stuck")
    bench.loop.run_timers()
    assert not bench.executor.killed  # it may be between two launches
    time.sleep(0.06)
    bench.loop.run_timers()
    assert bench.executor.killed
    bench.loop.turn()
    bench.say_hello()
    answer = reply(bench.loop.published[0])
    assert (answer.status, answer.error.code) == ("cancelled", "cancelled")
    (again,) = bench.executor.received()
    assert (again.id, again.alone, stuck.settled) == ("other", False, "ack")


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": None},
        {"user_id": "NOT A WORD"},
        {"body": b"{}"},
        {"body": b"\xff"},
        {"body": b'{"cancel": 7}'},
        {"body": b'{"cancel": ""}'},
        {"body": b'{"cancel": "' + b"a" * 200 + b'"}'},
        {"body": b'{"cancel": "one", "filler": "' + b"a" * 5000 + b'"}'},
        {"content_type": "text/html"},
    ],
)
def test_a_control_message_that_says_nothing_sensible_is_dropped(bench, changes):
    cancel = bench.cancel("one", **changes)
    assert cancel.settled == "ack"
    assert bench.executor.told() == []
