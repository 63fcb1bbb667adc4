"""What the front makes of continuations: published for their tenant before the ack, and none lost in silence."""

from __future__ import annotations

import pytest

from kaasq import codec
from kaasq.errors import BrokerLost, BrokerRefused, Unroutable
from kaasq.messages import ErrorBody
from kaasq_workers.link import Following
from tests.support.front_bench import Bench, reply

NEXT = Following(id="one+1", pool="p", body=b"{}", timeout_ms=700)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def exchanges(bench: Bench) -> list[str]:
    return [exchange for exchange, _, _ in bench.loop.published]


def test_a_continuation_is_published_after_the_reply_as_its_tenant_would(bench):
    bench.take("one", priority=7, headers={"traceparent": "00-a-b-01", "mine": 1}, correlation_id="c")
    bench.answer(*bench.executor.received(), then=[NEXT])
    assert exchanges(bench) == ["kaasq.replies", "kaasq.events", "kaasq.requests"]
    _, key, message = bench.loop.published[2]
    assert key == "guest.p.any"
    assert bench.loop.mandatory == {"one+1"}
    assert (message.message_id, message.correlation_id, message.user_id) == ("one+1", "one+1", "guest")
    assert (message.reply_to, message.priority, message.expiration_ms) == ("r", 7, 700)
    assert message.headers == {"traceparent": "00-a-b-01"}
    assert message.body == b"{}"
    assert message.content_type == codec.JSON
    assert message.persistent


def test_the_ack_waits_until_what_follows_is_confirmed(bench):
    bench.loop.confirm = "later"
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=[NEXT])
    reply_, event, following = bench.loop.unconfirmed
    reply_(None)
    event(None)
    assert taken.settled is None
    following(None)
    assert taken.settled == "ack"


def test_a_continuation_that_was_lost_with_its_connection_is_published_again(bench):
    taken = bench.take("one", reply_to=None)
    bench.loop.failures = 2  # the event's first, and its own
    bench.answer(*bench.executor.received(), then=[NEXT])
    assert exchanges(bench).count("kaasq.requests") >= 1
    assert taken.settled == "ack"


def test_one_that_cannot_be_confirmed_gives_its_request_back(bench):
    taken = bench.take("one", reply_to=None)
    bench.loop.confirm = BrokerLost("gone")
    bench.answer(*bench.executor.received(), event=None, then=[NEXT])
    assert taken.settled == "requeue"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BrokerRefused("a queue is full"), "broker_refused", "a queue is full"),
        (Unroutable("no queue"), "unroutable", "no worker ever served pool 'p'"),
    ],
)
def test_one_that_the_broker_refuses_is_answered_and_kept_and_its_request_is_not_lost(bench, error, code, told):
    bench.loop.refusals["kaasq.requests"] = error
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=[NEXT])
    assert exchanges(bench) == ["kaasq.replies", "kaasq.events", "kaasq.requests", "kaasq.dead", "kaasq.replies"]
    _, key, letter = bench.loop.published[3]
    assert key == f"guest.{code}"
    assert letter.message_id == "one+1"
    assert letter.headers["kaasq-user-id"] == "guest"
    assert letter.headers["kaasq-routing-key"] == "guest.p.any"
    _, _, message = bench.loop.published[4]
    answer = reply(bench.loop.published[4])
    assert (answer.id, message.correlation_id, answer.status) == ("one+1", "one+1", "error")
    assert answer.error.code == code
    assert told in answer.error.message
    assert taken.settled == "ack"


def test_one_that_nobody_awaits_is_kept_all_the_same(bench):
    bench.loop.refusals["kaasq.requests"] = BrokerRefused("full")
    taken = bench.take("one", reply_to=None)
    bench.answer(*bench.executor.received(), then=[NEXT])
    assert exchanges(bench) == ["kaasq.events", "kaasq.requests", "kaasq.dead"]
    assert taken.settled == "ack"


@pytest.mark.parametrize(("code", "status"), [("store_unavailable", "error"), ("deadline_exceeded", "expired")])
def test_one_that_could_not_be_made_is_answered(bench, code, status):
    taken = bench.take("one")
    failed = Following(id="one+1", pool="p", error=ErrorBody(code=code, message="so it is"))
    bench.answer(*bench.executor.received(), then=[failed])
    answer = reply(bench.loop.published[2])
    assert (answer.id, answer.status, answer.error.message) == ("one+1", status, "so it is")
    assert taken.settled == "ack"


def test_cancelling_a_request_stops_what_follows_it(bench):
    for key in ("one+2", "one", "other", "one+x"):
        bench.take(key)
    jobs = {job.id: job for job in bench.executor.received()}
    bench.cancel("one")
    vitals = bench.executor.vitals
    assert [key for key, job in jobs.items() if vitals.withdrawn(job.tag)] == ["one+2", "one"]
