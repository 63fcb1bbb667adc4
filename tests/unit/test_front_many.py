"""What many messages have to follow one request: they go out a few at a time, and nobody waits for the last of them."""

from __future__ import annotations

import gc

import pytest

from kaasq_workers.front.window import UNDER_WAY, Window
from kaasq_workers.link import Driven, Following
from tests.support.front_bench import Bench

MANY = 3 * UNDER_WAY


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.loop.confirm = "later"
    return made


def steps(count: int = MANY) -> list[Following]:
    return [Following(f"one+{number}", "p", b"{}", quiet=True) for number in range(1, count + 1)]


def published(bench: Bench) -> list[str | None]:
    return [message.message_id for exchange, _, message in bench.loop.published if exchange == "kaasq.requests"]


def idle(bench: Bench) -> bool:
    """Whether a worker that drains would be done."""
    told: list[bool] = []
    bench.front.when_idle(lambda: told.append(True))
    return bool(told)


def test_steps_that_are_due_go_out_some_at_a_time_in_order_and_then_the_request_is_acked(bench):
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=steps())
    assert len(bench.loop.unconfirmed) == UNDER_WAY
    while bench.loop.unconfirmed:
        assert taken.settled is None
        assert len(bench.loop.unconfirmed) <= UNDER_WAY
        bench.loop.confirm_all()
    assert taken.settled == "ack"
    assert published(bench) == [f"one+{number}" for number in range(1, MANY + 1)]


@pytest.mark.parametrize("count", [0, 3])
def test_what_was_published_is_freed_without_the_collector(bench, count):
    def answer(name: str) -> None:
        bench.take(name)
        bench.answer(*bench.executor.received(), then=steps(count))
        bench.loop.confirm_all()

    answer("one")
    gc.collect()
    gc.disable()
    try:
        answer("two")
        assert [each for each in gc.get_objects() if isinstance(each, Window)] == []
    finally:
        gc.enable()


def test_others_are_answered_between_them(bench):
    bench.take("one")
    bench.answer(*bench.executor.received(), then=steps())
    before = len(bench.loop.published)
    bench.take("two")
    bench.answer(*bench.executor.received())
    assert [exchange for exchange, *_ in bench.loop.published[before:]] == ["kaasq.replies", "kaasq.events"]


def test_steps_that_are_published_again_go_out_some_at_a_time(bench):
    bench.executor.channel.send([Driven("guest", steps())])
    bench.loop.turn()
    assert len(bench.loop.unconfirmed) == UNDER_WAY
    while bench.loop.unconfirmed:
        bench.loop.confirm_all()
    assert len(published(bench)) == MANY


def test_a_broker_that_is_closed_meanwhile_is_given_no_more_and_that_is_said_once(bench, capsys):
    taken = [bench.take(key) for key in ("one", "two")]
    for job in bench.executor.received():
        bench.answer(job, then=steps())
    bench.executor.channel.send([Driven("guest", steps())])
    bench.loop.turn()
    before = len(bench.loop.published)
    bench.loop.close()
    assert len(bench.loop.published) == before
    assert capsys.readouterr().err.count("publish.failed") == 1
    assert [each.settled for each in taken] == ["requeue"] * 2  # none of it is lost: others are given it
    assert idle(bench)


def test_all_go_out_where_each_is_confirmed_at_once(bench):
    bench.loop.confirm = None
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=steps())
    assert len(published(bench)) == MANY
    assert taken.settled == "ack"


def test_a_request_is_kept_of_which_not_all_could_be_made(bench):
    bench.loop.break_on = f"one+{UNDER_WAY + 5}"
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=steps())
    bench.loop.confirm_all()
    assert taken.settled is None
    bench.loop.confirm_all()
    assert taken.settled == "reject"
    assert len(published(bench)) == UNDER_WAY + 4  # none after the one that broke
    assert idle(bench)


def test_a_request_is_kept_of_which_the_first_message_could_not_be_sent(bench):
    bench.loop.break_on = "one"
    taken = bench.take("one")
    bench.answer(*bench.executor.received(), then=steps())
    assert (taken.settled, published(bench)) == ("reject", [])
    assert idle(bench)


def test_steps_that_are_published_again_end_with_one_that_cannot_be(bench):
    bench.loop.break_on = "one+5"
    bench.executor.channel.send([Driven("guest", steps())])
    bench.loop.turn()
    assert len(published(bench)) == 4
    bench.loop.confirm_all()
    assert len(published(bench)) == 4
