"""Who is blamed when an executor dies."""

from hypothesis import given
from hypothesis import strategies as st

from kaasq_workers.front.blame import KILLS_UNTIL_DEAD, Suspicion, judge
from kaasq_workers.vitals import next_tag


def test_the_running_request_is_suspected_and_runs_alone_next():
    suspicions: dict[int, Suspicion] = {}
    verdict = judge([1, 2, 3], {2}, suspicions)
    assert verdict.again == [1, 2, 3]
    assert verdict.dead == []
    assert suspicions[2].kills == 1
    assert suspicions[2].alone
    assert suspicions[1].kills == suspicions[3].kills == 0
    assert not suspicions[1].alone


def test_a_second_kill_is_one_too_many():
    suspicions: dict[int, Suspicion] = {}
    judge([1, 2], {2}, suspicions)
    verdict = judge([2], {2}, suspicions)
    assert verdict.dead == [2]


def test_when_nobody_is_known_to_have_been_running_everybody_goes_alone_and_nobody_is_blamed():
    suspicions: dict[int, Suspicion] = {}
    verdict = judge([4, 5], set(), suspicions)
    assert verdict.again == [4, 5]
    assert all(suspicions[tag].alone and suspicions[tag].kills == 0 for tag in (4, 5))


def test_the_only_request_in_flight_is_the_culprit_once_it_ran_alone_even_if_it_was_not_seen_running():
    suspicions: dict[int, Suspicion] = {}
    judge([7], set(), suspicions)
    assert (suspicions[7].kills, suspicions[7].alone) == (0, True)  # the executor may have been dead as it was sent
    judge([7], set(), suspicions)
    assert judge([7], set(), suspicions).dead == [7]


def test_a_tag_that_was_answered_before_the_death_is_not_blamed():
    suspicions: dict[int, Suspicion] = {}
    verdict = judge([2, 3], {1}, suspicions)
    assert verdict.again == [2, 3]
    assert 1 not in suspicions


def test_of_several_that_were_running_each_goes_alone_and_none_is_blamed():
    suspicions: dict[int, Suspicion] = {}
    verdict = judge([1, 2, 3, 4], {2, 3}, suspicions)
    assert (verdict.again, verdict.dead) == ([1, 2, 3, 4], [])
    assert [tag for tag in suspicions if suspicions[tag].alone] == [2, 3]
    assert all(each.kills == 0 for each in suspicions.values())
    judge([2], {2}, suspicions)  # the one that did it
    assert judge([2], {2}, suspicions).dead == [2]
    assert judge([3], {3}, suspicions).dead == []  # the other has bad luck once


def test_what_an_executor_went_on_with_unheard_has_the_one_before_it_run_alone_and_counts_for_nobody():
    suspicions: dict[int, Suspicion] = {}
    unheard = next_tag(next_tag(2) or 0) or 0
    verdict = judge([1, 2, 3], {unheard}, suspicions)
    assert (verdict.again, verdict.dead) == ([1, 2, 3], [])
    assert [tag for tag in suspicions if suspicions[tag].alone] == [2]
    assert suspicions[2].kills == 0
    judge([1, 2], {unheard}, suspicions)
    assert judge([2], {2}, suspicions).dead == []  # its own first
    assert judge([2], {2}, suspicions).dead == [2]


def test_who_ran_beside_what_was_unheard_is_not_the_only_suspect():
    suspicions: dict[int, Suspicion] = {}
    judge([1, 2], {1, next_tag(2) or 0}, suspicions)
    assert all(suspicions[tag].alone and suspicions[tag].kills == 0 for tag in (1, 2))


@given(st.sets(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 30))
def test_one_killer_among_innocents_is_found_within_three_deaths(tags, choice):
    """Whatever the order: the killer dies, nobody else does."""
    killer = sorted(tags)[choice % len(tags)]
    pending = sorted(tags)
    suspicions: dict[int, Suspicion] = {}
    dead: list[int] = []
    for _ in range(KILLS_UNTIL_DEAD):
        verdict = judge(pending, {killer}, suspicions)
        dead += verdict.dead
        pending = [tag for tag in verdict.again if tag == killer]  # the innocents succeed before or after it
    assert dead == [killer]
