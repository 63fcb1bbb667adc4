"""Dead events as the command line prints them: for people, and as plain values for programs."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from kaasq.dead_letter import DeadLetter
from kaasq.errors import BadRequest
from kaasq.events import read_event
from kaasq.plain_text import harmless
from kaasq.units import moment, size
from kaasq_producers.commands import display
from kaasq_producers.dead.told import as_age, shortened
from kaasq_producers.flows.display.words import plainly


def table(letters: list[DeadLetter]) -> Table:
    """What ``kaasq events dead list`` shows."""
    made = display.table("ID", "SUBSCRIPTION", "KEY", "CODE", ">AGE", "REASON")
    for each in letters:
        made.add_row(
            *(Text(plainly(text)) for text in (each.id, each.subscription or "", each.routing_key, each.code)),
            *(as_age(each), shortened(each.reason)),
        )
    return made


def as_json(letter: DeadLetter) -> dict[str, Any]:
    """For programs; times in milliseconds since the epoch."""
    return {
        "id": letter.id,
        "subscription": letter.subscription,
        "tenant": letter.tenant,
        "routing_key": letter.routing_key,
        "code": letter.code,
        "reason": letter.reason,
        "by": "handler" if letter.by == "worker" else "broker",
        "buried_ms": letter.buried_ms,
        "told_ms": letter.request.timestamp_ms,
        "nbytes": letter.nbytes,
        "headers": {name: display.plain(value) for name, value in letter.request.headers.items()},
    }


def whole(letter: DeadLetter) -> dict[str, Any]:
    """The same, and what the event tells: the reply to its request; None if it cannot be read."""
    try:
        data = msgspec.to_builtins(read_event(letter.request, letter.tenant or "").reply)
    except BadRequest:
        data = None
    return {**as_json(letter), "data": data}


def in_full(letter: DeadLetter) -> list[str]:
    """What ``kaasq events dead show`` prints."""
    message = letter.request
    by = "its handler gave it up" if letter.by == "worker" else "RabbitMQ gave it up"
    lines = [
        f"event {letter.id} of subscription {letter.subscription!r}, tenant {letter.tenant}",
        f"  {letter.code}: {letter.reason}",
        f"  {by} {moment(letter.buried_ms)} ({as_age(letter)} ago), told {moment(message.timestamp_ms)}",
        f"  came with key {letter.routing_key!r}",
        f"  body: {size(letter.nbytes)} of {message.content_type or 'no content type'}",
    ]
    lines += [f"  header {name}: {value}" for name, value in message.headers.items()]
    try:
        event = read_event(message, letter.tenant or "")
    except BadRequest as error:
        return [harmless(each) for each in (*lines, f"  it cannot be read: {error.message}")]
    lines.append(f"  request {event.request_id} of graph {event.graph!r}: {event.word}")
    if event.reply.error is not None:
        lines.append(f"  which failed with {event.reply.error.code}: {event.reply.error.message}")
    lines += [f"  output {name}: {each.name or each.ref or 'sent'}" for name, each in event.reply.outputs.items()]
    return [harmless(each) for each in lines]
