"""When a plan's launches are recorded, replayed and brought up to date: with a stream that only counts."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import pytest

from kaasq_workers.executor.launching import RECORDED_LAUNCHES, Launches


class CountingStep:
    """A step that notes on which stream it was queued; ``value`` stands for its arguments."""

    def __init__(self, name: str, *, updatable: bool = True) -> None:
        self.name, self.updatable, self.value = name, updatable, 0

    def launch(self, stream):
        stream.queued.append((self.name, self.value))

    def update(self, recording, index):
        if self.updatable:
            recording.launches[index] = (self.name, self.value)
        return self.updatable


class CountingRecording:
    def __init__(self, launches):
        self.launches, self.replays = launches, 0

    def replay(self, stream):
        self.replays += 1
        stream.queued.extend(self.launches)


class CountingStream:
    """A device that can record, or cannot."""

    def __init__(self, *, records: bool = True) -> None:
        self.queued: list[tuple[str, int]] = []
        self.recordings: list[CountingRecording] = []
        self.asked = 0
        self._records = records

    def record(self, calls):
        self.asked += 1
        if not self._records:
            return None
        inner = CountingStream()
        for call in calls:
            call(inner)
        self.recordings.append(CountingRecording(inner.queued))
        return self.recordings[-1]

    def take(self) -> list[tuple[str, int]]:
        queued, self.queued = self.queued, []
        return queued


def queue(launches: Launches, stream: CountingStream, changed: AbstractSet[int] = frozenset(), proceed=None) -> None:
    launches.prepare(stream, changed)
    launches.queue(stream, proceed)


def steps(count: int, **kinds) -> list[CountingStep]:
    return [CountingStep(f"s{index}", **kinds) for index in range(count)]


@pytest.mark.parametrize("iterations", [1, 2, 3, 249, 250, 251, 500, 1000, 1001])
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("records", [True, False])
def test_the_same_launches_are_queued_in_the_same_order_however(count, iterations, records):
    stream, launches = CountingStream(records=records), Launches(steps(count), iterations)
    for _ in range(3):
        queue(launches, stream)
        assert stream.take() == [(f"s{index}", 0) for _ in range(iterations) for index in range(count)]


def test_what_runs_once_is_not_recorded_and_what_runs_again_is():
    stream, launches = CountingStream(), Launches(steps(10), 1)
    queue(launches, stream)
    assert stream.recordings == []
    queue(launches, stream)
    queue(launches, stream)
    (recording,) = stream.recordings
    assert recording.replays == 2


def test_many_iterations_are_recorded_at_once_and_replayed():
    stream, launches = CountingStream(), Launches(steps(2), 3000)
    queue(launches, stream)
    (recording,) = stream.recordings
    assert (len(recording.launches), recording.replays) == (RECORDED_LAUNCHES, 6)


def test_a_single_launch_is_never_recorded():
    stream, launches = CountingStream(), Launches(steps(1), 1)
    for _ in range(3):
        queue(launches, stream)
    assert stream.asked == 0


def test_a_device_that_does_not_record_is_asked_once():
    stream, launches = CountingStream(records=False), Launches(steps(10), 1)
    for _ in range(5):
        queue(launches, stream)
    assert stream.asked == 1


def test_changed_arguments_reach_every_iteration_of_the_recording():
    stream = CountingStream()
    made = steps(2)
    launches = Launches(made, 10)
    for _ in range(2):
        queue(launches, stream)
    stream.take()
    made[1].value = 7
    queue(launches, stream, {1})
    assert stream.take() == [("s0", 0), ("s1", 7)] * 10
    assert len(stream.recordings) == 1


def test_what_cannot_be_updated_is_recorded_anew():
    stream = CountingStream()
    made = steps(5, updatable=False)
    launches = Launches(made, 1)
    for _ in range(2):
        queue(launches, stream)
    stream.take()
    made[3].value = 7
    queue(launches, stream, {3})
    assert stream.take() == [("s0", 0), ("s1", 0), ("s2", 0), ("s3", 7), ("s4", 0)]
    assert len(stream.recordings) == 2


@pytest.mark.parametrize("updatable", [True, False])
def test_arguments_that_change_each_time_are_not_brought_into_the_recording_until_they_settle(updatable):
    stream = CountingStream()
    made = steps(4, updatable=updatable)
    launches = Launches(made, 1)
    for _ in range(2):
        queue(launches, stream)
    stream.take()
    (recording,) = stream.recordings
    before = recording.replays
    for value in range(1, 4):
        for each in made:
            each.value = value
        queue(launches, stream, {0, 1, 2, 3})
        assert stream.take() == [(f"s{index}", value) for index in range(4)]
    assert recording.replays == before
    assert len(stream.recordings) == 1
    for _ in range(2):
        queue(launches, stream)
        assert stream.take() == [(f"s{index}", 3) for index in range(4)]
    assert len(stream.recordings) == (1 if updatable else 2)
    assert stream.recordings[-1].replays >= 2


def test_it_can_be_ended_between_launches_and_between_replays():
    stream, launches = CountingStream(), Launches(steps(2), 3000)
    calls = 0

    def proceed():
        nonlocal calls
        calls += 1
        if calls == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        queue(launches, stream, set(), proceed)
    assert len(stream.take()) == 2 * RECORDED_LAUNCHES


def test_watched_launches_are_queued_one_by_one():
    stream, launches = CountingStream(), Launches(steps(5), 2)
    seen: list[int] = []
    launches.queue_watched(stream, lambda: seen.append(len(stream.queued)))
    assert seen == list(range(1, 11))
    assert stream.asked == 0
