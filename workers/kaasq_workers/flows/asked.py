"""What is asked about workflows, answered from the store alone: how one stands, how one ended, which there are."""

from __future__ import annotations

import msgspec

from kaasq import codec
from kaasq.errors import BadRequest, NameNotFound
from kaasq.flows.model import Asked, FlowCall, FlowReply, FlowStatus
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq_storage import BufferStore
from kaasq_workers.flows.definitions import Definitions
from kaasq_workers.flows.listing import listing
from kaasq_workers.flows.records import Book, Looked, Pages
from kaasq_workers.flows.sources import Replies
from kaasq_workers.flows.standing import standing, with_items
from kaasq_workers.link import Job


def unknown(flow: str) -> NameNotFound:
    """The error for a workflow that there is not."""
    return NameNotFound(
        f"there is no workflow {flow[:64]!r} in this pool: it never began, or ended longer than result_ttl ago",
        name=flow[:64],
    )


def status(store: BufferStore, definitions: Definitions, replies: Replies, tenant: str, asked: Asked) -> FlowStatus:
    """How a workflow stands. Raises NameNotFound, and what the store raises."""
    book = Book(Pages(store.notes(tenant, asked.id)))
    if not book.known:
        raise unknown(asked.id)
    definition = definitions.of(tenant, book.head.definition)
    found = standing(asked.id, definition, book)
    return with_items(found, definition, book, replies, tenant, asked.after) if asked.items else found


class Informed:
    """Who answers questions and only reads."""

    def __init__(self, store: BufferStore, worker: WorkerInfo) -> None:
        self._store = store
        self._worker = worker
        self._definitions = Definitions(store)
        self._replies = Replies(store)

    def reply(self, job: Job) -> FlowReply | None:
        """The reply to a question. None: there is none yet, or it is none. Raises what the store raises."""
        question = codec.question(job.body, job.content_type)
        if question is None:
            return None
        try:
            if not isinstance(question, FlowCall):
                found = listing(self._store, job.tenant, question.flows)
                return FlowReply(id=job.id, status="ok", flows=found, worker=self._worker)
            if question.flow.do == "wait":
                return self._ended(job, question.flow.id)
            stands = status(self._store, self._definitions, self._replies, job.tenant, question.flow)
        except (NameNotFound, BadRequest) as error:
            return FlowReply(id=job.id, status="error", error=ErrorBody.of(error), worker=self._worker)
        return FlowReply(id=job.id, status="ok", flow=stands, worker=self._worker)

    def _ended(self, job: Job, flow: str) -> FlowReply | None:
        if not Book(Looked(self._store, job.tenant, flow)).known:
            raise unknown(flow)
        outcome = self._store.outcome(job.tenant, flow)
        if outcome is None:
            return None
        return msgspec.structs.replace(codec.decode_reply(outcome.reply, codec.MSGPACK), id=job.id)
