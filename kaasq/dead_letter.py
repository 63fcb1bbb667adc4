"""A dead letter: a request that could not be processed, as it came, with the reason. How it is written and read. Pure.

There are two kinds in ``kaasq.dead``. What a worker buries says why in headers. What RabbitMQ gives up by itself (its
time was over in the queue, it was delivered too often) has ``x-death``, which only the broker writes: a worker carries
no such header on. Of the latter kind no other header is believed, for its tenant wrote them all.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from kaasq.broker import Delivery, Message
from kaasq.errors import BadRequest, Forbidden, KernelFailed, codes
from kaasq.ids import new_id
from kaasq.names import is_word
from kaasq.topology import DEAD, request_key

NOBODY = "unknown"
"""Stands for the tenant where there is none: in the letter's key and header."""

CARRIED_BYTES = 16 << 10
CARRIED_LENGTH = 1024

EVIDENCE = ("how", "kills", "attempts", "worker")
"""How executors died of it, how many, how many deliveries were begun and never ended, and by whom the last one was."""

_EXPIRATION = re.compile(r"[0-9]{1,10}")
_OURS = "kaasq-"
_BROKERS = (  # never carried on: what has x-death is RabbitMQ's letter
    "x-death",
    "x-first-death-",
    "x-last-death-",
    "x-delivery-count",
    "x-acquired-count",
)

_REASONS = {
    "expired": "its time was over before a worker took it from queue {queue}",
    "delivery_limit": "it was delivered too often from queue {queue}: no worker that took it lived to settle it",
    "rejected": "a worker gave it up: its answer could not be published (see the worker's log)",
    "maxlen": "queue {queue} was full",
}

CODES = frozenset({*codes(), *_REASONS, "unknown", "handler_failed"})
"""Those that a letter of this version can have: an error's, RabbitMQ's own, and that of a service's function."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one. ``tenant`` is None where the request had none that could be believed.

    ``request`` is the message as its tenant published it; times are in milliseconds since the epoch.
    """

    id: str
    tenant: str | None
    code: str
    reason: str
    by: Literal["worker", "broker"]
    buried_ms: int | None
    exchange: str
    routing_key: str
    nbytes: int
    request: Message
    evidence: Mapping[str, Any] = {}
    """What is known of how it failed, by the names of EVIDENCE."""
    subscription: str | None = None
    """Of an event: the named subscription that gave it up. ``request`` is the event's message then."""

    @property
    def whose(self) -> str:
        """Whose it is, beside others with the same id: its tenant, or the subscription of a tenant's event."""
        return f"subscription {self.subscription!r}" if self.subscription is not None else f"{self.tenant}"

    @property
    def may_have_outcome(self) -> bool:
        """Whether a worker recorded how it ended before it wrote this: under its id it is answered so, and not run,
        until that outcome expires. Letters are kept for longer.
        """
        return self.by == "worker" and self.code == KernelFailed.code

    @property
    def pool(self) -> str | None:
        """The pool that it was for, if its key says one."""
        words = self.routing_key.split(".")
        return words[1] if len(words) == 3 and is_word(words[1]) else None


def bury(
    delivery: Delivery, tenant: str, code: str, reason: str, evidence: Mapping[str, Any] | None = None
) -> tuple[Message, str, str]:
    """The letter for a request that a worker gives up: message, exchange, routing key.

    ``evidence``: what is known of how it failed; the names of EVIDENCE count.
    """
    return bury_message(delivery.message, delivery.exchange, delivery.routing_key, tenant, code, reason, evidence)


def bury_message(
    request: Message,
    exchange: str,
    routing_key: str,
    tenant: str,
    code: str,
    reason: str,
    evidence: Mapping[str, Any] | None = None,
) -> tuple[Message, str, str]:
    """The same for a request that the worker was to publish under that key, and the broker did not take."""
    said = {
        "code": code,
        "reason": reason[:CARRIED_LENGTH],
        "tenant": tenant,
        "user-id": request.user_id or "",
        "reply-to": request.reply_to or "",
        "exchange": exchange,
        "routing-key": routing_key,
        "buried": time.time_ns() // 1_000_000,
        "expiration": request.expiration_ms,
        "priority": request.priority,
        **{name: value for name, value in (evidence or {}).items() if name in EVIDENCE},
    }
    letter = Message(
        body=request.body,
        content_type=request.content_type,
        message_id=request.message_id or new_id(),
        correlation_id=request.correlation_id,
        timestamp_ms=request.timestamp_ms,
        type=request.type,
        headers={
            **_carried(_own(request.headers)),
            **{_OURS + name: value for name, value in said.items() if value is not None},
        },
    )
    return letter, DEAD, f"{tenant}.{code}"


def read(delivery: Delivery) -> DeadLetter:
    """What a letter taken from ``kaasq.dead`` says. Anything may lie there, so nothing is refused."""
    message, headers = delivery.message, delivery.message.headers
    if "x-death" in headers:
        return _brokers(delivery, headers["x-death"])
    said = {name.removeprefix(_OURS): value for name, value in headers.items() if name.startswith(_OURS)}
    user = _text(said.get("user-id"))
    request = msgspec.structs.replace(
        message,
        user_id=user or None,
        reply_to=_text(said.get("reply-to")) or None,
        expiration_ms=_number(said.get("expiration")),
        priority=_number(said.get("priority")),
        headers=_own(headers),
    )
    return DeadLetter(
        id=message.message_id or "",
        tenant=user if is_word(user) else None,
        code=_text(said.get("code")) or "unknown",
        reason=_text(said.get("reason")) or "no reason is given: a worker of kaasq did not write this letter",
        by="worker",
        buried_ms=_number(said.get("buried")),
        exchange=_text(said.get("exchange")),
        routing_key=_text(said.get("routing-key")),
        nbytes=len(message.body),
        request=request,
        evidence={name: said[name] for name in EVIDENCE if name in said},
    )


def again(letter: DeadLetter, *, fresh_id: bool = False) -> tuple[Message, str]:
    """The request to publish once more, and its routing key: as its tenant did, with all of its time before it.

    It goes to any worker of its pool: the slot that it may have been meant for has seen it. Under the same id it is
    answered from its outcome if it has one, and whoever awaits it gets the reply; ``fresh_id`` makes it another one.
    Raises Forbidden for a letter without a tenant, BadRequest for one without a pool: neither was ever a request.
    """
    if letter.tenant is None:
        raise Forbidden(
            f"dead letter {letter.id!r} has no tenant, so no worker would take it ({letter.reason})", id=letter.id
        )
    if letter.pool is None:
        raise BadRequest(f"dead letter {letter.id!r} does not say its pool: its key was {letter.routing_key!r}")
    request = msgspec.structs.replace(letter.request, user_id=letter.tenant, timestamp_ms=time.time_ns() // 1_000_000)
    if fresh_id:
        request = msgspec.structs.replace(request, message_id=new_id())
    return request, request_key(letter.tenant, letter.pool)


def _brokers(delivery: Delivery, deaths: object) -> DeadLetter:
    """A letter that RabbitMQ wrote. Its last death comes first; the properties are the request's own."""
    message = delivery.message
    last: Any = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    when, code, queue = last.get("time"), _text(last.get("reason")) or "unknown", _text(last.get("queue"))
    expiration = _text(last.get("original-expiration"))
    user = message.user_id or ""
    reason = _REASONS.get(code, "RabbitMQ gave it up ({code}) in queue {queue}").format(code=code, queue=queue)
    if code == "expired" and expiration:
        reason += f" (it had {expiration} ms)"
    return DeadLetter(
        id=message.message_id or "",
        tenant=user if is_word(user) else None,
        code=code,
        reason=reason,
        by="broker",
        buried_ms=round(when.timestamp() * 1000) if isinstance(when, dt.datetime) else None,
        exchange=_text(last.get("exchange")),
        routing_key=delivery.routing_key,
        nbytes=len(message.body),
        request=msgspec.structs.replace(
            message,
            headers=_own(message.headers),
            # Of a forged x-death RabbitMQ 3.10 keeps what it does not count itself: it may have any length.
            expiration_ms=int(expiration) if _EXPIRATION.fullmatch(expiration) else message.expiration_ms,
        ),
    )


def _own(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that the tenant gave."""
    return {name: value for name, value in headers.items() if not name.startswith((_OURS, *_BROKERS))}


def _carried(headers: Mapping[str, Any]) -> dict[str, Any]:
    """A request's headers as its dead letter carries them: plain ones, within bounds.

    Whatever a stranger put there must not grow past a frame together with ours.
    """
    carried: dict[str, Any] = {}
    room = CARRIED_BYTES
    for name, value in headers.items():
        if isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= CARRIED_LENGTH):
            room -= len(name) + len(str(value))
            if room < 0:
                break
            carried[name] = value
    return carried


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None
