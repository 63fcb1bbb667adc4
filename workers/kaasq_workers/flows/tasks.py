"""What a job can be that is about a workflow, and what became of it."""

from __future__ import annotations

from typing import NamedTuple

from kaasq.flows.model import FlowList, FlowReply, FlowStart, FlowStatus
from kaasq.messages import Output
from kaasq_storage import Staged
from kaasq_workers.flows.records import Book
from kaasq_workers.link import Following, Told


class Step(NamedTuple):
    """A due step, which is run like any request. Not ``current``: it has ended, or another attempt took its place.

    ``deadline_ms``: until when it has to have ended, since the epoch. ``book``: the workflow as it stood when the step
    was looked up.
    """

    flow: str
    number: int
    step: int
    item: int
    current: bool
    graph: str
    deadline_ms: int | None
    book: Book | None = None


class Starting(NamedTuple):
    """A workflow that is to begin: its definition is staged in the store.

    ``kept_ms``: until when all that it is bound to in the store is there at least, if that is known to end.
    """

    start: FlowStart
    staged: Staged
    digest: str
    kept_ms: int | None = None


class Waiting(NamedTuple):
    """Somebody waits for a workflow."""

    flow: str


class Asking(NamedTuple):
    """Somebody is told how a workflow stands."""

    status: FlowStatus


class Listing(NamedTuple):
    """Somebody is told which workflows there are."""

    flows: FlowList


class Concluding(NamedTuple):
    """A workflow all of whose steps have ended, and what it gives: bytes, staged, or in the store already."""

    flow: str
    number: int
    outputs: tuple[tuple[str, Output, Staged | None], ...] = ()


class Again(NamedTuple):
    """A step that is not current comes once more: what it made due may not have been published."""

    step: Step


Task = Starting | Waiting | Asking | Listing | Concluding | Again
"""What is not run on the device."""


class Settled(NamedTuple):
    """What became of a task: its reply, if it gets one now; what is due; who else is told what.

    ``event``: what is told of the workflow ``flow``, under its ``name``.
    """

    reply: FlowReply | None = None
    follow: tuple[Following, ...] = ()
    told: tuple[Told, ...] = ()
    event: FlowReply | None = None
    flow: str = ""
    name: str = ""
