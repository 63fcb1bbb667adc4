"""One executor: started, handed requests, watched, and replaced when it dies, with the truth about who was running.

Everything here runs on the broker's I/O thread. A front has one supervisor or several; each has an executor of its own.

An executor runs tenants' code, which may say anything in its name. What it says counts for what it was given, once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial

import msgspec

from kaasq.broker import Broker
from kaasq.errors import WorkerFailed
from kaasq.ids import concerns
from kaasq.log import get_logger
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq_workers.front.backlog import Backlog
from kaasq_workers.front.blame import deadly
from kaasq_workers.front.handles import CLEAN_EXIT, Handle
from kaasq_workers.front.oversight import Oversight
from kaasq_workers.front.owner import Owner
from kaasq_workers.front.reaping import reap
from kaasq_workers.front.silence import StartPatience
from kaasq_workers.front.starting import Starter
from kaasq_workers.front.stopping import Stopped
from kaasq_workers.link import Answer, Driven, FromExecutor, Hello, Job, Refusal, ToExecutor, Withdraw, Withdrawn

RETRY_SEND_S = 0.001
HANG_UP_S = 30.0  # for an executor that is told to end to do so
EVERYBODY = ""  # whose executor it is where all tenants share one
WATCH_S = 0.25  # how often it is looked whether something takes too long
RESTART_DELAYS_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # after executors that die without having served anything

log = get_logger()


class Supervisor:
    """Has an executor running, for as long as it is not told to hang up."""

    def __init__(
        self,
        broker: Broker,
        starter: Starter,
        owner: Owner,
        patience: StartPatience,
        *,
        timeout_s: float,
        first: bool,
    ) -> None:
        """``timeout_s``: a silent executor counts as stuck then. ``first``: of its worker, so that it is told if it
        cannot start, instead of trying on.
        """
        self._broker = broker
        self._starter = starter
        self._owner = owner
        self._handle: Handle | None = None
        self.up_since_s: float | None = None
        """Since when its executor is ready, by ``time.monotonic``; None while there is none that is."""
        self._trying = not first  # one that cannot start is tried again
        self.idle_since_s: float | None = time.monotonic()
        """Since when there is no request, by ``time.monotonic``; None while there are some."""
        self.ended = False
        """It was told to hang up, and its executor has ended."""
        self.serves: str | None = None
        """Whose executor it is."""
        self._backlog = Backlog()
        self._barren = 0  # executors in a row that ended without an answer
        self._oversight = Oversight(patience, timeout_s=timeout_s)
        self._worker: WorkerInfo | None = None  # the last one that was ready
        self._told: set[int] = set()  # tags of withdrawals that the executor is to record
        self._reaping = False
        self._draining = False
        self._started_s = 0.0
        self._flushing = False
        self._closing = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the executor."""
        self._start_executor()
        self._broker.call_later(WATCH_S, self._watch)

    def drain(self) -> None:
        """Nothing goes on in this executor by itself any more, nor in one that replaces it: it will be told to end."""
        self._draining = True
        if self._handle is not None:
            self._handle.link.vitals.drain()

    def hang_up(self) -> None:
        """Let the executor end. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._handle is not None:
            self._handle.link.close()
            self._broker.call_later(HANG_UP_S, self._insist)
        elif not self._reaping:
            self.ended = True

    def _insist(self) -> None:
        """It has heard, and should have ended by now."""
        if self._handle is not None:
            self._handle.kill()

    @property
    def handle(self) -> Handle | None:
        """The executor that is running, if any."""
        return self._handle

    # -- hand-off ------------------------------------------------------------------------------------------------

    def take(self, job: Job) -> None:
        """A request to run."""
        self._backlog.take(job)
        self.idle_since_s = None
        self._pump()

    def forget_waiting(self) -> list[int]:
        """Drop what the executor has not got: the tags."""
        tags = self._backlog.forget_waiting()
        self._see_if_idle()
        return tags

    def take_back(self) -> list[Job]:
        """What the executor has not got, to be run elsewhere; suspects stay."""
        jobs = self._backlog.take_back()
        self._see_if_idle()
        return jobs

    def withdraw(self, messages: Sequence[Withdraw]) -> None:
        """Have the executor record withdrawals; it must be up. ``noted`` follows, unless it dies first."""
        if self.up_since_s is not None:
            self._told.update(each.tag for each in messages)
            self._send(messages)

    def mark_withdrawn(self, withdraw: Withdraw) -> None:
        """If the executor has that request, or what follows it: let it see that it is not to go on, else kill it."""
        if self._handle is None:
            return
        for tag in self._backlog.sent:
            job = self._backlog.jobs[tag]
            if concerns(job.id, withdraw.id) and job.tenant == withdraw.tenant:
                self._handle.link.vitals.withdraw(tag)
                self._oversight.withdraw(tag)

    def _pump(self) -> None:
        """Send what may be sent."""
        if self.up_since_s is not None:
            batch = self._backlog.hand_over()
            if batch:
                self._send(batch)

    def _send(self, batch: Sequence[ToExecutor]) -> None:
        assert self._handle is not None
        try:
            complete = self._handle.link.send(batch)
        except OSError:
            return  # its end of file follows and tells the rest
        except Exception:  # a job that cannot be encoded
            for each in batch:
                job = self._forget(each.tag)
                if job is not None:
                    self._owner.unsendable(job)
            raise
        if not complete and not self._flushing:
            self._flushing = True
            self._broker.call_later(RETRY_SEND_S, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._handle is not None:
            self._send([])

    def _forget(self, tag: int) -> Job | None:
        self._oversight.forget(tag)
        job = self._backlog.forget(tag)
        self._see_if_idle()
        return job

    def _see_if_idle(self) -> None:
        if not self._backlog.jobs and self.idle_since_s is None:
            self.idle_since_s = time.monotonic()

    # -- what the executor says ------------------------------------------------------------------------------------

    def _readable(self) -> None:
        assert self._handle is not None
        try:
            messages = self._handle.link.receive()
        except Exception:
            log.exception("executor.unintelligible")
            self._handle.kill()
            messages = None
        if messages is None:
            self._executor_gone()
            return
        for message in messages:
            try:
                self._hear(message)
            except Exception:
                log.exception("answer.broke", message=type(message).__name__)
        self._pump()
        self._owner.turned()

    def _hear(self, message: FromExecutor) -> None:
        match message:
            case Answer() if message.tag in self._backlog.sent:
                self._barren = 0
                onward = self._backlog.goes_on(message, time.time_ns() // 1_000_000)
                if onward is not None:
                    self._oversight.goes_on(message.tag, onward.tag)
                self._forget(message.tag)
                self._owner.answered(message, onward)
            case Hello(worker=worker, description=description, store_path=store_path) if self.up_since_s is None:
                self._trying, self._worker = True, worker
                self.up_since_s = time.monotonic()
                took_s = self.up_since_s - self._started_s
                self._oversight.ready(took_s)
                log.info(
                    "executor.ready",
                    pid=worker.pid,
                    device=worker.device,
                    ms=round(took_s * 1000),
                    description=description,
                    store=store_path,
                    store_id=worker.store,
                )
                self._starter.started(message)
                self._owner.ready(None)
            case Withdrawn(tags=tags):
                noted = self._told.intersection(tags)
                self._told -= noted
                self._owner.noted(msgspec.structs.replace(message, tags=sorted(noted)))
            case Driven(tenant=tenant) if self.serves in {EVERYBODY, tenant}:
                self._owner.driven(message)
            case Refusal(error=error) if self.up_since_s is None:
                if self._trying:
                    log.error("executor.refused", code=error.code, error=error.message)
                else:
                    self._closing = True
                    self._owner.ready(error.exception())
            case _:
                log.warning("executor.unexpected", message=type(message).__name__)

    # -- start and end of executors ----------------------------------------------------------------------------------

    def _start_executor(self) -> None:
        if self._closing:
            return
        self._started_s = time.monotonic()
        try:
            self._handle = self._starter.start()
        except OSError as error:  # no process or memory to be had just now
            log.error("executor.not_started", error=str(error))
            self._broker.call_later(RESTART_DELAYS_S[-1], self._start_executor)
            return
        if self._draining:
            self._handle.link.vitals.drain()
        self._oversight.begin()
        self._broker.add_reader(self._handle.link.fileno(), self._readable)

    def _executor_gone(self) -> None:
        assert self._handle is not None
        handle, self._handle, self.up_since_s = self._handle, None, None
        self._told.clear()
        self._reaping = True
        self._broker.remove_reader(handle.link.fileno())
        reap(self._broker, handle, partial(self._see_to, handle))

    def _see_to(self, handle: Handle, how: str) -> None:
        """It is gone, and has left something perhaps."""
        running = handle.link.vitals.running.keys()
        for tag, graph in handle.link.vitals.graphs.items():
            if tag in self._backlog.jobs:
                self._backlog.jobs[tag] = msgspec.structs.replace(self._backlog.jobs[tag], graph=graph)
        handle.link.dispose()
        self._reaping = False
        self._executor_ended(how, running)
        self._owner.turned()

    def _executor_ended(self, how: str, running: AbstractSet[int]) -> None:
        in_flight = self._in_flight(how, running)
        stopped, stuck = self._oversight.ended()
        if self._closing:
            self.ended = True  # what is in flight goes back to the queue with the connection
            return
        if stopped is not None:  # killed by us: nobody is to blame, even if it was answered at the last moment
            if stopped.job.tag in in_flight:
                in_flight.remove(stopped.job.tag)
                self._see_off(stopped)
            self._backlog.again(in_flight)
            self._start_executor()
            return
        how = stuck or how
        if not self._trying:
            self._closing = True
            self._owner.ready(WorkerFailed(f"the executor ended before it was ready ({how}); see its log"))
            return
        log.error("executor.died", how=how, in_flight=len(in_flight), running=len(running))
        if how == CLEAN_EXIT or (stuck is not None and not self._barren):
            # It gave up a poisoned device after answering for who poisoned it; or nobody knows why it was stuck.
            self._backlog.again(in_flight)
        else:
            for job, kills in self._backlog.blame(in_flight, running, how):
                self._bury(job, kills, how)
        delay = RESTART_DELAYS_S[min(self._barren, len(RESTART_DELAYS_S) - 1)]
        self._barren += 1
        if delay:
            self._broker.call_later(delay, self._start_executor)
        else:
            self._start_executor()

    def _see_off(self, stopped: Stopped) -> None:
        """Who waits for it is told at once. If nobody does, the next executor makes it its outcome."""
        job = self._backlog.jobs.get(stopped.job.tag)  # by now it has its graph's name
        if job is not None and job.to is None:
            self._backlog.sentence(msgspec.structs.replace(job, verdict=ErrorBody.of(stopped.error)))
            return
        self._forget(stopped.job.tag)
        self._owner.stopped(stopped if job is None else stopped._replace(job=job))

    def _in_flight(self, how: str, running: AbstractSet[int]) -> list[int]:
        """What the executor that ended had. Who killed it merely by being looked at has its end here."""
        for job, error in self._backlog.sentenced(running):
            self._forget(job.tag)
            log.error("verdict.failed", request=job.id, tenant=job.tenant, how=how)
            self._owner.killed(job, error)
        return list(self._backlog.sent)

    def _bury(self, job: Job, kills: int, how: str) -> None:
        """Have the next executor make the verdict its outcome, before anybody is told."""
        log.error("request.dead", request=job.id, tenant=job.tenant, how=how, kills=kills)
        self._backlog.sentence(msgspec.structs.replace(job, verdict=ErrorBody.of(deadly(kills, how, self._worker))))

    # -- what takes too long ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._closing:
            return
        self._broker.call_later(WATCH_S, self._watch)
        if self._handle is not None:
            self._oversight.look(self._handle, self._backlog, up=self.up_since_s is not None)
