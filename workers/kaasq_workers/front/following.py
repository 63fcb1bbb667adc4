"""What the front publishes for a continuation: the request, as its tenant would, or the news that it could not."""

from __future__ import annotations

import time

from kaasq import codec
from kaasq.broker import Message
from kaasq.errors import DeadlineExceeded
from kaasq.events import trace_context
from kaasq.messages import ErrorBody, Reply, Status
from kaasq.topology import REQUESTS, STEP, request_key
from kaasq_workers.front.intake import Accepted
from kaasq_workers.link import Following


def request_of(before: Message, accepted: Accepted, following: Following) -> tuple[Message, str, str]:
    """The continuation as a request of the same tenant, with its exchange and key.

    Priority, trace context and the address for replies are those of the request that it follows.
    """
    message = Message(
        body=following.body,
        content_type=codec.reply_type(before.body, before.content_type),
        message_id=following.id,
        correlation_id=following.id,
        user_id=accepted.tenant,
        reply_to=None if following.quiet else before.reply_to,
        priority=before.priority,
        expiration_ms=following.timeout_ms,
        timestamp_ms=time.time_ns() // 1_000_000,
        headers=trace_context(before.headers),
        persistent=before.persistent,
        type=STEP if following.quiet else None,
    )
    return message, REQUESTS, request_key(accepted.tenant, following.pool)


def step_of(tenant: str, following: Following) -> tuple[Message, str, str]:
    """A due step of a tenant's workflow, which no request precedes."""
    message = Message(
        body=following.body,
        content_type=codec.MSGPACK,
        message_id=following.id,
        correlation_id=following.id,
        user_id=tenant,
        timestamp_ms=time.time_ns() // 1_000_000,
        type=STEP,
    )
    return message, REQUESTS, request_key(tenant, following.pool)


def refusal_of(
    before: Message, accepted: Accepted, following: Following, error: ErrorBody
) -> tuple[Message, str, str] | None:
    """The reply that a continuation gets which could not be published; None if nobody awaits one."""
    if accepted.reply is None:
        return None
    content_type = codec.reply_type(before.body, before.content_type)
    status: Status = "expired" if error.code == DeadlineExceeded.code else "error"
    message = Message(
        body=codec.encode(Reply(id=following.id, status=status, error=error), content_type),
        content_type=content_type,
        message_id=following.id,
        correlation_id=following.id,
        persistent=before.persistent,
    )
    return message, *accepted.reply
