"""Questions about workflows that the executor has no time for: who answers them, once, and that none is lost."""

from __future__ import annotations

import time

import msgspec
import pytest

from kaasq import codec
from kaasq.flows.model import Asked, FlowCall, FlowReply, FlowsCall, Sought
from kaasq.messages import ErrorBody
from kaasq.questions import QuestionLimits
from kaasq.settings import Settings
from kaasq_workers.link import Said
from tests.support.front_bench import Bench, Informant, Taken

STATUS = FlowCall(flow=Asked(id="f", do="status"))
WAIT = FlowCall(flow=Asked(id="f", do="wait"))
LIST = FlowsCall(flows=Sought())


@pytest.fixture
def bench() -> Bench:
    return Bench()


def bounded(**limits: float) -> Bench:
    """With these limits of questions."""
    return Bench(Settings(questions=QuestionLimits(**limits)))


def ask(bench: Bench, key: str, call: FlowCall | FlowsCall = STATUS, **changes) -> Taken:
    return bench.take(key, body=codec.encode(call, codec.JSON), **changes)


def late(bench: Bench) -> Informant:
    """The executor has not answered for a moment: who is asked then."""
    bench.loop.run_timers()
    return bench.informants[-1]


def say(bench: Bench, informant: Informant, reply: bytes | None = None) -> None:
    """It answers what it was asked last."""
    job = informant.asked[-1]
    informant.said = [Said(job.tag, codec.encode(FlowReply(id=job.id, status="ok")) if reply is None else reply)]
    bench.loop.turn()


def replied(bench: Bench) -> list[str | None]:
    return [message.message_id for exchange, _, message in bench.loop.published if exchange == "kaasq.replies"]


@pytest.mark.parametrize("call", [STATUS, WAIT, LIST])
@pytest.mark.parametrize("late_ms", [50_000, -50_000])
def test_a_question_that_came_too_late_is_asked_of_nobody_and_never_a_dead_letter(bench, call, late_ms):
    published_ms = time.time_ns() // 1_000_000 - 100_000
    call = msgspec.structs.replace(call, timeout_ms=100_000 - late_ms)
    taken = ask(bench, "one", call, timestamp_ms=published_ms)
    nobody = ask(bench, "two", call, timestamp_ms=published_ms, reply_to=None)
    if late_ms < 0:
        assert bench.executor.received() or bench.informants
        assert replied(bench) == []
        return
    assert (bench.executor.received(), bench.informants) == ([], [])
    assert (taken.settled, nobody.settled, bench.front.held) == ("ack", "ack", 0)
    ((exchange, _, message),) = bench.loop.published
    reply = codec.decode_reply(message.body, message.content_type)
    assert (exchange, message.message_id, reply.status) == ("kaasq.replies", "one", "expired")
    assert reply.error is not None
    assert reply.error.code == "deadline_exceeded"


def test_without_a_time_a_question_is_never_too_late(bench):
    ask(bench, "one", timestamp_ms=1)
    ask(bench, "two", msgspec.structs.replace(STATUS, timeout_ms=1))  # nobody knows since when
    assert [each.id for each in bench.executor.received()] == ["one", "two"]


def test_a_question_without_an_address_that_fails_is_no_dead_letter_as_a_request_is(bench):
    refused = ErrorBody(code="name_not_found", message="there is no workflow 'f'")
    question, request = ask(bench, "question", reply_to=None), bench.take("request", reply_to=None)
    for job in bench.executor.received():
        bench.answer(job, error=refused, graph=None, event=None)
    assert (question.settled, request.settled) == ("ack", "ack")
    assert [(exchange, message.message_id) for exchange, _, message in bench.loop.published] == [
        ("kaasq.dead", "request")
    ]


@pytest.mark.parametrize("call", [STATUS, WAIT])
def test_a_question_that_the_executor_does_not_answer_is_answered_in_its_place(bench, call):
    taken = ask(bench, "one", call)
    (job,) = bench.executor.received()
    assert bench.informants == []  # there is no process before there is need for one
    say(bench, late(bench))
    assert (replied(bench), taken.settled) == (["one"], "ack")
    bench.answer(job)  # the executor's answer comes too late, and is nobody's any more
    assert replied(bench) == ["one"]
    assert bench.front.held == 0


def test_a_list_is_not_the_executor_s_at_all(bench):
    taken = ask(bench, "one", LIST)
    bench.loop.run_timers()
    (informant,) = bench.informants
    say(bench, informant)
    assert (replied(bench), taken.settled, bench.front.held) == (["one"], "ack", 0)
    assert bench.executor.received() == []


def test_a_list_that_the_process_cannot_give_is_left_to_the_executor(bench):
    ask(bench, "one", LIST)
    say(bench, bench.informants[-1], b"")
    bench.answer(*bench.executor.received())
    assert (replied(bench), bench.front.held) == (["one"], 0)


@pytest.mark.parametrize("executor_is_first", [True, False])
def test_where_no_process_is_to_be_had_just_now_the_executor_has_the_list_too(bench, executor_is_first):
    bench.no_informants = 1
    ask(bench, "one", LIST)
    (job,) = bench.executor.received()
    if executor_is_first:
        bench.answer(job)
        bench.loop.run_timers()
        assert bench.informants[-1].asked == []
    else:
        say(bench, late(bench))
        bench.answer(job)
    assert (replied(bench), bench.front.held) == (["one"], 0)


def test_what_the_executor_answers_in_time_nobody_else_is_asked(bench):
    ask(bench, "one")
    bench.answer(*bench.executor.received())
    bench.loop.run_timers()
    assert (bench.informants, replied(bench)) == ([], ["one"])


def test_other_requests_are_the_executor_s_alone_and_so_is_what_nobody_waits_for(bench):
    bench.take("request")
    bench.take("graph", body=b'{"graph": {"name": "flow"}, "flow": {"id": "f", "do": "status"}}')
    ask(bench, "asked", reply_to=None)
    bench.loop.run_timers()
    assert len(bench.executor.received()) == 3
    assert bench.informants == []


def test_what_only_the_executor_can_say_is_left_to_it(bench):
    ask(bench, "one", WAIT)
    (job,) = bench.executor.received()
    say(bench, late(bench), b"")
    assert replied(bench) == []
    bench.answer(job)
    assert replied(bench) == ["one"]


def test_while_the_executor_owes_answers_it_is_not_given_more_questions(bench):
    ask(bench, "one")
    (job,) = bench.executor.received()
    informant = late(bench)
    say(bench, informant)
    ask(bench, "two")  # at once, without a moment's wait
    say(bench, informant)
    waiting = ask(bench, "three", WAIT)
    say(bench, informant, b"")  # what only the executor can say goes to it
    assert (replied(bench), waiting.settled) == (["one", "two"], None)
    assert [each.id for each in bench.executor.received()] == ["three"]
    bench.answer(job)
    ask(bench, "four")
    assert [each.id for each in bench.executor.received()] == ["four"]


def test_a_question_that_its_process_died_of_is_asked_last_of_the_next_and_then_left_to_the_executor(bench):
    ask(bench, "one")
    ask(bench, "two")
    first, second = bench.executor.received()
    informant = late(bench)
    informant.said = None
    bench.loop.turn()
    assert informant.killed
    assert len(bench.informants) == 1  # not at once: it may die again
    after = late(bench)
    say(bench, after)
    assert [each.id for each in after.asked] == ["two", "one"]
    after.said = None
    bench.loop.turn()
    bench.loop.run_timers()
    assert len(bench.informants) == 2  # nobody is asked it a third time
    bench.answer(first)
    bench.answer(second)
    assert replied(bench) == ["two", "one"]


@pytest.mark.parametrize(("timeout", "killed"), [(1e-9, True), (20.0, False)])
def test_one_that_does_not_answer_is_killed(timeout, killed):
    bench = bounded(timeout=timeout)
    ask(bench, "one")
    informant = late(bench)
    bench.loop.run_timers()
    assert informant.killed == killed


def test_one_that_has_something_to_do_now_and_then_stays(bench):
    ask(bench, "one")
    informant = late(bench)
    say(bench, informant)
    bench.loop.run_timers()
    assert not informant.killed


def test_one_that_has_had_nothing_to_do_for_long_ends():
    bench = bounded(idle=1e-9)
    ask(bench, "one")
    informant = late(bench)
    say(bench, informant)
    bench.loop.run_timers()
    assert informant.killed
    ask(bench, "two")
    assert bench.informants[1].asked  # the next question has the next one started


def test_an_answer_to_what_was_not_asked_counts_for_nothing(bench):
    ask(bench, "one")
    bench.take("request")
    informant = late(bench)
    informant.said = [Said(informant.asked[0].tag + 1, b"R"), Said(77, b"R")]
    bench.loop.turn()
    assert replied(bench) == []
    say(bench, informant)
    assert replied(bench) == ["one"]


def test_a_workflow_that_may_be_about_to_begin_is_asked_of_the_executor(bench):
    bench.take("f")
    ask(bench, "one")
    bench.loop.run_timers()
    assert bench.informants == []


def test_the_executor_has_its_time_to_answer():
    bench = bounded(patience=3.0)
    bench.loop.later.clear()  # the front's own
    ask(bench, "one")
    assert [delay_s for delay_s, _ in bench.loop.later] == [3.0]


def test_a_message_larger_than_questions_are_is_none():
    bench = bounded(size=10)
    ask(bench, "one")
    bench.loop.run_timers()
    assert bench.informants == []


def test_of_all_questions_only_so_many_wait():
    bench = bounded(waiting=1)
    for user in ("ann", "bob", "guest"):
        ask(bench, user, user_id=user)
    informant = late(bench)  # one is with the process, one waits
    say(bench, informant)
    say(bench, informant)
    assert len(replied(bench)) == 2
    bench.loop.run_timers()
    say(bench, informant)
    assert len(replied(bench)) == 3


def test_of_one_tenant_s_questions_only_so_many_wait():
    bench = bounded(tenant_waiting=4)
    for number in range(4 + 5):
        ask(bench, f"q{number}")
    informant = late(bench)
    ask(bench, "other", user_id="bob", reply_to="r")
    bench.loop.run_timers()
    for _ in range(4 + 1):
        say(bench, informant)
    assert "other" in replied(bench)  # not behind all of the other's
    assert len(replied(bench)) == 4 + 1
    for _ in range(5):
        bench.loop.run_timers()
        say(bench, informant)
    assert bench.front.held == 0


def test_questions_that_only_the_process_had_come_again_after_a_lost_connection(bench):
    ask(bench, "one")
    informant = late(bench)
    say(bench, informant)
    for key in ("two", "three"):
        ask(bench, key)
    bench.front.lost()
    assert bench.front.held == 0
    again = ask(bench, "three", redelivered=True)
    say(bench, informant)  # "two", for nobody
    say(bench, informant)
    assert (replied(bench), again.settled) == (["one", "three"], "ack")


def test_an_executor_that_dies_with_a_question_that_is_answered_is_nobody_s_loss(bench):
    ask(bench, "one")
    (job,) = bench.executor.received()
    say(bench, late(bench))
    for _ in range(3):
        bench.die(job.tag)
        bench.revive()
    ask(bench, "two")
    assert replied(bench) == ["one"]
    (two,) = [each for each in bench.executor.received() if each.id == "two"]
    bench.answer(two)
    assert replied(bench) == ["one", "two"]
