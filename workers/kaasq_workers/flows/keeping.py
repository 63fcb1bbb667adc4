"""What a workflow that runs still needs of the store: outcomes of its steps, what lies there, and when to prolong it.

Outcomes and unnamed objects expire. A workflow may take longer than they last, so whoever looks after it prolongs their
lives, in good time. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kaasq.flows.edges import Edges
from kaasq.flows.model import ENDED, FlowSpec, FlowStart, From
from kaasq.ids import following_id
from kaasq.messages import Stored
from kaasq_workers.flows.records import Book, Head


def keep_at_ms(head: Head, ttl_ms: int, longest_ms: int) -> int | None:
    """When all that it needs is to be kept for another ``ttl_ms``: half of that before the first of it would be gone.

    Where its inputs last for less, after half of their time. None: not any more. It has run for ``longest_ms`` then, or
    it has ended.
    """
    until_ms = head.kept_ms or head.started_ms + ttl_ms
    at_ms = max(until_ms - ttl_ms // 2, (head.started_ms + until_ms) // 2)
    return at_ms if head.state == "running" and at_ms < head.started_ms + longest_ms else None


def needed(flow: str, spec: FlowSpec, edges: Edges, book: Book) -> Iterator[str]:
    """The requests whose outcomes it still needs: of steps whose outputs others have yet to take, or the workflow."""
    given = {source.step for source in spec.outputs.values()}
    for step, each in enumerate(spec.steps):
        takers = (*edges.after[step], *edges.after_own[step])
        if each.name in given or any(book.step(taker).state not in ENDED for taker in takers):
            for _, record in book.items(step):
                if record.state == "completed":
                    yield following_id(flow, record.number)


def bound(start: FlowStart, book: Book) -> set[str]:
    """Stored objects that it was started with, or steps that have not ended are bound to, but for those with names."""
    found = [each for given in start.bind.values() for each in (given if isinstance(given, tuple) else (given,))]
    refs = set(_refs(found))
    for step, each in enumerate(start.workflow.steps):
        if book.step(step).state not in ENDED:
            refs.update(_refs(source for source in each.bind.values() if isinstance(source, From)))
    return refs


def _refs(values: Iterable[object]) -> Iterator[str]:
    return (each.ref for each in values if isinstance(each, Stored) and each.ref is not None)
