"""Has questions about workflows answered in the executor's place: by a process that looks into the store.

A question of one workflow goes to the executor like any request. What that has not answered after a moment, the process
is asked, too, and whose answer comes first counts. While the executor owes answers that were given in its place,
further questions go to the process alone, so that they do not pile up with the executor. Lists of workflows always do:
they take a while where there are many, and nobody's request is to wait for them. What the process cannot say (a
workflow that is awaited has not ended; two died of the question; there is none) is left to the executor.

Everything here runs on the broker's I/O thread.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable

import msgspec

from kaasq import codec
from kaasq.broker import Broker
from kaasq.errors import DeadlineExceeded
from kaasq.flows.model import FlowCall, FlowsCall
from kaasq.log import get_logger
from kaasq.questions import QuestionLimits
from kaasq_workers.front.executors import Executors
from kaasq_workers.front.informant import Informant
from kaasq_workers.front.pending import Pendings
from kaasq_workers.link import Job, Said

TRIES = 2  # a question that so many processes died of is the executor's alone
PAUSE_S = 2.0  # until another process is started in the place of one that died
WATCH_S = 1.0
REAP_S = 0.05

log = get_logger()

Start = Callable[[], Informant]


class Asked(msgspec.Struct):
    """A question. ``flow``: of which workflow; None: of all."""

    job: Job
    flow: str | None
    alone: bool = False
    """The executor does not have it."""
    tries: int = 0


def question_of(job: Job, most_bytes: int) -> FlowCall | FlowsCall | None:
    """What it asks about workflows, if that is what it does."""
    if len(job.body) > most_bytes or b"flow" not in job.body:
        return None
    return codec.question(job.body, job.content_type)


def too_late(job: Job, question: FlowCall | FlowsCall) -> DeadlineExceeded | None:
    """What to tell who asked, where the time for an answer was over before it came here: it is nobody's any more.

    The broker does not look at that: it would make a dead letter of what nobody needs to look at.
    """
    if question.timeout_ms is None or job.published_ms is None:
        return None
    late_ms = job.taken_ms - job.published_ms - question.timeout_ms
    return DeadlineExceeded(f"its time was over {late_ms} ms before a worker took it") if late_ms > 0 else None


class Asking:
    """The questions of one front."""

    def __init__(
        self,
        broker: Broker,
        start: Start,
        pending: Pendings,
        executors: Executors,
        answer: Callable[[int, bytes], None],
        limits: QuestionLimits,
    ) -> None:
        """``answer``: given the tag and the reply of what is pending."""
        self._broker = broker
        self._start = start
        self._pending = pending
        self._executors = executors
        self._answer = answer
        self._limits = limits
        self._informant: Informant | None = None
        self._queue: OrderedDict[int, Asked] = OrderedDict()  # by tag
        self._current: Asked | None = None  # with the process
        self._of: Counter[str] = Counter()  # by tenants, of both
        self._owed: dict[str, set[int]] = {}  # by owners: tags that the executor has, and were answered in its place
        self._since_s = time.monotonic()  # when the process got its question, or answered the last one
        self._pausing = self._closed = False

    # -- from the front --------------------------------------------------------------------------------------------

    def take(self, job: Job, question: FlowCall | FlowsCall) -> bool:
        """A question has come. Whether the executor need not have it now."""
        if job.to is None or self._closed:  # nobody waits for a reply
            return False
        asked = Asked(job, question.flow.id if isinstance(question, FlowCall) else None)
        alone = asked.flow is None or self._owed.get(self._executors.owner_of(job.tenant))
        if alone and self._may_ask(asked):
            asked.alone = True
            self._ask(asked)
            return True
        self._broker.call_later(self._limits.patience, lambda: self._overdue(asked))
        return False

    def settled(self, tag: int) -> None:
        """The executor has no such request any more."""
        for owner in [owner for owner, tags in self._owed.items() if tag in tags]:
            self._owed[owner].discard(tag)
            if not self._owed[owner]:
                del self._owed[owner]

    def forget_alone(self) -> list[int]:
        """Drop what the executor has not got: the tags. The broker delivers it again."""
        alone = [each.job.tag for each in self._asked() if each.alone]
        for tag in alone:
            self._done(self._queue.pop(tag, None))
        return alone

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
        self._end()

    # -- with the process --------------------------------------------------------------------------------------------

    def _overdue(self, asked: Asked) -> None:
        """The executor has not answered for a moment."""
        if self._closed or not self._pending.has(asked.job.tag):
            return
        if self._may_ask(asked):
            self._ask(asked)
        else:
            self._broker.call_later(self._limits.patience, lambda: self._overdue(asked))

    def _may_ask(self, asked: Asked) -> bool:
        tenant = asked.job.tenant
        if asked.flow is not None and self._pending.holds(tenant, asked.flow):
            return False  # it would not be found, though it was sent before
        return len(self._queue) < self._limits.waiting and self._of[tenant] < self._limits.tenant_waiting

    def _ask(self, asked: Asked) -> None:
        self._queue[asked.job.tag] = asked
        self._of[asked.job.tenant] += 1
        self._next()

    def _next(self) -> None:
        """Give the process its next question, if it has none."""
        while self._current is None and self._queue and not self._pausing and not self._closed:
            if self._informant is None:
                self._begin()
                continue
            _, self._current = self._queue.popitem(last=False)
            self._current.tries += 1
            self._since_s = time.monotonic()
            if not self._pending.has(self._current.job.tag):
                self._free()
                continue
            try:
                self._informant.ask(self._current.job)
            except OSError:
                self._lost("it does not listen")

    def _begin(self) -> None:
        try:
            self._informant = self._start()
        except OSError as error:  # no process or memory to be had just now
            log.warning("informant.not_started", error=str(error))
            self._pause()
            for asked in list(self._queue.values()):
                self._leave(asked)
            return
        informant = self._informant
        self._broker.add_reader(informant.fileno(), self._readable)
        self._broker.call_later(WATCH_S, lambda: self._watch(informant))

    def _readable(self) -> None:
        assert self._informant is not None
        try:
            heard = self._informant.heard()
        except Exception as error:  # noqa: BLE001 - whatever it said
            self._lost(f"unintelligible: {error}")
            return
        if heard is None:
            self._lost("it ended")
            return
        for said in heard:
            self._hear(said)
        self._next()

    def _hear(self, said: Said) -> None:
        asked = self._current
        if asked is None or asked.job.tag != said.tag:
            log.warning("informant.unexpected", tag=said.tag)
            return
        self._free()
        if not self._pending.has(said.tag):
            return
        if not said.reply:
            self._leave(asked)
            return
        if not asked.alone:
            self._owed.setdefault(self._executors.owner_of(asked.job.tenant), set()).add(said.tag)
        self._answer(said.tag, said.reply)

    def _lost(self, why: str) -> None:
        """The process is of no use any more: questions are for the next one, the one that it died of comes last."""
        asked = self._current
        log.warning("informant.lost", why=why, question=None if asked is None else asked.job.id)
        self._end()
        self._pause()
        if asked is None:
            return
        self._free()
        if self._pending.has(asked.job.tag):
            if asked.tries < TRIES:
                self._ask(asked)
            else:
                self._leave(asked)

    def _pause(self) -> None:
        """Before another one is started."""
        self._pausing = True

        def over() -> None:
            self._pausing = False
            self._next()

        self._broker.call_later(PAUSE_S, over)

    def _leave(self, asked: Asked) -> None:
        """To the executor, which may have it already."""
        if asked.alone:
            asked.alone = False
            self._executors.take(asked.job)

    def _watch(self, informant: Informant) -> None:
        """Whether it takes too long, or has had nothing to do for long."""
        if informant is not self._informant:
            return
        seconds = time.monotonic() - self._since_s
        if self._current is not None and seconds > self._limits.timeout:
            self._lost(f"no answer within {self._limits.timeout:g} s")
        elif self._current is None and seconds > self._limits.idle:
            self._end()
        else:
            self._broker.call_later(WATCH_S, lambda: self._watch(informant))

    def _end(self) -> None:
        """End the process."""
        informant, self._informant = self._informant, None
        if informant is not None:
            self._broker.remove_reader(informant.fileno())
            informant.kill()
            self._reap(informant)

    def _reap(self, informant: Informant) -> None:
        if not informant.gone():
            self._broker.call_later(REAP_S, lambda: self._reap(informant))

    def _free(self) -> None:
        """The process has no question."""
        self._done(self._current)
        self._current, self._since_s = None, time.monotonic()

    def _done(self, asked: Asked | None) -> None:
        if asked is not None:
            self._of[asked.job.tenant] -= 1
            if not self._of[asked.job.tenant]:
                del self._of[asked.job.tenant]

    def _asked(self) -> list[Asked]:
        return [*([] if self._current is None else [self._current]), *self._queue.values()]
