"""Drives workflows, from inside an executor: begins them, says what their steps are bound to, takes their ends.

Whatever changes how a workflow stands happens in the transaction that records what caused it; what is due then is
published afterwards. If a worker dies in between, what caused it is delivered again, and the same is published again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import suppress

import msgspec

from kaasq import codec
from kaasq.errors import BadRequest, BufferMissing, BufferSize, Conflict, WorkerFailed
from kaasq.flows.model import Asked, Due, FlowStart, FlowStep, From, Sought, StepCall
from kaasq.flows.start_checks import check_flow_id, check_start
from kaasq.ids import following_id, split_id
from kaasq.log import get_logger
from kaasq.messages import Binding, Output, Request, RequestOf, Stored, WorkerInfo
from kaasq.model import Number, content_hash
from kaasq_storage import BufferStore, Staged, Transaction, Wanted
from kaasq_workers.flows.asked import status, unknown
from kaasq_workers.flows.definitions import Definitions
from kaasq_workers.flows.keeping import bound, needed
from kaasq_workers.flows.listing import listing
from kaasq_workers.flows.progress import Progress
from kaasq_workers.flows.records import Book, Head, ItemRecord, Looked, Pages
from kaasq_workers.flows.row import Row, onto
from kaasq_workers.flows.rules import Rules
from kaasq_workers.flows.settling import Settling
from kaasq_workers.flows.sources import Fresh, Replies, Sources
from kaasq_workers.flows.tasks import Asking, Concluding, Listing, Starting, Step, Waiting
from kaasq_workers.link import Driven, Following, Job

AFTERWARDS_MS = 60_000  # what runs because something failed has at least so long
UNREADABLE_S = 3600.0  # until records that cannot be read are looked at again
KEPT_TOGETHER = 500  # outcomes and objects whose lives are prolonged in one transaction, which holds up all others
LOOKED_AT = 16  # workflows that may stand still, in one go

log = get_logger()


class Flows:
    """All workflows of a pool, as one executor drives them."""

    def __init__(self, store: BufferStore, worker: WorkerInfo, rules: Rules) -> None:
        self._store = store
        self._worker = worker
        self._rules = rules
        self._definitions = Definitions(store)
        self._replies = Replies(store)

    def settling(self, transaction: Transaction, fresh: Fresh) -> Settling:
        """For what changes how workflows stand."""
        return Settling(transaction, self._store, self._definitions, self._replies, self._rules, self._worker, fresh)

    # -- before anything is settled ----------------------------------------------------------------------------------

    def start(self, job: Job, start: FlowStart) -> Starting:
        """A workflow to begin, or one that has begun. Raises what ``check_start`` does, BufferMissing, Conflict."""
        digest, kept_ms = digest_of(start), None
        book = Book(Looked(self._store, job.tenant, job.id))
        if not book.known:
            check_flow_id(job.id, "message_id")
            check_start(start, start.workflow, self._rules.limits)
            kept_ms = self._check_stored(job.tenant, start)
        elif book.head.digest != digest:
            raise Conflict(f"workflow {job.id} began with another body; a new one needs a new id", id=job.id)
        body = codec.encode(start)
        staged = self._store.stage(job.tenant, len(body))
        staged.data[:] = body
        staged.seal()
        return Starting(start, staged, digest, kept_ms)

    def again(self, job: Job) -> list[Following]:
        """What a start causes of a workflow that has ended: whoever was to tell of that may have died."""
        book = Book(Looked(self._store, job.tenant, job.id))
        if not book.known or not book.head.concluding:
            return []
        body = codec.encode(StepCall(step=Due(flow=job.id)), codec.reply_type(job.body, job.content_type))
        return [Following(following_id(job.id, book.head.concluding), self._rules.pool, body, quiet=True)]

    def asked(self, job: Job, asked: Asked) -> Waiting | Asking:
        """Raises NameNotFound for a workflow that there is not."""
        if asked.do == "wait":
            self._read(job.tenant, asked.id)
            return Waiting(asked.id)
        return Asking(status(self._store, self._definitions, self._replies, job.tenant, asked))

    def listed(self, job: Job, sought: Sought) -> Listing:
        """The tenant's workflows. Raises BadRequest."""
        return Listing(listing(self._store, job.tenant, sought))

    def step(self, job: Job, due: Due) -> Step:
        """The step that a job is for. Raises BadRequest, NameNotFound."""
        flow, number = self._number(job, due)
        book = self._read(job.tenant, flow)
        spec = self._definitions.of(job.tenant, book.head.definition).start.workflow
        if due.step is None or spec.step(due.step) is None:
            raise BadRequest(f"workflow {flow} has no step {str(due.step)[:64]!r}", at="step.step")
        step = spec.number_of(due.step)
        record = book.item(step, due.item)
        if due.item >= (book.step(step).items or 0) or record.number < number:
            raise BadRequest(f"this is not due: step {due.step!r}, item {due.item}, as number {number}", at="step")
        return Step(
            flow,
            number,
            step,
            due.item,
            current=record.number == number and record.state == "running",
            graph=spec.graph_of(spec.steps[step]).name,
            deadline_ms=_deadline_ms(spec.steps[step], book.head, record),
            book=book,
        )

    def row(self, tenant: str, step: Step) -> Row | None:
        """For a step that another one may follow in the same executor, as the workflow stands now."""
        book = step.book or self._read(tenant, step.flow)
        start, edges, _ = self._definitions.of(tenant, book.head.definition)
        if onto(start.workflow, edges, step.step) is None:
            return None

        def free(following: int, before: int) -> bool:
            now = self._read(tenant, step.flow)
            others = [each for each in edges.before[following] if each != before]
            return all(now.step(each).state == "completed" for each in others)

        row = Row(start.workflow, edges, free)
        return None if row.after(step.step) is None else row

    def request(self, tenant: str, step: Step, besides: Collection[str] = ()) -> Request:
        """The step as a request, without the inputs ``besides``. Raises BufferMissing, BufferSize, and what the store
        raises.
        """
        book = step.book or self._read(tenant, step.flow)
        start = self._definitions.of(tenant, book.head.definition).start
        spec = start.workflow.steps[step.step]
        graph = start.workflow.graph_of(spec)
        sources = Sources(self._replies, self._store, tenant, step.flow, start, book)
        bind: dict[str, Binding] = {}
        for name, source in spec.bind.items():
            if name in besides:
                continue
            buffer = graph.buffer(name)
            assert buffer is not None
            bind[name] = sources.binding(spec, source, buffer, step.item)
            if isinstance(source, From) and source.each and buffer.nbytes <= self._rules.inline_limit:
                # Nobody else takes it: a place in the device's cache of objects would cost more than copying it.
                bind[name] = sources.brought(bind[name], buffer.nbytes)
        scalars: dict[str, Number] = {
            name: value if isinstance(value, (bool, int, float)) else sources.number(value, step.item)
            for name, value in spec.scalars.items()
        }
        keep = {name: to.replace("{item}", str(step.item)) for name, to in spec.keep.items()}
        return RequestOf(graph=graph, bind=bind, scalars=scalars, keep=keep, repeat=spec.repeat)

    def conclude(self, job: Job, due: Due) -> Concluding:
        """What a workflow gives whose steps have all ended; nothing if it has been concluded. Raises a KaasqError."""
        flow, number = self._number(job, due)
        book = Book(Pages(self._store.notes(job.tenant, flow)))
        if not book.known:
            raise unknown(flow)
        if book.head.state != "running" or book.head.concluding != number:
            return Concluding(flow, number)
        definition = self._definitions.of(job.tenant, book.head.definition)
        start, edges, _ = definition
        sources = Sources(self._replies, self._store, job.tenant, flow, start, book)
        now_ms = time.time_ns() // 1_000_000
        progress = Progress(start.workflow, edges, book, sources.number, now_ms=now_ms, limits=self._rules.limits)
        state, _ = progress.verdict()
        outputs: list[tuple[str, Output, Staged | None]] = []
        room = self._rules.inline_limit
        for name in start.workflow.outputs if state == "completed" else ():
            output, staged = self._gathered(job.tenant, start, sources, name, room)
            room -= len(output.inline or b"")
            outputs.append((name, output, staged))
        return Concluding(flow, number, tuple(outputs))

    def stand_still(self, tenants: Collection[str] | None) -> Iterator[Driven]:
        """Look after workflows that may stand still, one after the other: what is to be published. Raises what the
        store raises.

        ``tenants``: only theirs.
        """
        for tenant, flow in self._store.reminders(LOOKED_AT, tenants):
            try:
                follow = self._look(tenant, flow)
            except msgspec.MsgspecError as error:  # a later version's, or broken: nothing that can be mended here
                log.error("workflow.unreadable", workflow=flow, tenant=tenant, error=str(error))
                with self._store.transaction() as transaction:
                    transaction.notes(tenant, flow).remind(time.time() + UNREADABLE_S)
                continue
            if follow:
                log.info("workflow.again", workflow=flow, tenant=tenant, due=len(follow))
                yield Driven(tenant, follow)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _look(self, tenant: str, flow: str) -> list[Following]:
        kept_ms = self._keep(tenant, flow)
        with self._store.transaction() as transaction:
            settling = self.settling(transaction, {})
            follow = settling.look(tenant, flow, kept_ms)
            settling.save()
        return follow

    def _keep(self, tenant: str, flow: str) -> int | None:
        """If it is time, prolong what the workflow still needs; until when that is kept, then."""
        book = Book(Looked(self._store, tenant, flow))
        at_ms, now_ms = self._rules.keep_at_ms(book.head), time.time_ns() // 1_000_000
        if not book.known or at_ms is None or at_ms > now_ms:
            return None
        try:
            start, edges, _ = self._definitions.of(tenant, book.head.definition)
        except WorkerFailed:  # who looks at it gives it up
            return None
        book = Book(Pages(self._store.notes(tenant, flow)))
        outcomes, ttl_s = list(needed(flow, start.workflow, edges, book)), self._rules.ttl_s
        refs = bound(start, book)
        for each in outcomes:
            outcome = self._store.outcome(tenant, each)
            with suppress(BadRequest):  # a later version's, or broken: whoever needs it says so
                outputs = {} if outcome is None else codec.decode_reply(outcome.reply, codec.MSGPACK).outputs
                refs.update(output.ref for output in outputs.values() if output.ref is not None)
        for at in range(0, len(outcomes), KEPT_TOGETHER):
            with self._store.transaction() as transaction:
                for each in outcomes[at : at + KEPT_TOGETHER]:
                    transaction.prolong_outcome(tenant, each, ttl_s)
        objects = sorted(refs)
        for at in range(0, len(objects), KEPT_TOGETHER):
            with self._store.transaction() as transaction:
                for ref in objects[at : at + KEPT_TOGETHER]:
                    transaction.prolong(tenant, Wanted(ref=ref), ttl_s)
        log.info("workflow.kept", workflow=flow, tenant=tenant, outcomes=len(outcomes), objects=len(refs))
        return now_ms + round(ttl_s * 1000)

    @staticmethod
    def _number(job: Job, due: Due) -> tuple[str, int]:
        flow, number = split_id(job.id)
        if not number or flow != due.flow:
            raise BadRequest(f"a step of workflow {due.flow[:64]!r} has an id that begins so", at="message_id")
        return flow, number

    def _read(self, tenant: str, flow: str) -> Book:
        book = Book(Looked(self._store, tenant, flow))
        if not book.known:
            raise unknown(flow)
        return book

    def _check_stored(self, tenant: str, start: FlowStart) -> int | None:
        """Whether what is bound in the store is there, before anything runs. Raises BufferMissing, BufferSize.

        Until when all of it is there at least, in milliseconds since the epoch.
        """
        stored = [
            (name, each)
            for name, bound in start.bind.items()
            for each in (bound if isinstance(bound, tuple) else (bound,))
            if isinstance(each, Stored)
        ]
        wanted = list({Wanted(each.ref, each.name): None for _, each in stored})  # a list's items may share an object
        found = dict(zip(wanted, self._store.lookup_all(tenant, wanted), strict=True))
        for name, each in stored:
            there = found[Wanted(each.ref, each.name)]
            what = f"name {each.name!r}" if each.ref is None else f"object {each.ref}"
            if there is None:
                raise BufferMissing(
                    f"input {name!r} is bound to {what}, which the worker's store does not hold", buffer=name
                )
            declared = start.workflow.input(name)
            assert declared is not None
            least = declared.nbytes + (each.offset or 0)
            if there.nbytes < least or (each.offset is None and there.nbytes != least):
                raise BufferSize(
                    f"input {name!r} takes {declared.nbytes} bytes from offset {each.offset or 0} on, but {what} has "
                    f"{there.nbytes}",
                    buffer=name,
                    expected=least,
                    given=there.nbytes,
                )
        ends = [each.expires for each in found.values() if each is not None and each.expires is not None]
        return int(min(ends) * 1000) if ends else None

    def _gathered(
        self, tenant: str, start: FlowStart, sources: Sources, name: str, room: int
    ) -> tuple[Output, Staged | None]:
        """One output of the workflow: its bytes, where it lies, or staged."""
        pieces, buffer, items = sources.gathered(start.workflow.outputs[name])
        nbytes = sum([each.nbytes for each in pieces])
        dtype, shape = (None, None) if buffer is None else (buffer.dtype, buffer.shape)
        if items is not None and shape is not None:
            shape = (items, *shape)
        output = Output(nbytes=nbytes, dtype=dtype, shape=shape)
        kept = name in start.keep
        if len(pieces) == 1 and pieces[0].stored is not None and not kept and pieces[0].stored.ref is not None:
            return msgspec.structs.replace(output, ref=pieces[0].stored.ref), None
        if nbytes <= room and not kept:
            data = bytearray(nbytes)
            sources.fill(pieces, memoryview(data))
            return msgspec.structs.replace(output, inline=bytes(data)), None
        if not nbytes:
            raise BadRequest(f"output {name!r} of the workflow has no bytes, so it cannot be kept", at=f"keep.{name}")
        staged = self._store.stage(tenant, nbytes)
        sources.fill(pieces, staged.data)
        staged.seal()
        return output, staged


def _deadline_ms(step: FlowStep, head: Head, record: ItemRecord) -> int | None:
    """Until when a step has to have ended, in milliseconds since the epoch; None: whenever."""
    since_ms = head.started_ms if record.since_ms is None else record.since_ms
    ends: list[int] = []
    if step.timeout_ms is not None:
        ends.append(since_ms + step.timeout_ms)
    if head.deadline_ms is not None and step.on == "completed":
        ends.append(head.deadline_ms)
    elif head.deadline_ms is not None and not ends:  # it is there for the case that the time is over
        ends.append(since_ms + max(head.deadline_ms - head.started_ms, AFTERWARDS_MS))
    return max(1, min(ends)) if ends else None


def digest_of(start: FlowStart) -> str:
    """What makes two starts under one id the same: not the time that is left, nor when the reply comes."""
    return content_hash(codec.canonical(msgspec.structs.replace(start, timeout_ms=None, reply="ended")))
