"""The requests that an executor has, in order: waiting, on their way, ended and not yet committed. Pure."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from kaasq_workers.executor.outcomes import Ended
from kaasq_workers.link import Job

F = TypeVar("F")


class Line(Generic[F]):
    """Decides which request may start. An ``F`` is what stands for one on its way."""

    def __init__(self, most: int) -> None:
        """``most``: requests on their way at once."""
        self._most = most
        self.waiting: deque[Job] = deque()
        self.flying: dict[int, tuple[Ended, F]] = {}  # by tag, oldest first
        self.ended: list[Ended] = []
        self._alone = False  # who is on its way is
        self._held = False  # who is first does not fit beside those on their way

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.flying or self.ended)

    def next(self) -> Job | None:
        """The request that may start now; it leaves the line. None if there is none, or something has to end first."""
        if not self.waiting or len(self.flying) >= self._most:
            return None
        first = self.waiting[0]
        if not self.flying:
            self._held = False
        occupied = bool(self.flying or self.ended)
        if occupied and (first.alone or self._alone or self._held or self._repeated(first)):
            return None
        self._alone = first.alone
        return self.waiting.popleft()

    def started(self, ended: Ended, flight: F) -> None:
        """It is on its way."""
        self.flying[ended.job.tag] = (ended, flight)

    def hold(self, job: Job) -> None:
        """It does not fit beside those on their way: first again, and nobody starts until those have ended.

        So small requests do not pass it for ever, and wait no longer than for what is running.
        """
        self.waiting.appendleft(job)
        self._held = True

    def landed(self, tag: int) -> None:
        """It has ended."""
        ended, _ = self.flying.pop(tag)
        self.ended.append(ended)

    def take_ended(self) -> list[Ended]:
        """What has ended, to be committed together."""
        ended, self.ended = self.ended, []
        return ended

    def _repeated(self, job: Job) -> bool:
        """A repeat of a request must find its outcome."""
        others = (*(ended for ended, _ in self.flying.values()), *self.ended)
        return any(each.job.id == job.id and each.job.tenant == job.tenant for each in others)
