"""What is due in a workflow and has not ended: all of it, or what followed from the end of one step. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kaasq.flows.edges import Edges
from kaasq_workers.flows.records import Book

_ALL = (-1,)  # instead of items


class Ready(NamedTuple):
    """A step, or an item of one, that is due. ``step`` None: the workflow is to be concluded."""

    number: int
    step: int | None = None
    item: int = 0
    attempt: int = 1
    due_ms: int | None = None
    """Not to be published before; None: now."""


def all_due(book: Book, steps: int) -> list[Ready]:
    """All of it."""
    head, found = book.head, list[Ready]()
    if head.state != "running":
        return []
    for step in range(steps):
        if book.step(step).state == "running":
            for item, record in book.items(step):
                if record.state == "running" and record.number:
                    found.append(Ready(record.number, step, item, record.attempt, record.due_ms))
    if head.concluding:
        found.append(Ready(head.concluding))
    return found


def caused_by(book: Book, edges: Edges, number: int, step: int | None = None, item: int = 0) -> list[Ready]:
    """What the end of that one, of that step and item, made due and has not ended; 0 is the workflow's begin.

    And what the ends of those made due, and so on: an executor that goes from step to step does so on one delivery,
    which alone comes again if its worker dies. Of a workflow that has ended, its conclusion: who tells of it may have
    died.
    """
    head, found = book.head, list[Ready]()
    numbers, touched = {number}, dict[int, Iterable[int]]()
    if step is not None:
        touched[step] = (item,)
    for each in edges.order:
        record = book.step(each)
        if record.state == "waiting":
            continue
        caused = record.cause in numbers
        if record.items is None:  # it never ran; items that waited for its own have been due since
            touched[each] = _ALL if caused else ()
            continue
        own = {at for before in edges.own[each] for at in touched.get(before, ())}.union(touched.get(each, ()))
        touched[each] = items = range(record.items) if caused or -1 in own else own
        for at in items:
            its = book.item(each, at)
            if its.number:
                numbers.add(its.number)
                if its.state == "running" and its.number != number:
                    found.append(Ready(its.number, each, at, its.attempt, its.due_ms))
    conclusion = [Ready(head.concluding)] if head.concluding and head.cause in numbers else []
    return [*found, *conclusion] if head.state == "running" else conclusion
