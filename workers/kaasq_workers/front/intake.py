"""Decides from a delivery's properties alone whether it can become a job, and where its answer goes. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from kaasq import codec
from kaasq.broker import Message
from kaasq.errors import BadRequest, Forbidden, KaasqError
from kaasq.messages import Cancel
from kaasq.names import check_request_id, is_word
from kaasq.topology import DIRECT_REPLY_TO, REPLIES, reply_key

CONTROL_BYTES = 4 << 10
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==)"
_DIRECT = re.compile(rf"{re.escape(DIRECT_REPLY_TO)}{_BASE64}\.{_BASE64}")
"""What RabbitMQ (3.10 to 4.3) makes of ``amq.rabbitmq.reply-to``: a process and a key. Some other forms upset it."""


class Address(NamedTuple):
    """Where a reply is published."""

    exchange: str
    routing_key: str


class Accepted(NamedTuple):
    """A delivery that can become a job."""

    tenant: str
    id: str
    correlation_id: str
    reply: Address | None


class Refused(NamedTuple):
    """A delivery that cannot: why, and where to say so, if anywhere."""

    error: KaasqError
    reply: Address | None
    correlation_id: str


class Withdrawal(NamedTuple):
    """A request that its tenant wants not to run any further."""

    tenant: str
    id: str


def is_reply_address(exchange: str, routing_key: str, tenant: str) -> bool:
    """Whether a reply to that tenant may go there."""
    if exchange == REPLIES:
        return routing_key.startswith(f"{tenant}.")
    return not exchange and _DIRECT.fullmatch(routing_key) is not None


def examine_control(message: Message) -> Withdrawal:
    """What a message to all workers of a pool says. Raises Forbidden, BadRequest."""
    if message.user_id is None or not is_word(message.user_id):
        raise Forbidden(
            "a message to workers needs the user_id property, set to the user that its connection logged in as"
        )
    if len(message.body) > CONTROL_BYTES:
        raise BadRequest(f"has {len(message.body)} bytes, the limit is {CONTROL_BYTES}")
    cancel = codec.decode(message.body, message.content_type, Cancel)
    check_request_id(cancel.cancel)
    return Withdrawal(message.user_id, cancel.cancel)


def examine(message: Message) -> Accepted | Refused:
    """Look at the properties. The tenant is the user that the broker vouches for, never what a key or body says."""
    correlation_id = message.correlation_id or message.message_id or ""
    reply = Address("", message.reply_to) if message.reply_to and _DIRECT.fullmatch(message.reply_to) else None
    if message.user_id is None:
        return Refused(
            Forbidden("a request needs the user_id property, set to the user that its connection logged in as"),
            reply,
            correlation_id,
        )
    if not is_word(message.user_id):
        return Refused(
            Forbidden(
                f"user {message.user_id[:80]!r} cannot be a tenant: its name needs to be lower-case letters, digits, "
                "'_' and '-', at most 64"
            ),
            reply,
            correlation_id,
        )
    tenant = message.user_id
    if message.reply_to and reply is None:
        if not is_word(message.reply_to):
            return Refused(
                Forbidden(
                    f"reply_to {message.reply_to[:80]!r} is neither a reply id (lower-case letters, digits, '_', "
                    "'-') nor an address of RabbitMQ's direct reply-to"
                ),
                None,
                correlation_id,
            )
        reply = Address(REPLIES, reply_key(tenant, message.reply_to))
    try:
        check_request_id(message.message_id or "")
    except BadRequest as error:
        return Refused(error, reply, correlation_id)
    assert message.message_id is not None
    return Accepted(tenant, message.message_id, correlation_id, reply)
