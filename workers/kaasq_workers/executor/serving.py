"""The executor: owns the device and the store, takes jobs from the front, answers when their outcomes are durable.

Runs as a process of its own (``python -m kaasq_workers.executor``) so that a kernel that crashes, hangs or poisons the
device's context takes nothing else with it; for kaasq.local as a thread.
"""

from __future__ import annotations

import time

import msgspec

from kaasq.errors import KaasqError, QuotaExceeded, StoreFull, WorkerFailed
from kaasq.log import get_logger
from kaasq.messages import WorkerInfo
from kaasq.settings import Settings
from kaasq_storage import BufferStore
from kaasq_workers.channel import BlockingChannel
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.attempts import Attempts
from kaasq_workers.executor.claims import Claims
from kaasq_workers.executor.committing import Commits
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Flight
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.foretelling import foretold
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.line import Line
from kaasq_workers.executor.module_policy import ModulePolicy
from kaasq_workers.executor.onward import Bounds, first_here, goes_on
from kaasq_workers.executor.outcomes import Committer
from kaasq_workers.executor.withdrawals import Withdrawals
from kaasq_workers.flows.driver import Flows
from kaasq_workers.flows.rules import Rules
from kaasq_workers.link import (
    Answer,
    FromExecutor,
    Job,
    ToExecutor,
    Withdraw,
    onward_from,
)
from kaasq_workers.vitals import Vitals

HEAR_S = 1e-3  # while requests wait here, what else the front says is looked for only so often
GC_INTERVAL_S = 60.0
LOOK_S = 1.0  # after workflows that may stand still
FIRST_GC_S = 1.0  # what crashed processes left in the store goes soon after a start, but does not delay it
TURN_S = 1.0  # a loop with nothing to do goes round all the same: the front sees that it is not stuck
SPIN_S = 200e-6  # without pause until something ends; then pauses of an eighth of the time waited, at most
YIELD_S = 20e-6  # for the thread that commits: looking all the time would keep the interpreter's lock from it
MOST_PAUSE_S = 250e-6  # so a request that comes while a long one runs starts soon
IDLE_S = 5e-3  # without anything to do, before a little of the time is used to prepare for what may come

log = get_logger()


class Executor:
    """Runs jobs, several at a time, while those that have ended are committed in groups.

    Raises BadRequest for settings that it cannot have.
    """

    def __init__(self, device: Device, store: BufferStore, settings: Settings, worker: WorkerInfo) -> None:
        self._device = device
        self._store = store
        guard_band = settings.guard_band if settings.guard else None
        libraries = Libraries(settings.modules, store, limit=settings.graph_limits.module_bytes)
        self._engine = Engine(
            device,
            store,
            inline_limit=settings.inline_limit,
            in_flight=settings.in_flight,
            pinned_bytes=settings.pinned_memory,
            guard_band=guard_band,
            libraries=libraries,
            policy=ModulePolicy(settings),
        )
        claims = Claims(store, worker, most=settings.most_attempts, ttl_s=settings.result_ttl)
        followers = Followers(
            store,
            pool=settings.pool,
            inline_limit=settings.inline_limit,
            message_limit=settings.message_limit,
            together_limit=settings.graph_limits.continuations_bytes,
        )
        self._followers = followers
        rules = Rules(
            pool=settings.pool,
            limits=settings.graph_limits,
            inline_limit=settings.inline_limit,
            ttl_s=settings.result_ttl,
            patience_s=settings.workflow_patience,
            longest_s=settings.workflow_longest,
        )
        self._flows = Flows(store, worker, rules)
        self._attempts = Attempts(self._engine, store, claims, followers, self._flows, settings)
        self._committer = Committer(
            store, worker, followers, self._flows, ttl_s=settings.result_ttl, dead_ttl_s=settings.dead_ttl
        )
        self._onward = Bounds(settings.pool, settings.chain_spill, settings.chain_hold)
        self._withdrawals = Withdrawals(store, self._flows, worker, ttl_s=settings.result_ttl)
        self._at_once = not settings.store_sync
        self._ahead: dict[int, Ended] = {}  # by the tag of what goes on, what it follows, which was not durable
        self._begun_s = self._landed_s = self._heard_s = 0.0
        self._next_look_s = 0.0
        self._apart = settings.isolation == "tenant"
        self._tenants: set[str] = set()  # whose it is, where each has its own
        self._preparing = False  # whether idle time may be of use
        self._log = log.bind(device=device.name)

    def serve(self, channel: BlockingChannel, vitals: Vitals) -> bool:
        """Until the front is gone (True), or the device can no longer be used.

        Then: whether whatever was running has been answered. If several requests were, nobody knows whose fault it is:
        they stay unanswered and in ``vitals``.
        """
        line: Line[Flight] = Line(self._engine.in_flight)
        with Commits(lambda group: self._answer(group, channel), at_once=self._at_once) as commits:
            self._serve(line, commits, channel, vitals)
        return not line.flying

    def _serve(self, line: Line[Flight], commits: Commits, channel: BlockingChannel, vitals: Vitals) -> None:
        next_gc = time.monotonic() + FIRST_GC_S
        self._next_look_s = time.monotonic() + LOOK_S
        gone = False
        while not (gone and not line.busy):
            if not commits.stuck:
                vitals.turn()
            for durable in commits.learn():
                line.committed(durable.tags)
                line.add(durable.jobs, time.monotonic())
            if not gone and (not line.waiting or self._hears):
                busy = line.busy or commits.awaited
                patience_s = 0.0 if busy else IDLE_S if self._preparing else TURN_S
                received = channel.receive(timeout_s=patience_s)
                self._heard_s = time.monotonic()
                gone = received is None
                self._receive(received or [], line, channel)
                if received:
                    self._preparing = True
                elif not busy:
                    self._preparing = self._preparing and self._engine.use_idle_time()
            if time.monotonic() >= next_gc:
                self._collect()
                next_gc = time.monotonic() + GC_INTERVAL_S
            if time.monotonic() >= self._next_look_s and not gone:
                self._look_after_workflows(channel)
                self._next_look_s = time.monotonic() + LOOK_S
            onward = not (gone or vitals.draining)
            self._turn(line, commits, vitals, onward=onward)
            while line.waiting and not (commits.news or self._device.poisoned or self._hears):
                self._turn(line, commits, vitals, onward=onward)
            if self._device.poisoned:
                return

    @property
    def _hears(self) -> bool:
        """Whether it is time to look for what else the front says."""
        return time.monotonic() - self._heard_s > HEAR_S

    def _turn(self, line: Line[Flight], commits: Commits, vitals: Vitals, *, onward: bool) -> None:
        """Start what may start, end one that has finished, have committed what has ended, or else wait a little.

        ``onward``: what follows may begin here.
        """
        now = time.monotonic()
        while not commits.full and not self._device.poisoned and (job := line.next()) is not None:
            commits.lend()
            self._begin(job, line, vitals)
            self._hand_over(line, commits, onward=onward)
        finished = next((tag for tag, (_, flight) in line.flying.items() if flight.finished), None)
        if finished is not None and not self._device.poisoned:
            self._landed_s = now
            self._end(finished, line, vitals, onward=onward)
            self._hand_over(line, commits, onward=onward)
        alone = not line.waiting and not line.flying  # nobody is left to share the commit with
        if commits.pending and (finished is None or commits.ripe or alone or self._device.poisoned):
            commits.flush(alone=alone)
        if finished is not None:
            return
        if line.flying:
            waited = now - max(self._landed_s, self._begun_s)
            if waited > SPIN_S:
                time.sleep(min(MOST_PAUSE_S, waited / 8))
            elif commits.pending or commits.working:
                commits.wait(YIELD_S)
        elif line.waiting or commits.awaited:
            commits.wait(HEAR_S)

    def _hand_over(self, line: Line[Flight], commits: Commits, *, onward: bool) -> None:
        """Give away what has ended, to be committed; what goes on from it here waits in line already, if it can."""
        for ended in line.take_ended() if line.ended else ():
            ended.ended_ns = time.perf_counter_ns()
            if ended.leads and onward and not self._device.poisoned and self._may_go_on(ended.job, line):
                ended.goes_on = True
                self._go_ahead(ended, line)
            commits.add(ended)

    def _go_ahead(self, ended: Ended, line: Line[Flight]) -> None:
        """What follows a request that ran waits in line from now on, if it can begin before that is durable.

        The front hears of it with the answer, once that is: it is told of nothing that might not have been.
        """
        try:
            ended.foretold = foretold(ended, self._followers, self._onward.pool)
        except Exception:  # noqa: BLE001 - whatever it is, it is met again once it is durable, and answered
            self._log.exception("foretelling.broke", request=ended.job.id)
        if ended.foretold is None or ended.foretold.onward is None:
            return
        job = onward_from(ended.job, ended.foretold.onward, time.time_ns() // 1_000_000)
        if job is None:
            ended.foretold = None
            return
        self._ahead[job.tag] = ended
        line.add([job], time.monotonic())

    def _receive(self, received: list[ToExecutor], line: Line[Flight], channel: BlockingChannel) -> None:
        withdrawn = [each for each in received if isinstance(each, Withdraw)]
        if withdrawn:
            channel.send(self._withdrawals.record(withdrawn))
        jobs = [each for each in received if isinstance(each, Job)]
        if self._apart and not self._tenants.issuperset(each.tenant for each in jobs):
            self._tenants.update(each.tenant for each in jobs)
            self._next_look_s = 0.0  # before it is answered: it may be stopped afterwards
        line.add(jobs, time.monotonic())

    def close(self) -> None:
        """Give device and store back what it holds of them."""
        self._engine.close()

    def _look_after_workflows(self, channel: BlockingChannel) -> None:
        """Have published again what a workflow waits for in vain."""
        driven: list[FromExecutor] = []  # what was found counts, whatever comes of those behind it
        try:
            for each in self._flows.stand_still(self._tenants if self._apart else None):
                driven.append(each)  # noqa: PERF402
        except KaasqError as error:
            self._log.warning("workflows.not_looked_after", error=error.message)
        channel.send(driven)

    def _begin(self, job: Job, line: Line[Flight], vitals: Vitals) -> None:
        """Start a request: it is on its way then, has ended, or waits for room."""
        self._begun_s = time.monotonic()
        before = self._ahead.get(job.tag)
        if before is not None and before.lost:
            del self._ahead[job.tag]
            return
        begun = self._attempts.begin(job, vitals, beside_others=bool(line.flying))
        if begun is None:
            vitals.end(job.tag)
            line.hold(job)
            return
        ended, flight = begun
        ended.before = self._ahead.pop(job.tag, None)
        if flight is not None:
            line.started(ended, flight)
        elif not (self._device.poisoned and line.flying):  # else it may have met what another one did
            vitals.end(job.tag)
            line.ended.append(ended)

    def _may_go_on(self, job: Job, line: Line[Flight]) -> bool:
        """Whether what follows it may begin here, rather than others."""
        waited_s, now_ms = line.waited_s(time.monotonic()), time.time_ns() // 1_000_000
        return goes_on(job, self._onward, waited_s=waited_s, now_ms=now_ms)

    def _end(self, tag: int, line: Line[Flight], vitals: Vitals, *, onward: bool) -> None:
        """Take what a request gave that has finished."""
        ended, flight = line.flying[tag]
        onward = onward and ended.stretch is not None and self._may_go_on(ended.job, line)
        again = self._attempts.end(ended, flight, vitals, onward=onward)
        if again is not None:
            line.started(ended, again)
            return
        several = len(line.flying) > 1 or (ended.stretch is not None and len(ended.stretch.ran) > 0)
        if self._device.poisoned and several:
            return
        line.landed(tag)
        vitals.end(tag)

    def _answer(self, group: list[Ended], channel: BlockingChannel) -> list[Job]:
        """Make a group durable and tell the front: what goes on from it here, and does not wait in line yet."""
        jobs: list[Job] = []
        answers: list[Answer] = []
        for ended, answer in zip(group, self._commit(group), strict=True):
            if answer is not None:
                answers.append(self._onto(ended, answer, jobs) if ended.goes_on else answer)
        channel.send(answers)
        return jobs

    def _onto(self, ended: Ended, answer: Answer, jobs: list[Job]) -> Answer:
        """The answer, saying what goes on here; that is one of the ``jobs`` then, unless it waits in line already."""
        if ended.foretold is not None:
            onward = ended.foretold.onward
        else:
            onward = first_here(answer.then, self._onward.pool)
            job = None if onward is None else onward_from(ended.job, onward, time.time_ns() // 1_000_000)
            if job is None:
                return answer
            jobs.append(job)
        others = [each for each in answer.then if each is not onward]
        return msgspec.structs.replace(answer, then=others, onward=onward)

    def _commit(self, group: list[Ended], *, again: bool = False) -> list[Answer | None]:
        try:
            return self._committer.commit(group)
        except Exception as error:  # noqa: BLE001 - whatever one request's outcome does, the others get theirs
            known = isinstance(error, KaasqError)
            if len(group) > 1 or not (known or again):  # what broke may have done so once the outcome was durable
                return [answer for each in group for answer in self._commit([each], again=len(group) == 1)]
            (ended,) = group
            whose = {"request": ended.job.id, "tenant": ended.job.tenant}
            self._log.warning(
                "commit.failed", **whose, code=getattr(error, "code", None), error=str(error), exc_info=not known
            )
            ended.discard()
            ended.digest, ended.replay, ended.queued_us, ended.settled = None, None, 0, None
            ended.error = (
                error
                if isinstance(error, (StoreFull, QuotaExceeded))
                else WorkerFailed(f"the outcome was lost: {error}")
            )
            try:
                return self._committer.commit(group)
            except KaasqError as full:  # not even that it failed can be written
                self._log.warning("failure.not_recorded", **whose, code=full.code, error=full.message)
                return [self._committer.unrecorded(ended)]

    def _collect(self) -> None:
        self._engine.tidy()
        try:
            collected = self._store.gc()
        except KaasqError as error:
            self._log.warning("gc.failed", error=error.message)
            return
        if collected.objects or collected.outcomes or collected.orphans:
            self._log.info("gc.done", objects=collected.objects, nbytes=collected.nbytes, outcomes=collected.outcomes)
