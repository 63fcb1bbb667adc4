"""The front as a state machine: deliveries in, publishes and acks out, with an executor that the test plays."""

from __future__ import annotations

import time

import msgspec
import pytest

from kaasq.broker import Message
from kaasq.codec import JSON
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError
from kaasq.messages import ErrorBody
from kaasq.quotas import Quotas
from kaasq.settings import Settings
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.front import Front
from kaasq_workers.front.handles import CLEAN_EXIT
from kaasq_workers.front.silence import StartPatience
from kaasq_workers.link import Answer, Job, Refusal, Told
from tests.support.front_bench import Bench, Taken, reply


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_answer_becomes_reply_and_event_and_only_then_an_ack(bench):
    bench.loop.confirm = "later"
    taken = bench.take("one")
    (job,) = bench.executor.received()
    bench.answer(job)
    assert [each[:2] for each in bench.loop.published] == [
        ("kaasq.replies", "guest.r"),
        ("kaasq.events", "guest.g.completed"),
    ]
    assert taken.settled is None


def test_the_ack_follows_the_confirms(bench):
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"


@pytest.mark.parametrize(("error", "settled"), [(BrokerLost("x"), "requeue"), (BrokerRefused("x"), "reject")])
def test_an_unconfirmed_reply_never_acks_the_request(bench, error, settled):
    bench.loop.confirm = error
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled == settled


def test_a_reply_that_a_queue_without_a_leader_rejects_is_published_again(bench):
    bench.loop.confirm = BrokerRefused("no leader", rejected=True)
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled is None
    bench.loop.confirm = None
    bench.loop.run_timers()
    assert taken.settled == "ack"
    replies = [each for each in bench.loop.published if each[0] == "kaasq.replies"]
    assert len(replies) == 2


def test_a_reply_that_is_not_confirmed_is_published_again_after_pauses_that_grow(bench):
    bench.loop.confirm = BrokerLost("not confirmed", unconfirmed=True)
    taken = bench.take("one")
    bench.loop.later.clear()  # the front's own
    bench.answer(*bench.executor.received(), event=None)
    pauses = []
    while taken.settled is None:
        pauses += [delay_s for delay_s, _ in bench.loop.later]
        bench.loop.run_timers()
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert taken.settled == "requeue"


DIRECT = "amq.rabbitmq.reply-to.AAAA.AAAA"


def test_a_direct_reply_that_was_only_not_confirmed_in_time_is_published_again(bench):
    bench.loop.confirm = BrokerLost("not confirmed", unconfirmed=True)
    taken = bench.take("one", reply_to=DIRECT)
    bench.loop.later.clear()  # the front's own
    bench.answer(*bench.executor.received(), event=None)
    assert taken.settled is None
    bench.loop.confirm = None
    bench.loop.run_timers()
    assert taken.settled == "ack"
    assert [each[:2] for each in bench.loop.published] == [("", DIRECT)] * 2


def test_a_direct_reply_whose_address_cost_the_connection_is_not_repeated_and_is_its_tenants(bench):
    bench.loop.confirm = BrokerLost("closed", reply_code=541)
    taken = bench.take("one", reply_to=DIRECT)
    bench.answer(*bench.executor.received(), event=None)
    assert taken.settled == "ack"
    assert [each[:2] for each in bench.loop.published] == [("", DIRECT)]
    assert bench.loop.tenants == ["guest"]


def test_a_direct_reply_that_no_delivery_waits_for_is_its_tenants(bench):
    told = Told("ann", "flow", "c", "", DIRECT, JSON, b"R")
    Answers(bench.loop, "/test").tell([told])
    assert [(each[:2], tenant) for each, tenant in zip(bench.loop.published, bench.loop.tenants, strict=True)] == [
        (("", DIRECT), "ann")
    ]


def test_a_refusal_of_a_request_without_user_is_held_against_nobody(bench):
    bench.take("one", user_id=None, reply_to=DIRECT)
    assert [each[:2] for each in bench.loop.published] == [("", DIRECT)]
    assert bench.loop.tenants == [""]


def test_the_event_is_a_cloud_event(bench):
    bench.take("one", headers={"traceparent": "00-a-b-01"})
    bench.answer(*bench.executor.received())
    headers = bench.loop.published[1][2].headers
    assert headers["cloudEvents_type"] == "kaasq.request.completed"
    assert headers["cloudEvents_specversion"] == "1.0"
    assert headers["cloudEvents_traceparent"] == "00-a-b-01"


def test_a_request_without_user_is_dead_lettered_with_the_reason(bench):
    taken = bench.take("one", user_id=None)
    ((exchange, key, letter),) = bench.loop.published
    assert (exchange, key) == ("kaasq.dead", "unknown.forbidden")
    assert "user_id" in letter.headers["kaasq-reason"]
    assert letter.body == b"{}"
    assert taken.settled == "ack"
    assert bench.executor.received() == []


def test_an_unreadable_request_that_nobody_awaits_is_dead_lettered(bench):
    bench.take("one", reply_to=None)
    (job,) = bench.executor.received()
    bench.answer(job, graph=None, event=None, error=ErrorBody(code="bad_request", message="no JSON"))
    assert [each[:2] for each in bench.loop.published] == [("kaasq.dead", "guest.bad_request")]
    assert bench.loop.published[0][2].headers["kaasq-reason"] == "no JSON"


def killed_twice(bench: Bench, how: str = "SIGSEGV") -> Job:
    """A request that was running alone as two executors died, as the third one gets it."""
    (job,) = bench.executor.received()
    for _ in range(2):
        bench.executor.how = how
        bench.die(running=job.tag)
        bench.revive()
        job = bench.executor.received()[0]
    return job


def test_a_request_that_kills_twice_gets_its_verdict_recorded_then_answered_and_dead_lettered(bench):
    killer = bench.take("killer")
    job = killed_twice(bench)
    assert (job.id, job.alone, job.verdict.code) == ("killer", True, "kernel_failed")
    assert "SIGSEGV" in job.verdict.message
    assert "kaasq worker --guard" in job.verdict.message
    assert (killer.settled, bench.loop.published) == (None, [])
    bench.answer(job, word="failed", error=job.verdict, dead=True)
    assert killer.settled == "ack"
    assert [each[:2] for each in bench.loop.published] == [
        ("kaasq.dead", "guest.kernel_failed"),
        ("kaasq.replies", "guest.r"),
        ("kaasq.events", "guest.g.failed"),
    ]
    headers = bench.loop.published[0][2].headers
    assert (headers["kaasq-how"], headers["kaasq-kills"], headers["kaasq-worker"]) == ("SIGSEGV", 2, "h/1/cpu")


def test_the_neighbour_of_a_request_that_kills_runs_again_and_is_not_blamed(bench):
    bench.take("killer")
    neighbour = bench.take("neighbour")
    first, second = bench.executor.received()
    bench.die(running=first.tag)
    bench.revive()
    assert [(each.id, each.alone) for each in bench.executor.received()] == [("killer", True)]
    bench.die(running=first.tag)
    bench.revive()
    (verdict,) = bench.executor.received()  # nobody long is to hold up the news
    bench.answer(verdict, word="failed", error=verdict.verdict, dead=True)
    (innocent,) = bench.executor.received()
    assert (innocent.tag, innocent.alone, innocent.verdict) == (second.tag, False, None)
    bench.answer(innocent)
    assert neighbour.settled == "ack"


def test_who_is_suspected_goes_again_with_how_the_executor_died(bench):
    for each in ("one", "two", "three"):
        bench.take(each)
    first, second, _ = bench.executor.received()
    bench.executor.vitals.begin(first.tag)
    bench.die(running=second.tag)
    bench.revive()
    (again,) = bench.executor.received()
    assert (again.id, again.died, again.kills) == ("one", "SIGSEGV", 0)  # it may have been the other one
    bench.die(running=again.tag)
    bench.revive()
    (again,) = bench.executor.received()
    assert (again.id, again.died, again.kills) == ("one", "SIGSEGV", 1)
    bench.answer(again)
    (again,) = bench.executor.received()
    assert (again.id, again.died) == ("two", "SIGSEGV")
    bench.answer(again)
    (innocent,) = bench.executor.received()
    assert (innocent.id, innocent.died) == ("three", None)


def test_a_request_that_kills_even_who_records_its_verdict_is_answered_without(bench):
    killer = bench.take("killer")
    bench.take("neighbour")
    first, _ = bench.executor.received()
    handed: list[str] = []
    for _ in range(3):
        bench.die(running=first.tag)
        bench.revive()
        handed = [each.id for each in bench.executor.received()]
    assert handed == ["neighbour"]
    assert killer.settled == "ack"
    dead, told = bench.loop.published
    assert dead[:2] == ("kaasq.dead", "guest.kernel_failed")
    assert reply(told).error.code == "kernel_failed"


def test_a_verdict_that_waits_as_another_executor_dies_is_recorded_by_the_next(bench):
    bench.take("killer")
    killed_twice(bench)
    bench.executor.sock.close()  # with nothing running
    bench.loop.turn()
    bench.revive()
    (job,) = bench.executor.received()
    assert job.verdict is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, False),
        ({"redelivered": True}, True),
        ({"headers": {"x-delivery-count": 1}}, False),  # which anybody can write
    ],
)
def test_the_executor_is_told_what_was_delivered_before(bench, changes, said):
    bench.take("one", **changes)
    (job,) = bench.executor.received()
    assert job.redelivered is said
    bench.take("two")
    (other,) = bench.executor.received()
    assert job.delivery != other.delivery


def test_while_a_suspect_runs_newcomers_wait(bench):
    bench.take("suspect")
    (job,) = bench.executor.received()
    bench.die(running=job.tag)
    bench.revive()
    bench.take("newcomer")
    assert [each.id for each in bench.executor.received()] == ["suspect"]
    bench.answer(job)
    assert [each.id for each in bench.executor.received()] == ["newcomer"]


def test_an_executor_that_never_became_ready_is_reported(bench):
    ready: list[KaasqError | None] = []
    front = Front(bench.loop, Settings(), bench, Answers(bench.loop, "/t"), ready.append)
    front.start()
    bench.executor.channel.send([Refusal(error=ErrorBody(code="store_unavailable", message="read-only"))])
    bench.loop.turn()
    (error,) = ready
    assert error.code == "store_unavailable"


def test_a_request_past_its_deadline_has_its_executor_killed_and_the_others_run_again(bench):
    late = bench.take("late")
    other = bench.take("other")
    job, _ = bench.executor.received()
    bench.executor.vitals.begin(job.tag)
    bench.executor.vitals.due(job.tag, int(time.time() * 1000) - 1)
    bench.executor.vitals.read(job.tag, "images.resize")
    bench.loop.run_timers()
    assert bench.executor.killed
    bench.loop.turn()
    bench.say_hello()
    answer = reply(bench.loop.published[0])
    assert bench.loop.published[1][:2] == ("kaasq.events", "guest.images.resize.expired")
    assert (answer.status, answer.error.code) == ("expired", "deadline_exceeded")
    assert answer.error.message.startswith("request late was still running")
    (again,) = bench.executor.received()
    assert (again.id, again.alone) == ("other", False)
    bench.answer(again)
    assert late.settled == other.settled == "ack"


def test_idle_means_everything_answered_and_confirmed(bench):
    idle: list[bool] = []
    bench.take("one")
    bench.front.when_idle(lambda: idle.append(True))
    assert idle == []
    bench.answer(*bench.executor.received())
    assert idle == [True]


def test_a_reply_speaks_as_its_request_did(bench):
    bench.take("one", content_type="application/msgpack")
    (job,) = bench.executor.received()
    bench.executor.vitals.begin(job.tag)
    bench.executor.vitals.due(job.tag, int(time.time() * 1000) - 1)
    bench.loop.run_timers()
    bench.loop.turn()
    message = bench.loop.published[0][2]
    assert message.content_type == "application/msgpack"
    assert msgspec.msgpack.decode(message.body)["status"] == "expired"


def test_a_refusal_that_is_confirmed_ends_the_drain(bench):
    idle: list[bool] = []
    bench.loop.confirm = "later"
    bench.take("one", user_id=None)
    bench.front.when_idle(lambda: idle.append(True))
    assert idle == []
    bench.loop.confirm_all()
    assert idle == [True]


def test_an_event_that_a_subscriber_refuses_does_not_dead_letter_the_request(bench):
    bench.loop.refuse = "kaasq.events"
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"


def test_a_publish_whose_connection_went_is_repeated_instead_of_given_back(bench):
    bench.loop.failures = 2
    taken = bench.take("one")
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"
    assert [each[0] for each in bench.loop.published].count("kaasq.replies") == 3


def test_a_direct_reply_whose_connection_went_counts_as_told(bench):
    bench.loop.failures = 1
    taken = bench.take("one", reply_to=DIRECT)
    bench.answer(*bench.executor.received())
    assert taken.settled == "ack"
    assert [each[0] for each in bench.loop.published] == ["", "kaasq.events"]


def test_strangers_headers_are_carried_within_bounds(bench):
    headers = {"traceparent": {"a": {}}, "tracestate": "x" * 100_000, "ok": "yes", "big": "y" * 5000, "table": {"a": 1}}
    bench.take("one", user_id=None, headers=headers)
    carried = bench.loop.published[0][2].headers
    assert carried["ok"] == "yes"
    assert not {"big", "table", "tracestate", "traceparent"} & set(carried)
    bench.take("two", headers=headers)
    bench.answer(*bench.executor.received())
    assert not [name for name in bench.loop.published[-1][2].headers if "trace" in name]


def test_one_answer_that_breaks_does_not_cost_the_others_theirs(bench):
    broken, fine = bench.take("broken"), bench.take("fine")
    first, second = bench.executor.received()
    bench.loop.break_on = "broken"
    bench.executor.channel.send(
        [Answer(tag=each.tag, word="completed", reply=b"R", graph="g", event=b"E") for each in (first, second)]
    )
    bench.loop.turn()
    assert (broken.settled, fine.settled) == ("reject", "ack")


def test_what_breaks_on_a_delivery_costs_that_one_alone_which_is_kept(bench):
    broken = Taken(Message(body=7, message_id="bad", user_id="guest"))  # as no broker gives it
    with pytest.raises(TypeError):
        bench.front.take(broken)
    assert broken.settled == "reject"


def test_a_job_that_cannot_be_encoded_is_kept_and_the_front_goes_on(bench):
    poison = Taken(Message(body=b"{}", message_id="poison", user_id="guest", timestamp_ms=2**70))
    with pytest.raises(OverflowError):
        bench.front.take(poison)
    taken = bench.take("next")
    bench.answer(*bench.executor.received())
    assert (poison.settled, taken.settled) == ("reject", "ack")
    idle: list[bool] = []
    bench.front.when_idle(lambda: idle.append(True))
    assert idle


def test_who_is_answered_just_before_the_deadline_kill_has_nobody_else_blamed(bench):
    bench.take("late")
    bench.take("other")
    late, other = bench.executor.received()
    bench.executor.vitals.begin(late.tag)
    bench.executor.vitals.due(late.tag, 1)
    bench.executor.channel.send([Answer(tag=late.tag, word="completed", reply=b"R", graph="g", event=b"E")])
    bench.loop.run_timers()  # the front has not read the answer yet
    assert bench.executor.killed
    bench.executor.vitals.begin(other.tag)
    bench.loop.turn()
    bench.loop.turn()
    bench.say_hello()
    (again,) = bench.executor.received()
    assert (again.id, again.alone) == ("other", False)


def test_an_executor_that_gave_up_its_device_leaves_nobody_blamed(bench):
    bench.take("poisoner"), bench.take("next")
    first, second = bench.executor.received()
    bench.answer(first)
    bench.executor.how = CLEAN_EXIT
    bench.die(running=second.tag)
    bench.say_hello()
    (again,) = bench.executor.received()
    assert (again.id, again.alone) == ("next", False)


def test_an_executor_that_exits_as_if_all_were_well_has_somebody_to_blame(bench):
    bench.take("exits")
    job = killed_twice(bench, "exit code 0")  # a kernel of the CPU device may call exit()
    assert (job.id, job.verdict.code) == ("exits", "kernel_failed")
    assert "ended by itself, perhaps because a kernel called exit()" in job.verdict.message


def test_when_the_broker_is_lost_what_has_not_started_is_forgotten(bench):
    bench.take("suspect")
    (job,) = bench.executor.received()
    bench.die(running=job.tag)
    bench.take("waiting")
    bench.front.lost()
    bench.revive()
    assert bench.executor.received() == []


def stuck_bench(**settings) -> Bench:
    """With an executor that counts as stuck at the second look, unless it has moved."""
    bench = Bench(Settings(**settings))
    bench.executor.vitals.beat()
    return bench


def test_a_stuck_executor_is_replaced_and_nobody_is_blamed_at_first():
    bench = stuck_bench(executor_timeout=0.0)
    bench.take("one")
    bench.take("other")
    assert len(bench.executor.received()) == 2
    bench.loop.run_timers()
    assert not bench.executor.killed
    bench.executor.vitals.turn()
    bench.executor.vitals.beat()
    bench.loop.run_timers()
    assert not bench.executor.killed
    bench.loop.run_timers()
    assert bench.executor.killed
    bench.loop.turn()
    bench.say_hello()
    assert [(each.id, each.alone) for each in bench.executor.received()] == [("one", False), ("other", False)]


def test_who_was_running_is_suspected_when_the_next_executor_is_stuck_too():
    bench = stuck_bench(executor_timeout=0.0)
    bench.take("one")
    bench.take("other")
    for _ in range(2):
        one, _ = bench.executor.received()
        bench.executor.vitals.begin(one.tag)
        bench.executor.vitals.beat()
        bench.loop.run_timers()
        bench.loop.run_timers()
        assert bench.executor.killed
        bench.loop.turn()
        bench.revive()
    (again,) = bench.executor.received()
    assert (again.id, again.alone) == ("one", True)


def test_an_executor_whose_request_runs_is_not_stuck_while_its_process_lives():
    bench = stuck_bench(executor_timeout=0.0)
    bench.take("one")
    (job,) = bench.executor.received()
    bench.executor.vitals.begin(job.tag)
    for _ in range(3):
        bench.executor.vitals.beat()
        bench.loop.run_timers()
    assert not bench.executor.killed


def test_an_executor_that_is_not_ready_in_time_is_replaced():
    bench = stuck_bench(start_timeout=0.0)
    bench.die()
    late = bench.executor
    bench.loop.run_timers()
    bench.loop.run_timers()
    assert late.killed
    bench.loop.turn()
    bench.revive()
    assert bench.executor is not late
    assert not bench.executor.killed


def test_an_executor_that_hangs_as_it_starts_is_not_waited_for_like_the_first_one(monkeypatch):
    monkeypatch.setattr(StartPatience, "LEAST_S", -1.0)
    monkeypatch.setattr(StartPatience, "TIMES", -1.0)
    bench = stuck_bench(start_timeout=3600.0)
    bench.die()
    hanging = bench.executor
    bench.loop.run_timers()
    bench.loop.run_timers()
    assert hanging.killed


def test_a_tenants_requests_beyond_its_quota_are_answered_at_once_and_others_taken():
    bench = Bench(Settings(quotas=Quotas(queued=2)))
    first, second, third = (bench.take(each) for each in ("one", "two", "three"))
    other = bench.take("four", user_id="other")
    assert third.settled == "ack"
    told = reply(bench.loop.published[-1]).error
    assert (told.code, told.detail) == ("quota_exceeded", {"which": "queued", "limit": 2, "used": 2})
    jobs = bench.executor.received()
    assert [each.id for each in jobs] == ["one", "two", "four"]
    bench.answer(jobs[0])
    assert bench.take("five").settled is None  # there is room again
    assert (first.settled, second.settled, other.settled) == ("ack", None, None)


def again(bench, key, **changes):
    taken = Taken(Message(body=b"{}", message_id=key, user_id="guest", reply_to="r", content_type=JSON, **changes))
    taken.redelivered = True
    bench.front.take(taken)
    return taken


def test_a_request_that_the_broker_took_back_while_it_runs_is_answered_once_and_both_deliveries_acked(bench):
    first = bench.take("one")
    (job,) = bench.executor.received()
    second, third = again(bench, "one"), again(bench, "one")
    assert bench.executor.received() == []
    bench.answer(job)
    assert [each[0] for each in bench.loop.published] == ["kaasq.replies", "kaasq.events"]
    assert [each.settled for each in (first, second, third)] == ["ack"] * 3
    again(bench, "one")  # answered by now: from its outcome
    assert len(bench.executor.received()) == 1


def test_another_request_of_the_same_id_and_a_repeat_by_its_client_are_jobs_of_their_own(bench):
    bench.take("one")
    bench.take("one")
    again(bench, "one", correlation_id="another")
    assert len(bench.executor.received()) == 3
