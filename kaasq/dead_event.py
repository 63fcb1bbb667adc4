"""A dead event: one that a named subscription gave up, with the reason. How it is read, and told once more. Pure.

What a service buries says why in headers; what RabbitMQ gives up by itself has ``x-death``, as with dead requests.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kaasq.broker import Delivery, Message
from kaasq.dead_letter import DeadLetter, read
from kaasq.topology import dead_event_key

_REASONS = {
    "expired": "nobody took it in time (event_ttl)",
    "delivery_limit": "it was delivered too often: no program that took it lived to settle it",
    "rejected": "a program gave it up: it could not be read, or its letter not be written (see its log)",
}


def read_dead_event(delivery: Delivery, tenant: str) -> DeadLetter:
    """What a letter from a tenant's dead events says. Anything may lie there, so nothing is refused."""
    letter = read(delivery)
    subscription = delivery.routing_key.removeprefix(dead_event_key(""))
    letter = msgspec.structs.replace(letter, tenant=tenant, subscription=subscription)
    if letter.by == "worker":
        return letter
    deaths: Any = delivery.message.headers["x-death"]
    last = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    keys = last.get("routing-keys")
    key = keys[0] if isinstance(keys, list) and keys and isinstance(keys[0], str) else ""
    return msgspec.structs.replace(letter, routing_key=key, reason=_REASONS.get(letter.code, letter.reason))


def told_again(letter: DeadLetter) -> Message:
    """The event to publish once more. It keeps its id, from which a handler's requests have theirs."""
    # Whoever publishes it is the tenant, and not the worker that told it first.
    return msgspec.structs.replace(letter.request, user_id=None, expiration_ms=None)
