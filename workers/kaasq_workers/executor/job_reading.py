"""What a job is: a request, a step of a workflow, the start of one, or a question; and what is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterable

from kaasq.checks import GraphLimits
from kaasq.codec import Decoded, RequestDecoder
from kaasq.errors import Conflict, UnknownGraph
from kaasq.flows.model import FlowCall, FlowsCall, FlowStart, StepCall
from kaasq.ids import split_id
from kaasq.messages import Binding, Request
from kaasq.model import GraphSpec
from kaasq.quotas import LimitsByTenant, check_inline
from kaasq_storage import BufferStore
from kaasq_workers.executor.ahead import Below
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.following import Followers
from kaasq_workers.executor.identity import digest
from kaasq_workers.flows.driver import Flows, digest_of
from kaasq_workers.flows.settling import digest_of_step
from kaasq_workers.flows.tasks import Concluding
from kaasq_workers.link import Job
from kaasq_workers.vitals import Vitals


class JobReader:
    """Of one executor. What it finds out goes into ``Ended``."""

    def __init__(
        self, store: BufferStore, followers: Followers, flows: Flows, quotas: LimitsByTenant, limits: GraphLimits
    ) -> None:
        self._store = store
        self._followers = followers
        self._flows = flows
        self._limits = quotas
        self._decoder = RequestDecoder(limits)

    def read(self, job: Job, ended: Ended, vitals: Vitals) -> None:
        """What it is. Raises what is wrong with it."""
        ahead = self._followers.made.take(job.body)
        if ahead is not None:
            self._take(job, ended, vitals, ahead.decoded, ahead.below)
            return
        match self._decoder.read(job.body, job.content_type, job.tenant):
            case Decoded() as decoded:
                self._take(job, ended, vitals, decoded)
            case StepCall() as call:
                self._take_step(job, ended, vitals, call)
            case FlowStart() as start:
                self._take_start(job, ended, start)
            case FlowCall(flow=asked):
                ended.task = self._flows.asked(job, asked)
            case FlowsCall(flows=sought):
                ended.task = self._flows.listed(job, sought)

    def forget(self, graph: str, tenant: str) -> None:
        """The tenant has to send the graph with that hash whole once more."""
        self._decoder.forget(graph, tenant)

    def _take(self, job: Job, ended: Ended, vitals: Vitals, decoded: Decoded, checked: Below | None = None) -> None:
        """A request. Raises UnknownGraph, and what is wrong with what follows it, unless that is ``checked``."""
        request, graph = decoded.request, decoded.request.graph
        if not isinstance(graph, GraphSpec):
            if job.verdict is not None:
                ended.graph = job.graph
                raise job.verdict.exception()  # though it cannot be recorded without knowing what it asked
            raise UnknownGraph(f"this worker does not know graph {graph[:64]}: send it whole", graph=graph)
        ended.graph, ended.request = graph.name, request
        vitals.read(job.tag, graph.name)
        ended.graph_hash = graph.hash if decoded.whole else None
        below = self._followers.check(job.id, request, ended.reply_type) if checked is None else checked
        ended.below, ended.deadline_ms = below, _deadline_ms(job, request)
        found = below.of(request.then)
        ended.follow_bytes, ended.digest = found.nbytes, digest(request, graph, found.by_hash)

    def _take_step(self, job: Job, ended: Ended, vitals: Vitals, call: StepCall) -> None:
        """A step of a workflow. Raises BadRequest, NameNotFound."""
        if call.step.step is None:
            ended.task = Concluding(*split_id(job.id))  # also if it cannot be told what it gives
            ended.task = self._flows.conclude(job, call.step)
            return
        step = ended.step = self._flows.step(job, call.step)
        ended.graph, ended.deadline_ms = step.graph, step.deadline_ms
        ended.digest = digest_of_step(call.step)
        vitals.read(job.tag, step.graph)

    def _take_start(self, job: Job, ended: Ended, start: FlowStart) -> None:
        """A workflow to begin. Raises what is wrong with it; Conflict."""
        ended.graph, ended.digest = start.workflow.name, digest_of(start)
        ended.begins = start.reply == "started"
        earlier = self._store.outcome(job.tenant, job.id)
        if earlier is None:
            limits = self._limits.of(job.tenant)
            check_inline(limits, inline_bytes(each for bound in start.bind.values() for each in _listed(bound)))
            try:
                ended.task = self._flows.start(job, start)
            except Conflict:
                ended.digest = None
                raise
        elif job.repeated:
            ended.due = self._flows.again(job)


def inline_bytes(bound: Iterable[Binding]) -> int:
    """Bytes that came with it."""
    return sum([len(each) for each in bound if isinstance(each, bytes)])


def _listed(bound: Binding | tuple[Binding, ...]) -> tuple[Binding, ...]:
    return bound if isinstance(bound, tuple) else (bound,)


def _deadline_ms(job: Job, request: Request) -> int | None:
    """When it has to have ended, in milliseconds since the epoch: by the body's timeout or the message's expiration."""
    limits = [each for each in (request.timeout_ms, job.expiration_ms) if each is not None]
    if not limits:
        return None
    start_ms = job.published_ms if job.published_ms is not None else round(time.time() * 1000)
    return max(1, start_ms + min(limits))
