"""Who waits for a workflow to end: remembered with it, and told."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kaasq import codec
from kaasq.errors import QuotaExceeded
from kaasq.flows.model import FlowReply
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq_workers.flows.records import Head, Waiter
from kaasq_workers.link import Job, Told


def told(tenant: str, waiting: Iterable[Waiter], reply: FlowReply) -> tuple[Told, ...]:
    """The reply for each who waits."""
    return tuple(
        Told(
            tenant,
            each.id,
            each.correlation_id,
            each.exchange,
            each.routing_key,
            each.content_type,
            codec.encode(msgspec.structs.replace(reply, id=each.id), each.content_type),
        )
        for each in waiting
    )


def remember(head: Head, job: Job, content_type: str, most: int, worker: WorkerInfo) -> tuple[Told, ...]:
    """Whoever asked waits from now on. If there are too many, the one who has waited longest is told so."""
    if job.to is None:
        return ()
    waiter = Waiter(job.id, job.to.correlation_id, job.to.exchange, job.to.routing_key, content_type)
    waiting = [*(each for each in head.waiting if each.id != job.id), waiter]
    head.waiting, forgotten = tuple(waiting[-most:]), waiting[:-most]
    error = QuotaExceeded(
        f"more wait for this workflow than the {most} that may (graph_limits.waiting): ask again",
        which="waiting",
        limit=most,
        used=len(waiting),
    )
    return told(job.tenant, forgotten, FlowReply(id=job.id, status="error", error=ErrorBody.of(error), worker=worker))
