"""Whether an outcome is a request's own, and what is told of one that is withdrawn, or whose id was used before."""

from __future__ import annotations

import time

import msgspec

from kaasq import codec
from kaasq.continuations import by_hash
from kaasq.errors import Cancelled, Conflict, KernelFailed
from kaasq.messages import Continuation, ErrorBody, Reply, Request, WorkerInfo
from kaasq.model import GraphSpec, content_hash
from kaasq_storage import Outcome

WITHDRAWN = ""  # in place of the digest of a body


def matches(outcome: Outcome, body: str | None) -> bool:
    """Whether an outcome is that of the request with this digest; a withdrawal is, whatever the body."""
    return outcome.body in {body, WITHDRAWN}


def withdrawal(request_id: str, worker: WorkerInfo, ttl_s: float) -> Outcome:
    """The outcome of a request that was withdrawn, recorded before anybody has seen its body."""
    reply = Reply(id=request_id, status="cancelled", error=ErrorBody.of(cancelled(request_id)), worker=worker)
    now = time.time()
    return Outcome(body=WITHDRAWN, reply=codec.encode(reply), created=now, expires=now + ttl_s)


def cancelled(request_id: str) -> Cancelled:
    """The error of a request that was withdrawn."""
    return Cancelled(f"request {request_id} was cancelled", id=request_id)


def conflict(request_id: str) -> Conflict:
    """The error for an id that came a second time with another body."""
    return Conflict(f"request {request_id} already ran with another body; a new request needs a new id", id=request_id)


def is_deadly(error: ErrorBody) -> bool:
    """Whether this is the error of a request that killed executors, or was begun too often, until it was given up."""
    return error.code == KernelFailed.code and not error.detail.keys().isdisjoint({"kills", "attempts"})


def digest(request: Request, graph: GraphSpec, then: tuple[Continuation, ...] | None = None) -> str:
    """What makes two requests with one id the same: graph, bindings, scalars, names to keep, continuations.

    Not the encoding, nor the time that is left. ``then``: what follows it by hash, where that is known.
    """
    follow = by_hash(request.then) if then is None else then
    same = msgspec.structs.replace(request, graph=graph.hash, timeout_ms=None, then=follow)
    return content_hash(codec.canonical(same))
