"""What the front makes of chains that go on inside an executor: nothing is acked, lost or blamed other than before."""

from __future__ import annotations

import itertools
import time

import msgspec
import pytest

from kaasq.errors import BrokerLost, BrokerRefused
from kaasq.quotas import Quotas
from kaasq.settings import Settings
from kaasq_workers.link import Answer, Following, Job, onward_from
from kaasq_workers.vitals import next_tag
from tests.support.front_bench import Bench, Taken, reply


@pytest.fixture
def bench() -> Bench:
    return Bench()


def following(step: int) -> Following:
    return Following(id=f"one+{step}", pool="p", body=b"{%d}" % step, timeout_ms=700)


def goes_on(bench: Bench, job: Job, step: int, **changes) -> Job:
    """The executor answers a job, and has the next one."""
    onward = onward_from(job, following(step), 1)
    assert onward is not None
    bench.answer(job, onward=following(step), **changes)
    return onward


def begun(bench: Bench, **properties) -> tuple[Taken, Job]:
    """A chain whose first step has ended, and the job of its second."""
    taken = bench.take("one", **properties)
    (job,) = bench.executor.received()
    return taken, goes_on(bench, job, 1)


def exchanges(bench: Bench) -> list[str]:
    return [exchange for exchange, _, _ in bench.loop.published]


def test_each_step_is_answered_and_the_delivery_is_acked_with_the_last(bench):
    taken, job = begun(bench, headers={"traceparent": "00-a-b-01", "mine": 1}, correlation_id="c")
    job = goes_on(bench, job, 2)
    assert taken.settled is None
    bench.answer(job)
    assert taken.settled == "ack"
    assert exchanges(bench) == ["kaasq.replies", "kaasq.events"] * 3
    replies = [message for exchange, _, message in bench.loop.published if exchange == "kaasq.replies"]
    assert [each.correlation_id for each in replies] == ["c", "one+1", "one+2"]
    assert [each.message_id for each in replies] == ["one", "one+1", "one+2"]
    assert {key for _, key, _ in bench.loop.published} == {"guest.r", "guest.g.completed"}
    events = [message.headers for exchange, _, message in bench.loop.published if exchange == "kaasq.events"]
    assert [each["cloudEvents_traceparent"] for each in events] == ["00-a-b-01"] * 3


def test_the_ack_waits_for_the_confirms_of_all_steps(bench):
    bench.loop.confirm = "later"
    taken, job = begun(bench)
    bench.answer(job)
    first_reply, first_event, *second = bench.loop.unconfirmed
    for done in second:
        done(None)
    first_event(None)
    assert taken.settled is None
    first_reply(None)
    assert taken.settled == "ack"


def test_what_else_follows_is_published_beside_it(bench):
    taken = bench.take("one")
    (job,) = bench.executor.received()
    onward = goes_on(bench, job, 1, then=[following(5)])
    assert exchanges(bench) == ["kaasq.replies", "kaasq.events", "kaasq.requests"]
    assert bench.loop.published[2][2].message_id == "one+5"
    bench.answer(onward)
    assert taken.settled == "ack"


def test_a_step_whose_reply_cannot_be_confirmed_gives_the_delivery_back_once_the_others_are_through(bench):
    taken, job = begun(bench)
    bench.loop.confirm = BrokerLost("gone")
    job = goes_on(bench, job, 2)
    bench.loop.confirm = None
    assert taken.settled is None
    bench.answer(job)
    assert taken.settled == "requeue"


def test_a_step_whose_reply_is_refused_leaves_a_dead_letter_of_the_delivery(bench):
    taken, job = begun(bench)
    bench.loop.confirm = BrokerRefused("x")
    job = goes_on(bench, job, 2)
    bench.loop.confirm = None
    bench.answer(job)
    assert taken.settled == "reject"


def test_an_executor_that_dies_in_a_step_has_that_one_run_again_alone_and_not_what_was_before(bench):
    taken, job = begun(bench)
    bench.die(job.tag)
    bench.revive()
    (again,) = bench.executor.received()
    assert again.alone
    assert (again.tag, again.id, again.body, again.delivery) == (job.tag, "one+1", b"{1}", job.delivery)
    bench.answer(again)
    assert taken.settled == "ack"


def test_an_executor_that_dies_in_a_step_before_the_one_before_it_is_told_has_that_run_alone(bench):
    taken = bench.take("one")
    (job,) = bench.executor.received()
    for _ in range(3):  # of which none counts against it
        bench.die(next_tag(job.tag))
        bench.revive()
        (job,) = bench.executor.received()
        assert (job.id, job.alone, job.verdict) == ("one", True, None)
    bench.answer(job, then=[following(1)])
    assert taken.settled == "ack"


def test_a_step_that_goes_on_unheard_has_no_deadline_yet_but_does_not_hide_that_the_executor_is_stuck(
    bench, monkeypatch
):
    bench.take("one")
    (job,) = bench.executor.received()
    bench.executor.vitals.begin(next_tag(job.tag) or 0, 1)
    bench.loop.run_timers()
    assert not bench.executor.killed
    seconds = itertools.count(time.monotonic())
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    for _ in range(200):
        bench.loop.run_timers()
    assert bench.executor.killed


def test_an_executor_that_dies_before_its_answer_is_read_has_the_whole_answered_again(bench):
    taken = bench.take("one")
    (job,) = bench.executor.received()
    bench.die()
    bench.revive()
    (again,) = bench.executor.received()
    assert again.tag == job.tag
    onward = goes_on(bench, again, 1)
    assert onward.tag == next_tag(job.tag)  # the same as it would have been
    bench.answer(onward)
    assert taken.settled == "ack"


def test_an_answer_that_lies_there_when_its_executor_dies_counts(bench):
    bench.take("one")
    (job,) = bench.executor.received()
    bench.executor.channel.send([Answer(tag=job.tag, word="completed", reply=b"R", onward=following(1))])
    bench.executor.vitals.begin(next_tag(job.tag))
    bench.executor.sock.close()
    for _ in range(3):
        bench.loop.turn()
    bench.revive()
    assert [each.id for each in bench.executor.received()] == ["one+1"]


def test_a_step_that_kills_twice_is_the_one_that_is_dead_lettered(bench):
    taken, job = begun(bench)
    for _ in range(2):
        bench.die(job.tag)
        bench.revive()
        (job,) = bench.executor.received()
    assert job.verdict is not None
    bench.answer(job, word="failed", error=job.verdict, dead=True)
    letters = [message for exchange, _, message in bench.loop.published if exchange == "kaasq.dead"]
    assert [(each.message_id, each.body) for each in letters] == [("one+1", b"{1}")]
    assert letters[0].headers["kaasq-routing-key"] == "guest.p.any"
    assert (letters[0].headers["kaasq-user-id"], letters[0].headers["kaasq-reply-to"]) == ("guest", "r")
    assert taken.settled == "ack"


def test_a_step_that_runs_past_its_deadline_is_stopped_and_told_so(bench):
    taken, job = begun(bench)
    bench.executor.vitals.begin(job.tag, 1)
    bench.loop.run_timers()
    assert bench.executor.killed
    bench.executor.sock.close()
    bench.loop.turn()
    bench.revive()
    stopped = reply(bench.loop.published[-1])
    assert (stopped.id, stopped.status) == ("one+1", "expired")
    assert taken.settled == "ack"


def test_cancelling_the_chain_stops_the_step_that_it_is_in(bench):
    _, job = begun(bench)
    bench.cancel("one")
    assert bench.executor.vitals.withdrawn(job.tag)


def test_a_cancellation_that_meets_the_step_before_stops_the_one_that_goes_on(bench, monkeypatch):
    monkeypatch.setattr("kaasq_workers.front.oversight.CANCEL_GRACE_S", -1.0)
    bench.take("one")
    (job,) = bench.executor.received()
    bench.cancel("one")
    onward = goes_on(bench, job, 1)
    assert bench.executor.vitals.withdrawn(onward.tag)
    bench.executor.vitals.begin(onward.tag)
    bench.loop.run_timers()
    assert bench.executor.killed  # it does not listen


def test_a_chain_counts_as_one_request_for_its_tenants_quota():
    bench = Bench(Settings(quotas=Quotas(queued=1)))
    _, job = begun(bench)
    assert bench.front.held == 1
    refused = bench.take("two")
    assert refused.settled == "ack"
    assert bench.executor.received() == []
    bench.answer(job)
    assert bench.front.held == 0


def test_the_front_is_not_idle_in_between(bench):
    idle: list[bool] = []
    _, job = begun(bench)
    bench.front.when_idle(lambda: idle.append(True))
    job = goes_on(bench, job, 2)
    assert not idle
    bench.answer(job)
    assert idle


def test_a_front_that_drains_has_executors_go_on_with_nothing(bench):
    bench.take("one")
    (job,) = bench.executor.received()
    bench.front.drain()
    assert bench.executor.vitals.draining
    bench.die(job.tag)
    bench.revive()
    assert bench.executor.vitals.draining


def test_a_step_with_an_id_that_is_none_is_not_taken(bench):
    taken = bench.take("one")
    (job,) = bench.executor.received()
    bench.answer(job, onward=msgspec.structs.replace(following(1), id="x" * 5000))
    assert taken.settled == "ack"
    assert bench.front.held == 0


def test_a_step_that_the_broker_brings_too_shares_the_answer(bench):
    """As after a lost connection, when another worker had published it."""
    taken = bench.take("one")
    (job,) = bench.executor.received()
    same = msgspec.structs.replace(following(1), body=b"{}")
    bench.answer(job, onward=same)
    onward = onward_from(job, same, 1)
    assert onward is not None
    brought = bench.take("one+1", redelivered=True, correlation_id="one+1")
    assert bench.executor.received() == []
    bench.answer(onward)
    assert (taken.settled, brought.settled) == ("ack", "ack")
