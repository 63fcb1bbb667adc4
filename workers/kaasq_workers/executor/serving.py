"""The executor: owns the device and the store, takes jobs from the front, answers when their outcomes are durable.

Runs as a process of its own (``python -m kaasq_workers.executor``) so that a kernel that crashes, hangs or poisons the
device's context takes nothing else with it; for kaasq.local as a thread.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from kaasq import codec
from kaasq.builtins import builtin_names
from kaasq.codec import RequestDecoder
from kaasq.errors import (
    DeadlineExceeded,
    KaasqError,
    OutOfMemory,
    StoreFull,
    StoreUnavailable,
    UnknownGraph,
    WorkerFailed,
)
from kaasq.log import get_logger
from kaasq.messages import ErrorBody, Request, WorkerInfo
from kaasq.model import GraphSpec
from kaasq.settings import Settings
from kaasq_storage import BufferStore, open_store
from kaasq_workers.devices.opening import open_device
from kaasq_workers.devices.protocol import Device
from kaasq_workers.executor.engine import Engine
from kaasq_workers.executor.flight import Flight
from kaasq_workers.executor.libraries import Libraries
from kaasq_workers.executor.line import Line
from kaasq_workers.executor.outcomes import Committer, Ended, cancelled, conflict, digest, matches, withdrawal
from kaasq_workers.link import Answer, BlockingChannel, Hello, Job, Refusal, ToExecutor, Vitals, Withdraw, Withdrawn

GROUP_SIZE = 64  # outcomes in one transaction at most
GROUP_TIME_S = 2e-3  # a group is committed once running it has taken this long
GC_INTERVAL_S = 60.0
SPIN_S = 200e-6  # without pause until something ends; then pauses of an eighth of the time waited, at most
MOST_PAUSE_S = 250e-6  # so a request that comes while a long one runs starts soon

# Another try may well succeed, so these are answers but not outcomes: the same id may be sent again.
TRANSIENT = (OutOfMemory, StoreFull, StoreUnavailable, UnknownGraph)

log = get_logger()


class Executor:
    """Runs jobs, several at a time, in groups that share one commit.

    Raises BadRequest for settings that it cannot have.
    """

    def __init__(self, device: Device, store: BufferStore, settings: Settings, worker: WorkerInfo) -> None:
        self._device = device
        self._store = store
        self._decoder = RequestDecoder(settings.graph_limits)
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
        )
        self._committer = Committer(store, worker, ttl_s=settings.result_ttl)
        self._worker = worker
        self._ttl_s = settings.result_ttl
        self._group_since_s = self._begun_s = self._landed_s = 0.0
        self._log = log.bind(device=device.name)

    def serve(self, channel: BlockingChannel, vitals: Vitals) -> bool:
        """Until the front is gone (True), or the device can no longer be used.

        Then: whether whatever was running has been answered. If several requests were, nobody knows whose fault it is:
        they stay unanswered and in ``vitals``.
        """
        line: Line[Flight] = Line(self._engine.in_flight)
        next_gc = time.monotonic() + GC_INTERVAL_S
        gone = False
        while not (gone and not line.busy):
            if not gone:
                received = channel.receive(timeout_s=0.0 if line.busy else max(0.0, next_gc - time.monotonic()))
                gone = received is None
                self._receive(received or [], line, channel)
            if time.monotonic() >= next_gc:
                self._collect()
                next_gc = time.monotonic() + GC_INTERVAL_S
            self._turn(line, channel, vitals)
            if self._device.poisoned:
                return not line.flying
        return True

    def _turn(self, line: Line[Flight], channel: BlockingChannel, vitals: Vitals) -> None:
        """Start what may start, end one that has finished, commit what has ended, or else wait a little."""
        now = time.monotonic()
        if not line.ended:
            self._group_since_s = now
        while len(line.ended) < GROUP_SIZE and not self._device.poisoned and (job := line.next()) is not None:
            self._begin(job, line, vitals)
        finished = next((tag for tag, (_, flight) in line.flying.items() if flight.finished), None)
        if finished is not None and not self._device.poisoned:
            self._landed_s = now
            self._end(finished, line, vitals)
        due = len(line.ended) >= GROUP_SIZE or time.monotonic() - self._group_since_s > GROUP_TIME_S
        if line.ended and (finished is None or due or self._device.poisoned):
            channel.send(self._commit(line.take_ended()))
        elif finished is None and line.flying:
            waited = now - max(self._landed_s, self._begun_s)
            if waited > SPIN_S:
                time.sleep(min(MOST_PAUSE_S, waited / 8))

    def _receive(self, received: list[ToExecutor], line: Line[Flight], channel: BlockingChannel) -> None:
        withdrawn = [each for each in received if isinstance(each, Withdraw)]
        if withdrawn:
            channel.send([Withdrawn([each.tag for each in withdrawn], durable=self._withdraw(withdrawn))])
        line.waiting.extend(each for each in received if isinstance(each, Job))

    def close(self) -> None:
        """Give device and store back what it holds of them."""
        self._engine.close()

    def _withdraw(self, withdrawn: list[Withdraw]) -> bool:
        """Give those requests an outcome, unless they have one: whoever of the pool meets them answers with it.

        Whether that is done for good.
        """
        try:
            with self._store.transaction() as transaction:
                for each in withdrawn:
                    outcome = withdrawal(each.id, self._worker, self._ttl_s)
                    recorded = transaction.record(each.tenant, each.id, outcome)
                    self._log.debug("request.withdrawn", request=each.id, tenant=each.tenant, in_time=recorded)
        except KaasqError as error:
            self._log.warning("withdrawing.failed", requests=len(withdrawn), error=error.message)
            return False
        return True

    def _begin(self, job: Job, line: Line[Flight], vitals: Vitals) -> None:
        """Start a request: it is on its way then, has ended, or waits for room."""
        ended = Ended(job=job, reply_type=codec.reply_type(job.body, job.content_type))
        if job.published_ms is not None:
            ended.queued_us = max(0, round(time.time() * 1e6) - job.published_ms * 1000)
        flight: Flight | None = None
        self._begun_s = time.monotonic()
        vitals.begin(job.tag)
        with self._answered(ended):
            try:
                flight = self._start(job, ended, vitals)
            except OutOfMemory:
                if not line.flying:
                    raise
                vitals.end(job.tag)
                line.hold(job)
                return
        if flight is not None:
            line.started(ended, flight)
        elif not (self._device.poisoned and line.flying):  # else it may have met what another one did
            vitals.end(job.tag)
            line.ended.append(ended)

    def _end(self, tag: int, line: Line[Flight], vitals: Vitals) -> None:
        """Take what a request gave that has finished."""
        ended, flight = line.flying[tag]
        with self._answered(ended):
            ended.executed = executed = self._engine.end(flight)
            job, kernel_us = ended.job, executed.timings.kernel
            self._log.debug("request.ran", request=job.id, tenant=job.tenant, graph=ended.graph, kernel_us=kernel_us)
        if self._device.poisoned and len(line.flying) > 1:
            return
        line.landed(tag)
        vitals.end(tag)

    @contextmanager
    def _answered(self, ended: Ended) -> Iterator[None]:
        """Whatever a request raises becomes its answer, and the worker goes on."""
        job = ended.job
        try:
            yield
        except KaasqError as error:
            ended.error = error
            if isinstance(error, TRANSIENT):
                ended.digest = None
            self._log.info("request.failed", request=job.id, tenant=job.tenant, code=error.code, error=error.message)
        except MemoryError:
            ended.digest = None
            ended.error = WorkerFailed("the worker ran out of host memory")
        except Exception as error:  # noqa: BLE001 - whatever it was
            ended.digest = None
            ended.error = WorkerFailed(f"the worker failed on this request: {error!r}")
            self._log.exception("request.broke", request=job.id, tenant=job.tenant)

    def _start(self, job: Job, ended: Ended, vitals: Vitals) -> Flight | None:
        """Read it and have the engine begin it; None if it has an outcome already."""
        request, whole = self._decoder.read(job.body, job.content_type)
        graph = request.graph
        if not isinstance(graph, GraphSpec):
            raise UnknownGraph(f"this worker does not know graph {graph[:64]}: send it whole", graph=graph)
        ended.graph, ended.request = graph.name, request
        ended.graph_hash = graph.hash if whole else None
        ended.digest = digest(request, graph)
        earlier = self._store.outcome(job.tenant, job.id)
        if earlier is not None:
            if not matches(earlier, ended.digest):
                ended.digest = None
                raise conflict(job.id)
            ended.replay = earlier.reply
            return None
        deadline_ms = _deadline_ms(job, request)
        if deadline_ms is not None:
            late_ms = time.time() * 1000 - deadline_ms
            if late_ms > 0:
                raise DeadlineExceeded(f"its time was over {late_ms:.0f} ms before a worker could start it")
            vitals.due(job.tag, deadline_ms)

        def proceed() -> None:
            if vitals.withdrawn(job.tag):
                raise cancelled(job.id)

        proceed()
        return self._engine.begin(job.tenant, graph, request, proceed)

    def _commit(self, group: list[Ended]) -> list[Answer]:
        try:
            return self._committer.commit(group)
        except Exception as error:  # noqa: BLE001 - whatever one request's outcome does, the others get theirs
            if len(group) > 1:
                return [answer for each in group for answer in self._commit([each])]
            (ended,) = group
            known = isinstance(error, KaasqError)
            self._log.warning("commit.failed", request=ended.job.id, error=str(error), exc_info=not known)
            ended.discard()
            ended.digest, ended.replay, ended.queued_us = None, None, 0
            ended.error = error if isinstance(error, StoreFull) else WorkerFailed(f"the outcome was lost: {error}")
            return self._committer.commit(group)

    def _collect(self) -> None:
        self._engine.tidy()
        try:
            collected = self._store.gc()
        except KaasqError as error:
            self._log.warning("gc.failed", error=error.message)
            return
        if collected.objects or collected.outcomes or collected.orphans:
            self._log.info("gc.done", objects=collected.objects, nbytes=collected.nbytes, outcomes=collected.outcomes)


def _deadline_ms(job: Job, request: Request) -> int | None:
    """When it has to have ended, in milliseconds since the epoch: by the body's timeout or the message's expiration."""
    limits = [each for each in (request.timeout_ms, job.expiration_ms) if each is not None]
    if not limits:
        return None
    start_ms = job.published_ms if job.published_ms is not None else round(time.time() * 1000)
    return max(1, start_ms + min(limits))


def serve(sock: socket.socket, vitals: Vitals, settings: Settings) -> bool:
    """Open device and store, say hello (or why not), then serve until the front is gone.

    False if the device was lost and requests were left unanswered that may be to blame.
    """
    channel = BlockingChannel(sock)
    with ExitStack() as opened:
        try:
            store = open_store(settings.store_path, capacity=settings.store_capacity, sync=settings.store_sync)
            opened.callback(store.close)
            builtin_names()  # loads what other packages add: what cannot be is logged now, not at its first use
            device = open_device(settings)
            opened.callback(device.close)
            worker = WorkerInfo(host=socket.gethostname(), pid=os.getpid(), device=device.name, store=store.id)
            executor = Executor(device, store, settings, worker)
            opened.callback(executor.close)
        except KaasqError as error:
            channel.send([Refusal(error=ErrorBody.of(error))])
            return True
        try:
            channel.send([Hello(worker=worker, description=device.description)])
            return executor.serve(channel, vitals)
        except OSError as error:
            log.warning("front.gone", error=str(error))
    return True
