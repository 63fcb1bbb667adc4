"""The requests that an executor has: waiting, on their way, ended and not yet committed. Pure.

Tenants start in turn, each one's requests in their order: a thousand of one do not hold up another's only one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from kaasq_workers.executor.ended import Ended
from kaasq_workers.link import Job

F = TypeVar("F")


class Line(Generic[F]):
    """Decides which request may start. An ``F`` is what stands for one on its way."""

    def __init__(self, most: int) -> None:
        """``most``: requests on their way at once."""
        self._most = most
        # By tenant, each since when; the first tenant's turn is next.
        self._waiting: OrderedDict[str, deque[tuple[Job, float]]] = OrderedDict()
        self._left_since_s = 0.0  # since when the last that left had been waiting
        self.flying: dict[int, tuple[Ended, F]] = {}  # by tag, oldest first
        self.ended: list[Ended] = []
        self._uncommitted: dict[int, tuple[str, str]] = {}  # tenant and id of those taken to be committed, by tag
        self._unknown: Counter[tuple[str, str]] = Counter()  # the same by those: a repeat would not find its outcome
        self._alone = False  # who is on its way is
        self._held = False  # who is first does not fit beside those on their way

    @property
    def busy(self) -> bool:
        """Whether there is anything to do here: what is being committed is done by others."""
        return bool(self._waiting or self.flying or self.ended)

    @property
    def waiting(self) -> bool:
        """Whether there is a request that has not started."""
        return bool(self._waiting)

    def waited_s(self, now_s: float) -> float:
        """For how long the one has waited that has waited longest; 0 if none does."""
        return max([now_s - jobs[0][1] for jobs in self._waiting.values()], default=0.0)

    def add(self, jobs: Iterable[Job], now_s: float = 0.0) -> None:
        """They wait from now on; a tenant who had none waiting comes after those who had."""
        for job in jobs:
            self._waiting.setdefault(job.tenant, deque()).append((job, now_s))

    def next(self) -> Job | None:
        """The request that may start now; it leaves the line. None if there is none, or something has to end first."""
        if not self._waiting or len(self.flying) >= self._most:
            return None
        if not self.flying:
            self._held = False
        occupied = bool(self.flying or self.ended or self._uncommitted)
        if occupied and (self._alone or self._held):
            return None
        for tenant, jobs in self._waiting.items():
            first, _ = jobs[0]
            if occupied and first.alone:
                return None  # nobody passes it, or it would never be alone
            if occupied and self._repeated(first):
                continue
            self._alone = first.alone
            self._leave(tenant, jobs)
            return first
        return None

    def started(self, ended: Ended, flight: F) -> None:
        """It is on its way."""
        self.flying[ended.job.tag] = (ended, flight)

    def hold(self, job: Job) -> None:
        """It does not fit beside those on their way: first again, and nobody starts until those have ended.

        So small requests do not pass it for ever, and wait no longer than for what is running.
        """
        self._waiting.setdefault(job.tenant, deque()).appendleft((job, self._left_since_s))
        self._waiting.move_to_end(job.tenant, last=False)
        self._held = True

    def landed(self, tag: int) -> None:
        """It has ended."""
        ended, _ = self.flying.pop(tag)
        self.ended.append(ended)

    def take_ended(self) -> list[Ended]:
        """What has ended, to be committed: until it is ``committed``, repeats and suspects wait for it."""
        ended, self.ended = self.ended, []
        for each in ended:
            request = each.job.tenant, each.job.id
            self._uncommitted[each.job.tag] = request
            self._unknown[request] += 1
        return ended

    def committed(self, tags: Iterable[int]) -> None:
        """Their outcomes are durable."""
        for tag in tags:
            request = self._uncommitted.pop(tag, None)
            if request is not None:
                self._unknown[request] -= 1
                if not self._unknown[request]:
                    del self._unknown[request]

    def _leave(self, tenant: str, jobs: deque[tuple[Job, float]]) -> None:
        """The first of a tenant's requests leaves; the others wait for its next turn."""
        _, self._left_since_s = jobs.popleft()
        if jobs:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]

    def _repeated(self, job: Job) -> bool:
        """A repeat of a request must find its outcome."""
        if (job.tenant, job.id) in self._unknown:
            return True
        for ended in (*(each for each, _ in self.flying.values()), *self.ended):
            if ended.job.id == job.id and ended.job.tenant == job.tenant:
                return True
        return False
