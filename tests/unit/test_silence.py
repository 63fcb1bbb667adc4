"""When an executor counts as stuck, and that a watcher who was away himself does not take that for silence."""

from __future__ import annotations

import pytest

from kaasq_workers.front.silence import MOST_S, StartPatience, Vigil


def looked(times: list[float], **signs: list[int] | list[bool]) -> list[str | None]:
    """What a vigil says at those times, of signs of life that repeat their last value."""
    vigil = Vigil(start_timeout_s=3.0, timeout_s=2.0)
    said = []
    for i, now in enumerate(times):
        fields = {"up": [True], "turns": [0], "pulse": [1], "running": [False], **signs}
        said.append(vigil.look(**{name: each[min(i, len(each) - 1)] for name, each in fields.items()}, now_s=now))
    return said


SECONDS = [float(each) for each in range(6)]
MOVING = list(range(1, 100))


def test_what_moves_is_not_stuck():
    assert looked(SECONDS, turns=MOVING, pulse=MOVING) == [None] * 6


def test_a_process_that_stands_still_is_found_whatever_it_runs():
    for running in ([True], [False]):
        assert looked(SECONDS, turns=MOVING, running=running)[2:4] == [None, "its process stood still for 2 s"]


def test_a_loop_that_stands_still_is_found_only_while_nothing_runs():
    (*before, found, _, _) = looked(SECONDS, pulse=MOVING)
    assert before == [None] * 3
    assert found is not None
    assert found.startswith("it did nothing for 2 s")
    assert looked(SECONDS, pulse=MOVING, running=[True]) == [None] * 6


def test_time_that_a_request_took_does_not_count_for_the_loop():
    running = [True] * 3 + [False] * 3
    assert looked(SECONDS, pulse=MOVING, running=running) == [None] * 6


def test_one_that_does_not_get_ready_is_found():
    assert looked(SECONDS, pulse=MOVING, up=[False])[3:5] == [None, "it was not ready within 3 s"]


@pytest.mark.parametrize("gap_s", [10.0, 1e6])
def test_a_watcher_that_was_away_counts_no_more_than_one_look(gap_s):
    assert looked([0.0, MOST_S, MOST_S + gap_s]) == [None] * 3


def test_a_first_start_has_all_the_time_there_is():
    patience = StartPatience(120.0)
    assert patience.seconds == 120.0
    patience.late()
    assert patience.seconds == 120.0


@pytest.mark.parametrize(("took_s", "seconds"), [(0.6, 15.0), (3.0, 30.0), (50.0, 120.0)])
def test_later_ones_have_a_multiple_of_what_it_took(took_s, seconds):
    patience = StartPatience(120.0)
    patience.ready(took_s)
    assert patience.seconds == seconds
    patience.ready(0.1)  # the slowest counts
    assert patience.seconds == seconds
    for _ in range(5):
        patience.ready(0.1)  # of the last few
    assert patience.seconds == 15.0


def test_each_that_is_late_gives_the_next_twice_as_long_up_to_all_there_is():
    patience, given = StartPatience(100.0), []
    patience.ready(1.0)
    for _ in range(5):
        given.append(patience.seconds)
        patience.late()
    assert given == [15.0, 30.0, 60.0, 100.0, 100.0]
    for _ in range(2000):
        patience.late()
    assert patience.seconds == 100.0
    patience.ready(2.0)
    assert patience.seconds == 20.0
