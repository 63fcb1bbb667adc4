"""Queues a plan's launches: one by one, or, where the device can record them, as one replay of many.

A recording holds addresses and scalars as they were. What has changed since is updated in it, launch by launch; where
that is not possible it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from kaasq_workers.devices.protocol import Recording, Stream
from kaasq_workers.executor.steps import Step

RECORD_FROM = 4  # launches: fewer are queued as fast one by one
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

    @property
    def weight(self) -> int:
        """How many launches it holds, recorded ones included."""
        return len(self._steps) * self._unrolled

    def queue(self, stream: Stream, changed: AbstractSet[int], proceed: Check | None = None) -> None:
        """Queue all of them. ``changed``: the steps whose arguments are others than the last time.

        ``proceed`` is called now and then, and ends it by raising.
        """
        # What may be needed only once is recorded only if the recording is replayed within this one time.
        if self._worthwhile and (self._queued_before or self._iterations >= 2 * self._unrolled):
            self._record(stream, changed)
        self._queued_before = True
        rest = self._iterations
        if self._recording is not None:
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
        """Bring the recording up to date, or make one; without one afterwards, there is none to be had."""
        if self._recording is not None and all(self._update(index) for index in changed):
            return
        self._recording = stream.record([step.launch for step in self._steps] * self._unrolled)
        self._worthwhile = self._recording is not None

    def _update(self, index: int) -> bool:
        assert self._recording is not None
        count = len(self._steps)
        positions = range(index, count * self._unrolled, count)
        return all(self._steps[index].update(self._recording, each) for each in positions)
