"""One attempt at a request: held against what the store knows of it, begun on the engine, ended.

Whatever it raises becomes its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from kaasq import codec
from kaasq.errors import (
    DeadlineExceeded,
    Forbidden,
    KaasqError,
    OutOfMemory,
    QuotaExceeded,
    StoreFull,
    StoreUnavailable,
    UnknownGraph,
    WorkerFailed,
)
from kaasq.ids import chain_id, split_id
from kaasq.log import get_logger
from kaasq.model import GraphSpec
from kaasq.quotas import LimitsByTenant, check_inline
from kaasq.settings import Settings
from kaasq_storage import BufferStore
from kaasq_workers.executor.bringing import bring
from kaasq_workers.executor.claims import Claims
from kaasq_workers.executor.device_time import DeviceTime
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Executed, Flight
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.identity import cancelled, conflict, matches
from kaasq_workers.executor.job_reading import JobReader, inline_bytes
from kaasq_workers.executor.repeating import EVERYTHING, Loop
from kaasq_workers.executor.stretch import Stretch
from kaasq_workers.flows.driver import Flows
from kaasq_workers.flows.standing import begun
from kaasq_workers.flows.tasks import Again
from kaasq_workers.link import Job
from kaasq_workers.vitals import Vitals

# Another try may well succeed, so these are answers but not outcomes: the same id may be sent again.
TRANSIENT = (OutOfMemory, QuotaExceeded, StoreFull, StoreUnavailable, UnknownGraph)

log = get_logger()


class Attempts:
    """Begins and ends requests on one engine."""

    def __init__(
        self,
        engine: Engine,
        store: BufferStore,
        claims: Claims,
        followers: Followers,
        flows: Flows,
        settings: Settings,
    ) -> None:
        self._engine = engine
        self._store = store
        self._claims = claims
        self._longest_run_s = settings.longest_run
        self._limits = LimitsByTenant(settings.quotas)
        self._device_time = DeviceTime()
        self._flows = flows
        self._inline_limit = settings.inline_limit
        self._reader = JobReader(store, followers, flows, self._limits, settings.graph_limits)
        self._log = log.bind(device=engine.device.name)

    def begin(self, job: Job, vitals: Vitals, *, beside_others: bool) -> tuple[Ended, Flight | None] | None:
        """Start a request; without a flight it has ended already. None: it does not fit ``beside_others``."""
        limit_ms = round((time.time() + self._longest_run_s) * 1000)
        vitals.begin(job.tag, limit_ms)
        ended = Ended(job=job, reply_type=codec.reply_type(job.body, job.content_type))
        if job.published_ms is not None:
            ended.queued_us = max(0, round(time.time() * 1e6) - job.published_ms * 1000)
        flight: Flight | None = None
        with _Answered(ended, self._log):
            try:
                flight = self._start(job, ended, vitals, limit_ms)
            except Forbidden:
                # Its modules' signatures may be missing, and are no part of the hash: it is to come whole once more.
                if ended.request is not None and isinstance(ended.request.graph, GraphSpec):
                    self._reader.forget(ended.request.graph.hash, job.tenant)
                raise
            except OutOfMemory:
                if beside_others:
                    return None
                raise
        return ended, flight

    def end(self, ended: Ended, flight: Flight, vitals: Vitals, *, onward: bool) -> Flight | None:
        """Take what a request gave that has finished; the flight of its next run, if it is a loop that goes on.

        ``onward``: the next step of its workflow may follow at once, as a part of it.
        """
        again: Flight | None = None
        with _Answered(ended, self._log):
            again = self._land(ended, flight, vitals, onward=onward)
        if again is None and ended.loop is not None:
            ended.loop.close()
        if again is None and ended.stretch is not None:
            ended.stretch.close()
            if ended.error is not None:
                ended.stretch.discard()
            else:
                ended.request, ended.executed = ended.stretch.ran[0].request, ended.stretch.ran[0].executed
        return again

    def _land(self, ended: Ended, flight: Flight, vitals: Vitals, *, onward: bool) -> Flight | None:
        try:
            executed = self._engine.end(flight)
        except KaasqError as error:
            if ended.stretch is None or not ended.stretch.ran or self._engine.device.poisoned:
                raise
            self._stop_before(ended, ended.stretch, error)
            return None
        job, kernel_us = ended.job, executed.timings.kernel
        self._device_time.charge(job.tenant, self._limits.of(job.tenant), kernel_us / 1e6, time.monotonic())
        self._log.debug("request.ran", request=job.id, tenant=job.tenant, graph=ended.graph, kernel_us=kernel_us)
        if ended.stretch is not None:
            return self._go_on(ended, ended.stretch, executed, vitals, onward=onward)
        if ended.loop is None or ended.request is None:
            ended.executed = executed
            return None
        ended.repeated = ended.loop.ran(executed)
        if ended.repeated is None:
            return self._run(ended, vitals)
        keep = ended.request.keep
        ended.executed = ended.loop.placed(executed, keep, self._store, job.tenant, self._inline_limit)
        return None

    def _go_on(
        self, ended: Ended, stretch: Stretch, executed: Executed, vitals: Vitals, *, onward: bool
    ) -> Flight | None:
        """A step of a stretch has run: begin the next one on what it left, or bring that to the host."""
        job, step = ended.job, ended.step
        assert step is not None
        assert ended.request is not None
        following = stretch.end(ended.request, executed)
        if following is None:
            return None
        try:
            if not onward:
                raise QuotaExceeded("others wait")
            self._device_time.check(job.tenant, self._limits.of(job.tenant), time.monotonic())
            taken = stretch.taken()
            request = self._flows.request(job.tenant, step._replace(step=following, book=None), besides=taken)
            assert isinstance(request.graph, GraphSpec)
            stretch.go_on()
            proceed = self._proceed(job, vitals)
            proceed()
            vitals.due(job.tag, self._until_ms(step.deadline_ms))
            flight = self._engine.begin(
                *(job.tenant, request.graph, request, proceed), resident=taken, hold=stretch.hold
            )
        except KaasqError as error:
            self._stop_before(ended, stretch, error)
            return None
        ended.request = request
        return flight

    def _stop_before(self, ended: Ended, stretch: Stretch, error: KaasqError) -> None:
        """The next step does not run in this stretch, or has failed in it: then it is run by itself.

        What it takes is brought to the host. Raises what comes of that: then all of the stretch is run again.
        """
        tenant, last = ended.job.tenant, stretch.ran[-1]
        there, room = last.executed.outputs, self._inline_limit
        stretch.stop(bring(self._store, tenant, last.request, there, stretch.held, room))
        self._log.debug("stretch.stopped", request=ended.job.id, steps=len(stretch.ran), code=error.code)

    def _until_ms(self, deadline_ms: int | None) -> int:
        """Until when what begins now has to have ended, in milliseconds since the epoch."""
        limit_ms = round((time.time() + self._longest_run_s) * 1000)
        return limit_ms if deadline_ms is None else min(limit_ms, deadline_ms)

    def _start(self, job: Job, ended: Ended, vitals: Vitals, limit_ms: int) -> Flight | None:
        """Read it and have the engine begin it; None if it has an outcome already, or is nothing to be run."""
        self._reader.read(job, ended, vitals)
        if ended.task is not None or self._has_ended(job, ended):
            return None
        if job.verdict is not None:
            raise job.verdict.exception()
        first, number = split_id(job.id)
        if number and self._store.outcome(job.tenant, chain_id(first)) is not None:
            raise cancelled(job.id)
        if ended.deadline_ms is not None:
            late_ms = time.time() * 1000 - ended.deadline_ms
            if late_ms > 0:
                raise _too_late(job, late_ms)
            if ended.deadline_ms < limit_ms:
                vitals.due(job.tag, limit_ms := ended.deadline_ms)
        if vitals.withdrawn(job.tag):
            raise cancelled(job.id)
        limits = self._limits.of(job.tenant)
        if ended.step is not None:
            ended.request = self._flows.request(job.tenant, ended.step)
        elif ended.request is not None:
            check_inline(limits, inline_bytes(ended.request.bind.values()))
        self._device_time.check(job.tenant, limits, time.monotonic())
        if job.redelivered:
            self._claims.begin(job, limit_ms)
            ended.claimed = True
        if ended.request is not None and ended.request.repeat is not None:
            ended.loop = Loop(ended.request, ended.request.repeat, self._engine.let_go)
        elif ended.step is not None and not job.redelivered and not job.alone:
            row = self._flows.row(job.tenant, ended.step)
            ended.stretch = None if row is None else Stretch(row, ended.step.step, self._engine.let_go)
        return self._run(ended, vitals)

    def _has_ended(self, job: Job, ended: Ended) -> bool:
        """Whether there is an earlier outcome to answer it with, or another attempt in its place. Raises Conflict."""
        earlier = self._store.outcome(job.tenant, job.id)
        if earlier is None:
            if ended.step is None or ended.step.current:
                return False
            ended.digest, ended.task = None, Again(ended.step)
            return True
        if not matches(earlier, ended.digest):
            ended.digest = None
            raise conflict(job.id)
        ended.replay = earlier.reply
        started = begun(earlier.reply) if ended.begins else None
        if started is not None:
            ended.replay, ended.graph = started, None  # its end has its event
        return True

    def _run(self, ended: Ended, vitals: Vitals) -> Flight:
        """Begin it, or the next run of its loop."""
        job, loop, request = ended.job, ended.loop, ended.request
        assert request is not None
        assert isinstance(request.graph, GraphSpec)
        proceed = self._proceed(job, vitals)
        if loop is None:
            hold = frozenset[str]() if ended.stretch is None else ended.stretch.hold
            return self._engine.begin(job.tenant, request.graph, request, proceed, hold=hold)
        flight = self._engine.begin(
            *(job.tenant, request.graph, loop.request, proceed),
            inline_limit=EVERYTHING,
            resident=loop.resident,
            hold=loop.hold,
        )
        loop.begun()
        return flight

    @staticmethod
    def _proceed(job: Job, vitals: Vitals) -> Callable[[], None]:
        """What is asked between launches: raises Cancelled for a request that is not to go on."""

        def proceed() -> None:
            if vitals.withdrawn(job.tag):
                raise cancelled(job.id)

        return proceed


def _too_late(job: Job, late_ms: float) -> DeadlineExceeded:
    """Its time was over before it could be started; or started again, which says more of what is wrong."""
    if job.died is None:
        return DeadlineExceeded(f"its time was over {late_ms:.0f} ms before a worker could start it")
    attempt = "an attempt at it killed its executor" if job.kills else "the executor that had it died"
    return DeadlineExceeded(
        f"{attempt} ({job.died}), and its time was over {late_ms:.0f} ms before another one could start: "
        "with a longer timeout it is seen whether it does that again",
        how=job.died,
        kills=job.kills or None,
    )


class _Answered:
    """Whatever a request raises becomes its answer, and the worker goes on.

    A class and not a generator: each request goes through it twice.
    """

    __slots__ = ("_ended", "_log")

    def __init__(self, ended: Ended, log: Any) -> None:
        self._ended = ended
        self._log = log

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        ended, job = self._ended, self._ended.job
        if isinstance(error, KaasqError):
            ended.error = error
            if isinstance(error, TRANSIENT):
                ended.digest = None
            # Nothing failed where it is the graph that is asked for: after a restart the first of each graph is.
            tell = self._log.debug if isinstance(error, UnknownGraph) else self._log.info
            tell("request.failed", request=job.id, tenant=job.tenant, code=error.code, error=error.message)
            return True
        ended.digest = None
        if isinstance(error, MemoryError):
            ended.error = WorkerFailed("the worker ran out of host memory")
        else:
            ended.error = WorkerFailed(f"the worker failed on this request: {error!r}")
            self._log.exception("request.broke", request=job.id, tenant=job.tenant, exc_info=error)
        return True
