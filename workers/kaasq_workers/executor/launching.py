"""Queues a plan's launches: one by one, or, where the device can record them, as one replay of many.

A recording holds addresses and scalars as they were. What has changed since is updated in it, launch by launch; where
that is not possible it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from kaasq_workers.devices.protocol import Recording, Stream
from kaasq_workers.executor.steps import Step

RECORD_FROM = 2  # launches: a single one is queued as fast by itself
# What it costs to bring a recorded launch up to date, and to record one anew, in launches.
UPDATE_COST = 1.5
RECORD_COST = 3.0
RECORDED_LAUNCHES = 1000  # in one recording at most, unless a single iteration has more; further ones replay it

Check = Callable[[], None]


class Launches:
    """The launches of one plan, in order, and their iterations."""

    def __init__(self, steps: Sequence[Step], iterations: int) -> None:
        self._steps = steps
        self._iterations = iterations
        self._unrolled = max(1, min(iterations, RECORDED_LAUNCHES // len(steps)))  # iterations in one recording
        self._worthwhile = len(steps) * iterations >= RECORD_FROM
        self._queued_before = False
        self._recording: Recording | None = None
        self._stale: set[int] = set()  # steps whose arguments the recording does not have
        self._updatable = True

    @property
    def weight(self) -> int:
        """How many launches it holds, recorded ones included."""
        return len(self._steps) * self._unrolled

    def prepare(self, stream: Stream, changed: AbstractSet[int]) -> None:
        """Have them ready to be queued. ``changed``: the steps whose arguments are others than the last time."""
        # What may be needed only once is recorded only if the recording is replayed within this one time.
        if self._worthwhile and (self._queued_before or self._iterations >= 2 * self._unrolled):
            self._record(stream, changed)
        self._queued_before = True

    def queue(self, stream: Stream, proceed: Check | None = None) -> None:
        """Queue all of them. ``proceed`` is called between them now and then, and ends it by raising."""
        rest = self._iterations
        if self._recording is not None and not self._stale:
            replays, rest = divmod(self._iterations, self._unrolled)
            for _ in range(replays):
                if proceed is not None:
                    proceed()
                self._recording.replay(stream)
        for _ in range(rest):
            for step in self._steps:
                if proceed is not None:
                    proceed()
                step.launch(stream)

    def queue_watched(self, stream: Stream, after: Check, proceed: Check | None = None) -> None:
        """Queue them one by one; ``after`` is called behind each."""
        for _ in range(self._iterations):
            for step in self._steps:
                if proceed is not None:
                    proceed()
                step.launch(stream)
                after()

    def _record(self, stream: Stream, changed: AbstractSet[int]) -> None:
        """Bring the recording up to date, or make one; without one afterwards, there is none to be had.

        It is left out of date where queuing the launches themselves costs less, as when all arguments are others each
        time. Once they stay the same, it pays.
        """
        if self._recording is not None:
            self._stale |= changed
            if not self._stale:
                return
            cost = len(self._stale) * UPDATE_COST if self._updatable else len(self._steps) * RECORD_COST
            if changed and cost * self._unrolled > len(self._steps) * self._iterations:
                return
            self._updatable = self._updatable and all(self._update(index) for index in self._stale)
            if self._updatable:
                self._stale.clear()
                return
        self._stale.clear()
        self._recording = stream.record([step.launch for step in self._steps] * self._unrolled)
        self._worthwhile = self._recording is not None

    def _update(self, index: int) -> bool:
        assert self._recording is not None
        count = len(self._steps)
        positions = range(index, count * self._unrolled, count)
        return all(self._steps[index].update(self._recording, each) for each in positions)
