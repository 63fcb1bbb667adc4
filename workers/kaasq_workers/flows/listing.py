"""Which workflows a tenant has, for whoever asks: from their heads alone, page by page."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import cast

import msgspec

from kaasq.errors import BadRequest
from kaasq.flows.model import FlowLine, FlowList, Sought, State
from kaasq_storage import BufferStore, Labelled
from kaasq_workers.flows.records import Book, Looked

PAGE = 1000  # workflows in one reply

_PLACE = re.compile(r"([0-9]{1,16})-(.+)", re.DOTALL)


def listing(store: BufferStore, tenant: str, sought: Sought) -> FlowList:
    """Those that are sought. Raises BadRequest for an ``after`` that no list had."""
    most = min(sought.most, PAGE)
    before = _place(sought.after) if sought.after else None
    found, total = store.labelled(tenant, most + 1, label=sought.state, before=before)
    lines = [_line(store, tenant, each) for each in found[:most]]
    following = f"{lines[-1].started_ms}-{lines[-1].id}" if len(found) > most else ""
    return FlowList(found=tuple(lines), total=total, next=following)


def _line(store: BufferStore, tenant: str, found: Labelled) -> FlowLine:
    started_ms = round(found.since * 1000)
    book: Book | None = None
    with suppress(msgspec.MsgspecError):  # a later version's, or broken: it is there all the same
        book = Book(Looked(store, tenant, found.id))
    if book is None or not book.known:
        return FlowLine(id=found.id, name="", state=cast(State, found.label), started_ms=started_ms)
    head = book.head
    return FlowLine(
        id=found.id,
        name=head.name,
        state=head.state,
        started_ms=started_ms,
        ended_ms=head.ended_ms,
        steps=head.steps,
        ended=head.steps - head.open,
    )


def _place(after: str) -> tuple[float, str]:
    match = _PLACE.fullmatch(after)
    if match is None:
        raise BadRequest(f"expected what a list of workflows had in `next`, given {after[:80]!r}", at="flows.after")
    return int(match[1]) / 1000, match[2]
