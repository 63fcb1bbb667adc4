"""Has what ended committed while the executor runs what is next: neither a slow disk nor a long request is waited for.

A thread of its own does it, one group after the other: what ends during a commit shares the next one. So outcomes
become durable in the order in which they were added, and nobody is told of one before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from kaasq_workers.executor.ended import Ended
from kaasq_workers.link import Job

GROUP_SIZE = 64  # outcomes in one transaction at most
GROUP_BYTES = 64 << 20  # of what follows them, which is made for all of a group before it is sent
GROUP_TIME_S = 2e-3  # a group is committed once running it has taken this long
LOOK_S = 2e-3  # so often the thread looks whether the executor has begun something that keeps it from that
LOOKS = 25  # without need, until it looks no more before it is asked to
HERE_S = 1e-3  # a commit that takes longer, as it goes with this disk, is the thread's, though nobody waits just now
LATELY = 8  # commits over which what one takes is averaged
STUCK_S = 1.0  # a commit that takes so long may never end, which the front has to see


class Durable(NamedTuple):
    """Tags whose outcomes are durable and told, and what goes on from them here."""

    tags: list[int]
    jobs: list[Job]


class Commits:
    """Of one executor. All is called by the thread that runs requests, but for ``commit``, which no two call at once.

    ``commit`` makes a group durable, tells the front, and gives what goes on here; what it raises, ``learn`` does.
    ``at_once``: whoever wants a group committed does it himself unless another one is being committed: without a disk
    to wait for, that takes less than to wake the thread. With one, he does if nobody waits for him and it is fast.
    """

    def __init__(self, commit: Callable[[list[Ended]], list[Job]], *, at_once: bool) -> None:
        self._commit = commit
        self._at_once = at_once
        self._changed = threading.Condition()
        self._pending: list[Ended] = []
        self._nbytes = 0  # of what follows those
        self._since_s = 0.0  # since when the first of them is there
        self._looks = 0  # that the thread takes, until it waits to be asked
        self._wanted = self._closing = False
        self._working_since_s: float | None = None
        self._takes_s = 0.0  # what a commit takes, of late
        self._awaited: set[int] = set()
        self._durable: deque[Durable] = deque()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="kaasq-commits", daemon=True)
        self._thread.start()

    # -- for the executor ------------------------------------------------------------------------------------------

    def add(self, ended: Ended) -> None:
        """It has ended."""
        with self._changed:
            if not self._pending:
                self._since_s = time.monotonic()
            self._pending.append(ended)
            self._nbytes += ended.follow_bytes
            if ended.awaited:
                self._awaited.add(ended.job.tag)

    @property
    def pending(self) -> bool:
        """Whether there is something that nobody commits yet."""
        return bool(self._pending)

    @property
    def full(self) -> bool:
        """Whether those that are pending make up a group, so that no more may be begun."""
        return len(self._pending) >= GROUP_SIZE or self._nbytes > GROUP_BYTES

    @property
    def ripe(self) -> bool:
        """Whether those that are pending have waited for long enough."""
        return self.full or (self.pending and time.monotonic() - self._since_s > GROUP_TIME_S)

    @property
    def news(self) -> bool:
        """Whether there is something to learn."""
        return bool(self._durable) or self._failure is not None

    @property
    def awaited(self) -> bool:
        """Whether something could begin here once what was added is durable."""
        return bool(self._awaited)

    @property
    def working(self) -> bool:
        """Whether a group is being committed."""
        return self._working_since_s is not None

    @property
    def stuck(self) -> bool:
        """Whether a commit takes longer than any should."""
        since_s = self._working_since_s
        return since_s is not None and time.monotonic() - since_s > STUCK_S

    def lend(self) -> None:
        """Something begins that may take long: the thread sees to what is pending if it does.

        It looks from time to time, and is not asked for each group: waking it costs more than most requests.
        """
        if self._pending and not self._looks:
            with self._changed:
                self._looks = LOOKS
                self._changed.notify_all()

    def flush(self, *, alone: bool = False) -> None:
        """What is pending is to be committed now. ``alone``: nothing else is to be done."""
        with self._changed:
            if not self._pending:
                return
            here = self._at_once or (alone and self._takes_s < HERE_S)
            if not here or self._working_since_s is not None:
                self._wanted = True
                self._changed.notify_all()
                return
            group = self._take()
        self._work(group)

    def learn(self) -> Iterator[Durable]:
        """What has become durable since the last time. Raises what committing did."""
        if self._failure is not None:
            raise self._failure
        while self._durable:
            yield self._durable.popleft()

    def wait(self, timeout_s: float) -> None:
        """Until there is something to learn, or nothing is being committed."""
        with self._changed:
            if not self.news and (self._pending or self._working_since_s is not None):
                self._changed.wait(timeout_s)

    def close(self) -> None:
        """Have all that is pending committed, and wait for it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self._failure is not None:
            raise self._failure

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Wait for a group and commit it, and keep nothing of it; False if there will be none any more."""
        with self._changed:
            while not self._due():
                if self._failure is not None or (self._closing and not self._pending):
                    return False
                if not self._changed.wait(LOOK_S if self._looks else None) and not self._pending:
                    self._looks -= 1
            group = self._take()
        self._work(group)
        return True

    def _due(self) -> bool:
        if not self._pending or self._working_since_s is not None or self._failure is not None:
            return False
        late = time.monotonic() - self._since_s > GROUP_TIME_S + LOOK_S / 2  # the executor itself would have, by now
        return self._wanted or self._closing or late

    # -- either ----------------------------------------------------------------------------------------------------

    def _take(self) -> list[Ended]:
        group, self._pending, self._nbytes = self._pending, [], 0
        self._wanted = False
        self._working_since_s = time.monotonic()
        return group

    def _work(self, group: list[Ended]) -> None:
        tags = [each.job.tag for each in group]
        jobs: list[Job] = []
        try:
            jobs = self._commit(group)
        except BaseException as error:  # noqa: BLE001 - the executor raises it
            self._failure = error
        with self._changed:
            assert self._working_since_s is not None
            self._takes_s += (time.monotonic() - self._working_since_s - self._takes_s) / LATELY
            self._working_since_s = None
            self._awaited.difference_update(tags)
            self._durable.append(Durable(tags, jobs))
            if threading.current_thread() is self._thread:  # else nobody waits but that one, and there is nothing to do
                self._changed.notify_all()
