"""How a workflow stands, for whoever asks: made from its records and from the outcomes of its steps."""

from __future__ import annotations

import msgspec

from kaasq import codec
from kaasq.errors import BufferMissing
from kaasq.flows.model import FlowReply, FlowStatus, ItemStatus, StepStatus
from kaasq.ids import following_id
from kaasq_workers.flows.definitions import Definition
from kaasq_workers.flows.records import Book, Head
from kaasq_workers.flows.sources import Replies

PAGE = 1000  # items in one reply


def standing(flow: str, definition: Definition, book: Book) -> FlowStatus:
    """How it stands, without items."""
    spec, edges, head = definition.start.workflow, definition.edges, book.head
    steps: list[StepStatus] = []
    for number, step in enumerate(spec.steps):
        record = book.step(number)
        items = record.items
        if items is None and step.map is not None:
            items = head.counts.get(step.map)
        steps.append(
            StepStatus(
                name=step.name,
                graph=spec.graph_of(step).name,
                state=record.state,
                map=step.map,
                items=items if step.map is not None else 1,
                completed=record.completed,
                failed=record.failed,
                since_ms=record.since_ms,
                ended_ms=record.ended_ms,
                error=record.error,
                runs=record.runs,
                waits_for=tuple(spec.steps[each].name for each in sorted((*edges.before[number], *edges.own[number]))),
            )
        )
    return FlowStatus(
        id=flow,
        name=spec.name,
        state=head.state,
        started_ms=head.started_ms,
        ended_ms=head.ended_ms,
        deadline_ms=head.deadline_ms,
        error=head.error,
        steps=tuple(steps),
    )


def begun(outcome: bytes) -> bytes | None:
    """What a start is told that only waits for the begin, of a workflow that has ended. None if it never began."""
    reply = codec.decode_reply(outcome, codec.MSGPACK)
    if reply.flow is None:
        return None
    return codec.encode(FlowReply(id=reply.id, status="ok", flow=reply.flow, worker=reply.worker))


def with_items(
    status: FlowStatus, definition: Definition, book: Book, replies: Replies, tenant: str, after: int
) -> FlowStatus:
    """The same with the items that are or were due, behind the one with the number ``after``."""
    found: list[ItemStatus] = []
    for step, spec in enumerate(definition.start.workflow.steps):
        for item, record in book.items(step):
            if record.number > after:
                found.append(
                    ItemStatus(
                        step=spec.name,
                        item=item,
                        id=following_id(status.id, record.number),
                        number=record.number,
                        attempt=record.attempt,
                        state=record.state,
                        ended_ms=record.ended_ms,
                        error=record.error,
                    )
                )
    found.sort(key=lambda each: each.number)
    page = [_measured(each, book.head, replies, tenant) for each in found[:PAGE]]
    return msgspec.structs.replace(status, items=tuple(page), more=len(found) > PAGE)


def _measured(item: ItemStatus, head: Head, replies: Replies, tenant: str) -> ItemStatus:
    """With what its outcome knows, if it has completed and the outcome is still there."""
    if item.state != "completed":
        return item
    try:
        reply = replies.of(tenant, head, item.id)
    except BufferMissing:
        return item
    timings = msgspec.structs.replace(reply.timings, total=reply.timings.total + reply.timings.queued)
    return msgspec.structs.replace(item, timings=timings, worker=reply.worker, repeat=reply.repeat)
