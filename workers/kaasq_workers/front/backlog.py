"""The requests of one executor, until they end: waiting, handed over, suspected. Pure: the supervisor acts on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Set as AbstractSet

import msgspec

from kaasq.messages import ErrorBody
from kaasq.names import is_request_id
from kaasq_workers.front.blame import Suspicion, judge
from kaasq_workers.link import Answer, Job, onward_from


class Backlog:
    """Decides which of them may be handed over: suspects one at a time, everybody else together."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        """By tag: taken and not ended."""
        self.sent: OrderedDict[int, None] = OrderedDict()
        """Tags of what the executor has, in order."""
        self._waiting: list[int] = []  # the executor is starting, or a suspect runs alone
        self._suspicions: dict[int, Suspicion] = {}
        self._verdicts: set[int] = set()  # of those that only have that to be recorded

    def take(self, job: Job) -> None:
        """A request more."""
        self.jobs[job.tag] = job
        self._waiting.append(job.tag)

    def goes_on(self, answer: Answer, now_ms: int) -> Job | None:
        """The request that the executor has by itself now, if it has: it follows the one that is answered."""
        onward = answer.onward
        if onward is None or not is_request_id(onward.id):
            return None
        job = onward_from(self.jobs[answer.tag], onward, now_ms)
        if job is not None:
            self.jobs[job.tag] = job
            self.sent[job.tag] = None
        return job

    def hand_over(self) -> list[Job]:
        """What the executor may get now; it counts as sent."""
        if not self._waiting:
            return []
        if (self._suspicions or self._verdicts) and any(self._is_alone(tag) for tag in self.sent):
            return []
        batch: list[Job] = []
        while self._waiting:
            tag = self._waiting[0]
            if self._is_alone(tag):
                if self.sent or batch:
                    break
                self._waiting.pop(0)
                batch.append(msgspec.structs.replace(self.jobs[tag], alone=True))
                break
            self._waiting.pop(0)
            batch.append(self.jobs[tag])
        self.sent.update((job.tag, None) for job in batch)
        return batch

    def forget(self, tag: int) -> Job | None:
        """It has ended."""
        self.sent.pop(tag, None)
        self._suspicions.pop(tag, None)
        self._verdicts.discard(tag)
        return self.jobs.pop(tag, None)

    def forget_waiting(self) -> list[int]:
        """Drop what the executor has not got: the tags."""
        tags, self._waiting = self._waiting, []
        for tag in tags:
            self.forget(tag)
        return tags

    def take_back(self) -> list[Job]:
        """What the executor has not got, to be run elsewhere; but suspects stay, with what is held against them."""
        tags = [tag for tag in self._waiting if tag not in self._suspicions]
        self._waiting = [tag for tag in self._waiting if tag in self._suspicions]
        return [job for tag in tags if (job := self.forget(tag)) is not None]

    def again(self, tags: list[int]) -> None:
        """The executor has ended; these were sent, and nobody is to blame: they go first."""
        self.sent.clear()
        for tag in tags:
            self.jobs[tag] = msgspec.structs.replace(self.jobs[tag], rerun=True)
        self._waiting = tags + self._waiting

    def blame(self, tags: list[int], running: AbstractSet[int], how: str) -> list[tuple[Job, int]]:
        """The executor has died so; these were sent. Who has killed once too often, and how often; the others go again.

        Suspects go first and alone: everybody else waits a moment rather than being taken down with them.
        """
        verdict = judge(tags, running, self._suspicions)
        self.again(verdict.again)
        for tag in verdict.again:
            suspicion = self._suspicions[tag]
            if suspicion.alone:
                self.jobs[tag] = msgspec.structs.replace(self.jobs[tag], died=how, kills=suspicion.kills)
        self._waiting.sort(key=lambda tag: not self._is_alone(tag))
        return [(self.jobs[tag], self._suspicions.pop(tag).kills) for tag in verdict.dead]

    def sentence(self, job: Job) -> None:
        """It has its verdict, and goes to the executor once more for that to be recorded, before all others.

        And without them: on a device that waits for each request, a long one would hold up the news.
        """
        self._verdicts.add(job.tag)
        self.jobs[job.tag] = job
        self._waiting.insert(0, job.tag)

    def sentenced(self, running: AbstractSet[int]) -> list[tuple[Job, ErrorBody]]:
        """Those of the running ones that only had their verdict to be recorded."""
        jobs = [self.jobs[tag] for tag in self.sent if tag in running]
        return [(job, job.verdict) for job in jobs if job.verdict is not None]

    def _is_alone(self, tag: int) -> bool:
        suspicion = self._suspicions.get(tag)
        return tag in self._verdicts or (suspicion is not None and suspicion.alone)
