"""AMQP properties and headers of the messages, as the header schemas of an AsyncAPI document.

AsyncAPI has no place for AMQP's properties, so they stand among the headers; ``x-amqp`` says which a field is.
"""

from __future__ import annotations

from typing import Any

from kaasq.messages import EVENT_TYPE, EVENT_WORDS
from kaasq.names import REQUEST_ID_BYTES, WORD
from kaasq.topology import DIRECT_REPLY_TO

Schema = dict[str, Any]


def _property(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, "x-amqp": "property", **more}


def _header(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, "x-amqp": "header", **more}


def _fields(fields: dict[str, Schema], *required: str) -> Schema:
    return {"type": "object", "properties": fields, "required": list(required)}


_DELIVERY_MODE = {"type": "integer", "enum": [1, 2]}

REQUEST = _fields(
    {
        "message_id": _property(
            f"The request's id, of your making, 1 to {REQUEST_ID_BYTES} bytes. The same id with the same body is "
            f"answered from its outcome and never run twice.",
            minLength=1,
            maxLength=REQUEST_ID_BYTES,
        ),
        "user_id": _property(
            "The user that the connection logged in as, which RabbitMQ verifies: the tenant.",
            pattern=f"^{WORD.pattern}$",
        ),
        "reply_to": _property(
            "A reply id, or amq.rabbitmq.reply-to. Left out: only the event tells how the request ended.",
            anyOf=[{"pattern": f"^{WORD.pattern}$"}, {"pattern": f"^{DIRECT_REPLY_TO[:-1]}(\\..*)?$"}],
        ),
        "correlation_id": _property("Comes back in the reply; the message id if left out."),
        "expiration": _property(
            "Milliseconds after which the request is not started, and stopped.", pattern="^[0-9]{1,10}$"
        ),
        "delivery_mode": _property("2 survives a restart of the broker.", **_DELIVERY_MODE),
        "content_type": _property(
            "application/json, or application/msgpack for the same body with bytes as they are.",
            enum=["application/json", "application/msgpack"],
        ),
        "traceparent": _header("W3C Trace Context; comes back in the event."),
        "tracestate": _header("W3C Trace Context; comes back in the event."),
    },
    "message_id",
    "user_id",
)

CANCEL = _fields({name: REQUEST["properties"][name] for name in ("user_id", "content_type")}, "user_id")

REPLY = _fields(
    {
        "message_id": _property("The request's id; absent where the request had none."),
        "correlation_id": _property("That of the request, or its message id."),
        "content_type": _property("That of the request."),
        "delivery_mode": _property("That of the request.", **_DELIVERY_MODE),
    },
    "correlation_id",
    "content_type",
)

EVENT = _fields(
    {
        "message_id": _property("The request's id, a dot and the word."),
        "correlation_id": _property("That of the request, or its message id."),
        "content_type": _property("The type of the data.", const="application/json"),
        "delivery_mode": _property("That of the request.", **_DELIVERY_MODE),
        "cloudEvents_specversion": _header("The version of CloudEvents.", const="1.0"),
        "cloudEvents_id": _header("The request's id, a dot and the word: the same for a repeated event."),
        "cloudEvents_source": _header("The worker: its pool, host and slot."),
        "cloudEvents_type": _header("How it ended.", enum=[EVENT_TYPE + word for word in EVENT_WORDS.values()]),
        "cloudEvents_subject": _header("The graph's name."),
        "cloudEvents_time": _header("When it was told, as in RFC 3339.", format="date-time"),
        "cloudEvents_traceparent": _header("That of the request."),
        "cloudEvents_tracestate": _header("That of the request."),
    },
    "message_id",
    "content_type",
    "cloudEvents_specversion",
    "cloudEvents_id",
    "cloudEvents_source",
    "cloudEvents_type",
    "cloudEvents_subject",
)
