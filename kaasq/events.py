"""Events: how a request's end is told, as a CloudEvent 1.0 in AMQP's binary mode. Written here, and read here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from kaasq import codec
from kaasq.broker import Message
from kaasq.errors import BadRequest
from kaasq.messages import EVENT_TYPE, Reply

SPEC_VERSION = "1.0"
TRACE_LENGTH = 512  # W3C Trace Context's own bound for tracestate

_PREFIXES = ("cloudEvents_", "cloudEvents:")  # the binding allows both; we write the first
_TRACE = ("traceparent", "tracestate")


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A request has ended: which, whose, how, and its reply without inline bytes.

    ``id`` is the same when the event is told again, which can happen.
    """

    id: str
    type: str
    source: str
    subject: str
    tenant: str
    graph: str
    """The graph's name."""
    word: str
    """How it ended: completed, failed, cancelled or expired."""
    time: datetime | None = None
    """When it was told."""
    traceparent: str | None = None
    tracestate: str | None = None
    reply: Reply

    @property
    def request_id(self) -> str:
        """The id of the request that ended."""
        return self.reply.id


def event_message(
    data: bytes,
    *,
    request_id: str,
    graph: str,
    word: str,
    source: str,
    told_ms: int,
    correlation_id: str | None = None,
    request_headers: Mapping[str, Any] | None = None,
    persistent: bool = True,
) -> Message:
    """The message of an event; ``data`` is the reply without inline bytes, in JSON. Published under ``event_key``.

    ``request_headers``: those of the request, whose trace context comes along.
    """
    told = datetime.fromtimestamp(told_ms / 1000, UTC)
    attributes = {
        "specversion": SPEC_VERSION,
        "id": f"{request_id}.{word}",
        "source": source,
        "type": EVENT_TYPE + word,
        "subject": graph,
        "time": told.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    attributes.update(trace_context(request_headers or {}))
    return Message(
        body=data,
        content_type=codec.JSON,
        message_id=attributes["id"],
        correlation_id=correlation_id,
        timestamp_ms=told_ms,
        headers={_PREFIXES[0] + name: value for name, value in attributes.items()},
        persistent=persistent,
    )


def trace_context(headers: Mapping[str, Any]) -> dict[str, str]:
    """The W3C trace context among a message's headers, which goes along with whatever the message causes."""
    found = {name: headers.get(name) for name in _TRACE}
    return {name: value for name, value in found.items() if isinstance(value, str) and len(value) <= TRACE_LENGTH}


def read_event(message: Message, tenant: str) -> EventMessage:
    """The event in a message from one of the tenant's queues. Raises BadRequest naming what does not fit."""
    attributes = _attributes(message.headers)
    version = _required(attributes, "specversion")
    if not version.startswith("1."):
        raise BadRequest(f"expected a CloudEvent of version 1.x, given {version[:40]!r}", at="cloudEvents_specversion")
    kind = _required(attributes, "type")
    word = kind.removeprefix(EVENT_TYPE)
    if word == kind or not word:
        raise BadRequest(f"expected a type {EVENT_TYPE}<word>, given {kind[:80]!r}", at="cloudEvents_type")
    subject = _required(attributes, "subject")
    return EventMessage(
        id=_required(attributes, "id"),
        type=kind,
        source=_required(attributes, "source"),
        subject=subject,
        tenant=tenant,
        graph=subject,
        word=word,
        time=_time(attributes.get("time")),
        traceparent=attributes.get("traceparent"),
        tracestate=attributes.get("tracestate"),
        reply=codec.decode_reply(message.body, message.content_type),
    )


def _attributes(headers: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers.items():
        for prefix in _PREFIXES:
            if name.startswith(prefix) and isinstance(value, str):
                found[name.removeprefix(prefix)] = value
    return found


def _required(attributes: Mapping[str, str], name: str) -> str:
    value = attributes.get(name)
    if not value:
        raise BadRequest("a CloudEvent needs this header, a text", at=_PREFIXES[0] + name)
    return value


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"expected a time as in RFC 3339, given {text[:80]!r}", at="cloudEvents_time") from None
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)
