"""Which request an executor may start: several at once, repeats and suspects behind the others, large ones in time."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.line import Line
from kaasq_workers.link import Job


def job(tag: int, *, key: str | None = None, alone: bool = False) -> Job:
    return Job(tag, "guest", key or f"id-{tag}", b"", None, None, alone=alone)


def line(*jobs: Job, most: int = 3) -> Line[str]:
    made: Line[str] = Line(most)
    made.add(jobs)
    return made


def start(made: Line[str]) -> list[int]:
    """Start all that may start: their tags."""
    tags = []
    while (each := made.next()) is not None:
        made.started(Ended(job=each, reply_type=""), "flight")
        tags.append(each.tag)
    return tags


def commit(made: Line[str]) -> None:
    """All that has ended."""
    made.committed([each.job.tag for each in made.take_ended()])


def test_as_many_as_fit_are_on_their_way_at_once():
    made = line(*(job(each) for each in range(1, 6)))
    assert start(made) == [1, 2, 3]
    made.landed(2)
    assert start(made) == [4]
    assert [each.job.tag for each in made.take_ended()] == [2]


def test_a_repeat_waits_until_its_first_is_committed():
    made = line(job(1, key="same"), job(2, key="same"))
    assert start(made) == [1]
    made.landed(1)
    assert start(made) == []  # its outcome is not in the store yet
    (first,) = made.take_ended()
    assert start(made) == []  # nor is it while it is being committed
    made.committed([first.job.tag])
    assert start(made) == [2]


def test_another_tenants_request_with_the_same_id_is_no_repeat():
    other = Job(2, "other", "same", b"", None, None)
    assert start(line(job(1, key="same"), other)) == [1, 2]


def test_a_suspect_runs_with_nothing_else_on_its_way_or_uncommitted():
    made = line(job(1), job(2, alone=True), job(3))
    assert start(made) == [1]
    made.landed(1)
    assert start(made) == []
    commit(made)
    assert start(made) == [2]
    made.landed(2)
    (suspect,) = made.take_ended()
    assert start(made) == []
    assert not made.flying
    made.committed([suspect.job.tag])
    assert start(made) == [3]


def test_who_does_not_fit_beside_others_is_next_once_they_have_ended_and_is_not_passed():
    made = line(job(1), job(2), job(3))
    first, large = made.next(), None
    assert first is not None
    made.started(Ended(job=first, reply_type=""), "flight")
    large = made.next()
    assert large is not None
    made.hold(large)
    assert start(made) == []  # the small one behind it does not pass
    made.landed(1)
    again = made.next()
    assert again is large
    made.started(Ended(job=large, reply_type=""), "flight")
    assert start(made) == [3]  # and is not held any longer than that


def of(tenant: str, tag: int, **changes) -> Job:
    return msgspec.structs.replace(job(tag, **changes), tenant=tenant)


def test_tenants_start_in_turn_each_ones_requests_in_their_order():
    made = line(*(of("ann", tag) for tag in range(1, 1001)), of("bob", 2001), of("eve", 3001), of("bob", 2002), most=7)
    assert start(made) == [1, 2001, 3001, 2, 2002, 3, 4]
    made.add([of("bob", 2003)])
    made.landed(1)
    made.landed(2)
    assert start(made) == [5, 2003]


def test_a_tenants_repeat_holds_up_nobody_else():
    made = line(of("ann", 1, key="same"), of("ann", 2, key="same"), of("bob", 3))
    assert start(made) == [1, 3]


def test_a_suspect_is_not_passed_by_other_tenants():
    made = line(of("ann", 1), of("ann", 2, alone=True), of("bob", 3), of("bob", 4))
    assert start(made) == [1, 3]
    made.landed(1)
    made.landed(3)
    commit(made)
    assert start(made) == [2]
    assert made.busy


def test_one_that_did_not_fit_is_first_again_whosever_turn_it_is():
    made = line(of("ann", 1), of("bob", 2), of("ann", 3))
    assert start(line()) == []
    first = made.next()
    assert first is not None
    made.started(Ended(job=first, reply_type=""), "flight")
    large = made.next()
    assert large is not None
    assert large.tag == 2
    made.hold(large)
    made.landed(1)
    assert start(made) == [2, 3]


@settings(deadline=None)  # up to 600 turns an example, on machines that have other things to do
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.booleans()), max_size=30),
    st.integers(1, 4),
    st.randoms(use_true_random=False),
)
def test_everybody_starts_once_and_first_come_first_served_whatever_happens(wanted, most, random):
    jobs = [job(tag, key=f"id-{key}", alone=alone) for tag, (key, alone, _) in enumerate(wanted, 1)]
    large = {tag for tag, (_, _, large) in enumerate(wanted, 1) if large}
    made = line(*jobs, most=most)
    started: list[int] = []
    for _ in range(20 * len(jobs) + 1):
        each = made.next()
        if each is not None and each.tag in large and made.flying:
            made.hold(each)
        elif each is not None:
            made.started(Ended(job=each, reply_type=""), "flight")
            started.append(each.tag)
            assert len(made.flying) <= most
            if each.alone:
                assert len(made.flying) == 1
        elif made.flying:
            made.landed(random.choice(list(made.flying)))
        else:
            commit(made)
    assert started == [each.tag for each in jobs]
    assert not made.flying


def test_it_knows_for_how_long_the_first_has_waited():
    made: Line[str] = Line(1)
    assert made.waited_s(9.0) == 0.0
    made.add([of("ann", 1)], 1.0)
    made.add([of("bob", 2)], 3.0)
    assert made.waited_s(9.0) == 8.0
    first = made.next()
    assert first is not None
    assert made.waited_s(9.0) == 6.0
    made.hold(first)  # it waits on
    assert made.waited_s(9.0) == 8.0
