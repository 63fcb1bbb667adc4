"""What changes how workflows stand, within one transaction: their begin, their steps' ends, their own end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping

import msgspec

from kaasq import codec
from kaasq.errors import Cancelled, KaasqError, WorkerFailed
from kaasq.flows.model import ENDED, Due, FlowReply, State, StepCall
from kaasq.flows.start_checks import items_at_start
from kaasq.ids import chain_id, following_id
from kaasq.log import get_logger
from kaasq.messages import ErrorBody, Output, Reply, Status, WorkerInfo
from kaasq.model import content_hash
from kaasq_storage import BufferStore, Outcome, Transaction, Wanted
from kaasq_workers.flows.asked import unknown
from kaasq_workers.flows.definitions import Definition, Definitions
from kaasq_workers.flows.pending import Ready
from kaasq_workers.flows.progress import PASSING, PASSING_MOST, PASSING_PAUSE_MS, Progress
from kaasq_workers.flows.records import Book, Head
from kaasq_workers.flows.rules import Rules
from kaasq_workers.flows.sources import Fresh, Replies, Sources
from kaasq_workers.flows.standing import standing
from kaasq_workers.flows.tasks import Again, Asking, Concluding, Listing, Settled, Starting, Step, Task, Waiting
from kaasq_workers.flows.waiting import remember, told
from kaasq_workers.link import Following, Job, Told

DOUBLINGS = 6  # of the patience with what is due
KEPT_S = 24 * 3600.0  # for so long a definition is kept beyond the last look at its workflow: at most DOUBLINGS later

_STATUSES: Mapping[str, Status] = {"completed": "ok", "cancelled": "cancelled", "expired": "expired"}

log = get_logger()


class Settling:
    """The workflows that a transaction changes. ``save`` before it ends."""

    def __init__(
        self, transaction: Transaction, store: BufferStore, definitions: Definitions, replies: Replies, rules: Rules,
        worker: WorkerInfo, fresh: Fresh,
    ) -> None:  # fmt: skip
        """``fresh``: contents of objects that the transaction publishes."""
        self._transaction = transaction
        self._store = store
        self._definitions = definitions
        self._replies = replies
        self._rules = rules
        self._worker = worker
        self._fresh = fresh
        self._books: dict[tuple[str, str], Book] = {}
        self._now_ms = time.time_ns() // 1_000_000

    def save(self) -> None:
        """Write what has changed."""
        for book in self._books.values():
            if book.known:
                book.save()

    def task(self, job: Job, task: Task, error: KaasqError | None, content_type: str) -> Settled:
        """Settle what is not run on the device; ``error``: what came of preparing it."""
        match task:
            case Starting():
                return self._begin(job, task, content_type)
            case Waiting():
                return self._wait(job, task, content_type)
            case Asking():
                return Settled(FlowReply(id=job.id, status="ok", flow=task.status, worker=self._worker))
            case Listing():
                return Settled(FlowReply(id=job.id, status="ok", flows=task.flows, worker=self._worker))
            case Concluding():
                return self._conclude(job, task, error)
            case Again(step=step):
                book = self._book(job.tenant, step.flow)
                progress = self._progress(book, job.tenant, step.flow)
                ready = progress.again(step.number, step.step, step.item) if job.repeated else []
                return Settled(follow=tuple(self._due(job.tenant, step.flow, book, ready, content_type)))

    def due(self, job: Job, flow: str, ready: Iterable[Ready], content_type: str) -> list[Following]:
        """The messages for what is due."""
        return self._due(job.tenant, flow, self._book(job.tenant, flow), ready, content_type)

    def ran(self, job: Job, step: Step, reply: Reply, *, ended_ms: int | None = None) -> list[Ready]:
        """A step has ended, now or earlier, with that reply: what is due. ``ended_ms``: when, if not now."""
        book = self._book(job.tenant, step.flow)
        if not book.known:
            return []
        try:
            progress = self._progress(book, job.tenant, step.flow)
        except KaasqError as gone:  # the step has ended all the same; whoever looks at the workflow gives it up
            log.warning("workflow.unreadable", workflow=step.flow, tenant=job.tenant, error=gone.message)
            return []
        error = None
        if reply.status != "ok":
            error = reply.error or ErrorBody(code=KaasqError.code, message="it failed")
        record = book.step(step.step)
        completed = record.completed
        ready = progress.ended(step.number, step.step, step.item, error)
        if reply.repeat is not None and record.completed > completed:
            record.runs += reply.repeat.runs
        if job.repeated:  # else whoever recorded it publishes that; anybody may send a step again
            known = {each.number for each in ready}
            ready += [each for each in progress.again(step.number, step.step, step.item) if each.number not in known]
        if ended_ms is not None:
            book.step(step.step).ended_ms = book.change(step.step, step.item).ended_ms = ended_ms
        return ready

    def digest(self, tenant: str, step: Step) -> str:
        """What its outcome says of the body of the step's message, had it come by itself."""
        spec = self._of(self._book(tenant, step.flow), tenant).start.workflow.steps[step.step]
        return digest_of_step(Due(flow=step.flow, step=spec.name, item=step.item))

    def withdraw(self, tenant: str, flow: str) -> tuple[list[Told], list[Following]] | None:
        """Cancel a workflow: who is told at once, and what is published so that nobody stays without news.

        None if there is none of that id that is running. What cannot be read must not hold up others' withdrawals in
        this transaction.
        """
        try:
            book = self._book(tenant, flow)
            if not book.known or book.head.state != "running":
                return None
            records = [book.step(number) for number in range(book.head.steps)]
        except msgspec.MsgspecError as unreadable:  # a later version's, or broken: nothing that can be mended here
            log.error("workflow.unreadable", workflow=flow, tenant=tenant, error=str(unreadable))
            return None
        try:
            self._of(book, tenant)
        except WorkerFailed as gone:
            self._give_up(tenant, flow, book, gone)
            return [], []
        error = ErrorBody.of(Cancelled(f"workflow {flow} was cancelled", id=flow))
        for record in records:
            if record.state not in ENDED:
                record.state, record.ended_ms = "cancelled", self._now_ms
        reply = self._end(tenant, flow, book, "cancelled", error, {})
        self._record(tenant, chain_id(flow), "", reply)
        head = book.head
        head.number += 1
        head.concluding = head.number
        self._remind(tenant, flow, head, self._now_ms + self._patience_ms(head), sooner=False)
        return list(told(tenant, head.waiting, reply)), self._due(
            tenant, flow, book, [Ready(head.concluding)], codec.MSGPACK
        )

    def look(self, tenant: str, flow: str, kept_ms: int | None = None) -> list[Following]:
        """What has been due for too long, or was to be published later: all that is to be published now.

        ``kept_ms``: until when all that it needs has just been prolonged, if it was.
        """
        book = self._book(tenant, flow)
        head = book.head
        head.kept_ms = head.kept_ms if kept_ms is None else kept_ms
        if not book.known or (head.state != "running" and not head.concluding):
            self._transaction.notes(tenant, flow).remind(None)
            return []
        if head.state != "running":  # it was cancelled, and nobody knows whether that was told
            self._remind(tenant, flow, head, self._now_ms + self._patience_ms(head), sooner=False)
            return self._due(tenant, flow, book, [Ready(head.concluding)], codec.MSGPACK)
        try:
            self._of(book, tenant)
        except WorkerFailed as error:
            self._give_up(tenant, flow, book, error)
            return []
        self._transaction.prolong(tenant, Wanted(ref=head.definition), KEPT_S)
        patience_ms = self._patience_ms(head)
        publish: list[Ready] = []
        late, later = False, [self._now_ms + patience_ms]
        keep_at_ms = self._rules.keep_at_ms(head)
        if keep_at_ms is not None:
            later.append(keep_at_ms)
        for each in self._progress(book, tenant, flow).due():
            if each.step is None:
                publish.append(each)
                continue
            record = book.item(each.step, each.item)
            since_ms = head.started_ms if record.since_ms is None else record.since_ms
            at_ms = since_ms + patience_ms if record.due_ms is None else record.due_ms
            if at_ms > self._now_ms:
                later.append(at_ms)
                continue
            if record.due_ms is None:
                late = True
            else:
                record = book.change(each.step, each.item)
                record.due_ms, record.since_ms = None, self._now_ms
            publish.append(each._replace(due_ms=None))
        head.looked = min(head.looked + late, DOUBLINGS)
        self._remind(tenant, flow, head, min(later), sooner=False)
        return self._due(tenant, flow, book, publish, codec.MSGPACK)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _begin(self, job: Job, starting: Starting, content_type: str) -> Settled:
        book, start = self._book(job.tenant, job.id), starting.start
        if book.known:  # begun by an earlier delivery, or it is asked for again
            starting.staged.discard()
            ready = self._progress(book, job.tenant, job.id).again(0) if job.repeated else []
        else:
            spec = start.workflow
            stored, _ = self._transaction.publish(starting.staged, ttl_s=KEPT_S)
            definition = self._definitions.keep(job.tenant, stored.ref, start, stored.nbytes)
            began_ms = job.published_ms or self._now_ms
            book.head = Head(
                name=spec.name,
                definition=stored.ref,
                digest=starting.digest,
                started_ms=self._now_ms,
                deadline_ms=None if start.timeout_ms is None else began_ms + start.timeout_ms,
                steps=len(spec.steps),
                kept_ms=min(self._now_ms + round(self._rules.ttl_s * 1000), starting.kept_ms or sys.maxsize),
                counts={name: items for name, items in items_at_start(start, spec).items() if items is not None},
            )
            book.known = True
            self._transaction.notes(job.tenant, job.id).label(book.head.state, self._now_ms / 1000)
            log.info("workflow.began", workflow=job.id, tenant=job.tenant, name=spec.name, steps=len(spec.steps))
            ready = self._progress(book, job.tenant, job.id, definition).begin()
            at_ms = self._now_ms + self._patience_ms(book.head)
            self._remind(job.tenant, job.id, book.head, min(at_ms, self._rules.keep_at_ms(book.head) or at_ms))
        follow = tuple(self._due(job.tenant, job.id, book, ready, content_type))
        if start.reply == "started":
            status = standing(job.id, self._of(book, job.tenant), book)
            return Settled(FlowReply(id=job.id, status="ok", flow=status, worker=self._worker), follow)
        return Settled(follow=follow, told=self._remember(book.head, job, content_type))

    def _wait(self, job: Job, waiting: Waiting, content_type: str) -> Settled:
        outcome = self._transaction.outcome(job.tenant, waiting.flow)
        if outcome is not None:
            reply = codec.decode(outcome.reply, codec.MSGPACK, FlowReply)
            return Settled(msgspec.structs.replace(reply, id=job.id))
        book = self._book(job.tenant, waiting.flow)
        if not book.known:  # its records have expired since it was looked for
            error = ErrorBody.of(unknown(waiting.flow))
            return Settled(FlowReply(id=job.id, status="error", error=error, worker=self._worker))
        return Settled(told=self._remember(book.head, job, content_type))

    def _conclude(self, job: Job, concluding: Concluding, error: KaasqError | None) -> Settled:
        tenant, flow = job.tenant, concluding.flow
        book = self._book(tenant, flow)
        if not book.known or book.head.concluding != concluding.number:
            return Settled()
        if book.head.state != "running":  # whoever ended it may have died before anybody was told
            self._transaction.notes(tenant, flow).remind(None)
            outcome = self._transaction.outcome(tenant, flow)
            if outcome is None:
                return Settled()
            reply = codec.decode(outcome.reply, codec.MSGPACK, FlowReply)
            return Settled(told=told(tenant, book.head.waiting, reply), event=reply, flow=flow, name=book.head.name)
        head = book.head
        if error is not None and error.code in PASSING and head.tries < PASSING_MOST:
            head.tries += 1
            self._remind(tenant, flow, head, self._now_ms + PASSING_PAUSE_MS * 2**head.tries)
            return Settled()
        state, cause = self._progress(book, tenant, flow).verdict()
        if error is not None:
            state, cause = "failed", ErrorBody.of(error)
        outputs: dict[str, Output] = {}
        keep = self._of(book, tenant).start.keep
        for name, output, staged in concluding.outputs if state == "completed" else ():
            outputs[name] = output
            if output.ref is not None:
                self._transaction.prolong(tenant, Wanted(ref=output.ref), self._rules.ttl_s)
            if staged is not None:
                stored, version = self._transaction.publish(
                    staged, dtype=output.dtype, shape=output.shape, name=keep.get(name), ttl_s=self._rules.ttl_s
                )
                outputs[name] = msgspec.structs.replace(output, ref=stored.ref, name=keep.get(name), version=version)
        reply = self._end(tenant, flow, book, state, cause, outputs)
        return Settled(told=told(tenant, head.waiting, reply), event=reply, flow=flow, name=head.name)

    def _give_up(self, tenant: str, flow: str, book: Book, error: KaasqError) -> None:
        """Nothing can be known of it any more but that it has failed."""
        self._close(tenant, flow, book.head, "failed", ErrorBody.of(error))
        reply = FlowReply(id=flow, status="error", error=book.head.error, worker=self._worker)
        self._record(tenant, flow, book.head.digest, reply)
        log.error("workflow.lost", workflow=flow, tenant=tenant, error=error.message)

    def _close(self, tenant: str, flow: str, head: Head, state: State, error: ErrorBody | None) -> None:
        """It has ended so; its records expire with its outcome."""
        head.state, head.ended_ms, head.error = state, self._now_ms, error
        notes = self._transaction.notes(tenant, flow)
        notes.remind(None)
        notes.label(state, head.started_ms / 1000)
        notes.keep(time.time() + self._rules.ttl_s)

    def _record(self, tenant: str, request_id: str, body: str, reply: FlowReply) -> None:
        now = time.time()
        outcome = Outcome(body=body, reply=codec.encode(reply), created=now, expires=now + self._rules.ttl_s)
        self._transaction.record(tenant, request_id, outcome)

    def _end(
        self, tenant: str, flow: str, book: Book, state: State, error: ErrorBody | None, outputs: dict[str, Output]
    ) -> FlowReply:
        """The workflow has ended: its outcome is recorded, and its records expire with that."""
        head = book.head
        self._close(tenant, flow, head, state, error)
        self._transaction.prolong(tenant, Wanted(ref=head.definition), self._rules.ttl_s)
        reply = FlowReply(
            id=flow,
            status=_STATUSES.get(state, "error"),
            outputs=outputs,
            error=error,
            worker=self._worker,
            flow=standing(flow, self._of(book, tenant), book),
        )
        self._record(tenant, flow, head.digest, reply)
        took_ms = self._now_ms - head.started_ms
        log.info("workflow.ended", workflow=flow, tenant=tenant, name=head.name, state=state, ms=took_ms)
        return reply

    def _due(self, tenant: str, flow: str, book: Book, ready: Iterable[Ready], content_type: str) -> list[Following]:
        """The messages for what is due now; for what is due later, a reminder."""
        due: list[Following] = []
        for each in ready:
            if each.due_ms is not None and each.due_ms > self._now_ms:
                self._remind(tenant, flow, book.head, each.due_ms)
                continue
            step = None if each.step is None else self._of(book, tenant).start.workflow.steps[each.step].name
            body = codec.encode(StepCall(step=Due(flow=flow, step=step, item=each.item)), content_type)
            due.append(Following(following_id(flow, each.number), self._rules.pool, body, quiet=True))
        return due

    def _remind(self, tenant: str, flow: str, head: Head, at_ms: int, *, sooner: bool = True) -> None:
        """Have the workflow looked at then; with ``sooner``, if that is before it would be anyhow."""
        if not sooner or not head.remind_ms or at_ms < head.remind_ms:
            head.remind_ms = at_ms
            self._transaction.notes(tenant, flow).remind(at_ms / 1000)

    def _patience_ms(self, head: Head) -> int:
        return round(self._rules.patience_s * 1000) << min(head.looked, DOUBLINGS)

    def _book(self, tenant: str, flow: str) -> Book:
        book = self._books.get((tenant, flow))
        if book is None:
            book = self._books[tenant, flow] = Book(self._transaction.notes(tenant, flow))
        return book

    def _of(self, book: Book, tenant: str) -> Definition:
        return self._definitions.of(tenant, book.head.definition)

    def _progress(self, book: Book, tenant: str, flow: str, definition: Definition | None = None) -> Progress:
        definition = definition or self._of(book, tenant)
        find = self._transaction.outcome
        sources = Sources(self._replies, self._store, tenant, flow, definition.start, book, find, self._fresh)
        return Progress(
            definition.start.workflow,
            definition.edges,
            book,
            sources.number,
            now_ms=self._now_ms,
            limits=self._rules.limits,
        )

    def _remember(self, head: Head, job: Job, content_type: str) -> tuple[Told, ...]:
        return remember(head, job, content_type, self._rules.limits.waiting, self._worker)


def digest_of_step(due: Due) -> str:
    """What makes two messages under one id the same step."""
    return content_hash(codec.canonical(due))
