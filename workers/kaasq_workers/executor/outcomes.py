"""From what a request produced to its reply, its event and its durable outcome. Committed in groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from kaasq import codec
from kaasq.errors import Cancelled, DeadlineExceeded, KaasqError, UnknownGraph
from kaasq.ids import following_id
from kaasq.messages import (
    EVENT_WORDS,
    ErrorBody,
    Output,
    Reply,
    Request,
    Status,
    Stored,
    Timings,
    WorkerInfo,
)
from kaasq.model import GraphSpec
from kaasq_storage import BufferStore, Outcome, Transaction, Wanted
from kaasq_workers.executor.ended import Ended
from kaasq_workers.executor.flight import Executed, output_of
from kaasq_workers.executor.following import Followers, taken_outputs
from kaasq_workers.executor.identity import conflict, is_deadly, matches
from kaasq_workers.executor.stretch import Stretch
from kaasq_workers.flows.driver import Flows
from kaasq_workers.flows.pending import Ready
from kaasq_workers.flows.settling import Settling
from kaasq_workers.flows.sources import Fresh
from kaasq_workers.flows.tasks import Again, Concluding, Settled, Step
from kaasq_workers.link import Answer, Happened

_STATUS: dict[str, Status] = {DeadlineExceeded.code: "expired", Cancelled.code: "cancelled"}


class Committer:
    """Turns ended requests into answers. All of a group become durable in one transaction."""

    def __init__(
        self,
        store: BufferStore,
        worker: WorkerInfo,
        followers: Followers,
        flows: Flows,
        *,
        ttl_s: float,
        dead_ttl_s: float,
    ) -> None:
        """``dead_ttl_s``: for how long inputs are kept of a request that becomes a dead letter."""
        self._dead_ttl_s = dead_ttl_s
        self._store = store
        self._worker = worker
        self._followers = followers
        self._flows = flows
        self._ttl_s = ttl_s

    def commit(self, group: Sequence[Ended]) -> list[Answer | None]:
        """Publish outputs and record outcomes. Raises KaasqError if nothing of the group could be committed.

        None for what began behind one that did not end as foretold: it never was.
        """
        started_ns = time.perf_counter_ns()
        if any(_changes(each) for each in group):
            with self._store.transaction() as transaction:
                flows = self._flows.settling(transaction, _fresh(group))
                replies, lost = _settled(group, lambda each: self._settle(transaction, flows, each))
                flows.save()
        else:
            replies, lost = _settled(group, lambda each: each.replay or self._reply(each, {}))
        now_ns = time.perf_counter_ns()
        answers: list[Answer | None] = []
        for each, reply in zip(group, replies, strict=True):
            each.before = None
            if each.job.tag in lost:
                each.lost, each.goes_on, each.foretold = True, False, None
            if reply is None:
                each.discard()
                answers.append(None)
                continue
            since_ns = started_ns if each.ended_ns is None else each.ended_ns
            answers.append(self._answer(each, reply, (now_ns - since_ns) // 1000))
        return answers

    def unrecorded(self, ended: Ended) -> Answer:
        """The answer to what failed where nothing can be written. What is of a workflow comes again: it stays due."""
        if ended.step is not None or isinstance(ended.task, (Concluding, Again)):
            return Answer(ended.job.tag, EVENT_WORDS["error"], b"")
        return self._answer(ended, self._reply(ended, {}), 0)

    def _settle(self, transaction: Transaction, flows: Settling, ended: Ended) -> Reply | bytes:
        if ended.task is not None and (ended.error is None or isinstance(ended.task, Concluding)):
            ended.settled = flows.task(ended.job, ended.task, ended.error, ended.reply_type)
            return ended.settled.reply or self._reply(ended, {})
        reply = self._recorded(transaction, ended)
        if ended.step is not None:
            known = codec.decode_reply(reply, codec.MSGPACK) if isinstance(reply, bytes) else reply
            first = ended.stretch.ran[0] if ended.stretch is not None and ended.stretch.ran else None
            ready = flows.ran(ended.job, ended.step, known, ended_ms=None if first is None else first.ended_ms)
            if ended.stretch is not None and ended.error is None:
                ready, ended.also = self._record_stretch(transaction, flows, ended, ended.step, ended.stretch, ready)
            ended.due = flows.due(ended.job, ended.step.flow, ready, ended.reply_type)
        return reply

    def _record_stretch(
        self,
        transaction: Transaction,
        flows: Settling,
        ended: Ended,
        first: Step,
        stretch: Stretch,
        ready: list[Ready],
    ) -> tuple[list[Ready], list[Happened]]:
        """The steps that ran behind the first one, each with an outcome of its own: what is due then, and events.

        One that is not due after all (the workflow was cancelled, or another worker was quicker) never ran.
        """
        job, also = ended.job, list[Happened]()
        rest = stretch.ran[1:]
        while rest:
            mine = next((each for each in ready if each.step == rest[0].step and each.due_ms is None), None)
            if mine is None:
                break
            ran = rest.pop(0)
            assert isinstance(ran.request.graph, GraphSpec)
            ready.remove(mine)
            reply = Reply(
                id=following_id(first.flow, mine.number),
                status="ok",
                outputs=self._outputs(transaction, ran.request, ran.executed, taken=None),
                timings=ran.executed.timings,
                cache=ran.executed.cache,
                worker=self._worker,
            )
            step = first._replace(number=mine.number, step=ran.step, item=0, current=True)
            self._record(transaction, job.tenant, reply, flows.digest(job.tenant, step))
            ready += flows.ran(job, step, reply, ended_ms=ran.ended_ms)
            event = codec.encode(reply.without_inline(), codec.JSON)
            also.append(Happened(reply.id, ran.request.graph.name, EVENT_WORDS["ok"], event))
        for each in rest:
            each.discard()
        return ready, also

    def _record(self, transaction: Transaction, tenant: str, reply: Reply, body: str) -> bool:
        """Whether there was none."""
        now = time.time()
        outcome = Outcome(body=body, reply=codec.encode(reply), created=now, expires=now + self._ttl_s)
        return transaction.record(tenant, reply.id, outcome)

    def _recorded(self, transaction: Transaction, ended: Ended) -> Reply | bytes:
        if ended.replay is not None:
            return ended.replay
        if ended.digest is None:
            if ended.claimed:
                transaction.release(ended.job.tenant, ended.job.id)
        elif ended.error is not None or _publishes(ended):  # else recording it shows whether there is an earlier one
            earlier = self._yield_to_earlier(transaction, ended)
            if earlier is not None:
                return earlier
        if ended.error is not None and is_deadly(ErrorBody.of(ended.error)):
            self._keep_inputs(transaction, ended)
        outputs: dict[str, Output] = {}
        if ended.executed is not None and ended.request is not None:
            taken = None if ended.step is not None else taken_outputs(ended.request)
            outputs = self._outputs(transaction, ended.request, ended.executed, taken)
        reply = self._reply(ended, outputs)
        if ended.digest is None or self._record(transaction, ended.job.tenant, reply, ended.digest):
            return reply
        return self._yield_to_earlier(transaction, ended) or self._reply(ended, {})

    def _outputs(
        self, transaction: Transaction, request: Request, executed: Executed, taken: AbstractSet[str] | None
    ) -> dict[str, Output]:
        """Publish what is staged. ``taken``: outputs that others take, wherever a name points meanwhile; None: any."""
        outputs: dict[str, Output] = {}
        for buffer, data in executed.outputs:
            if isinstance(data, bytearray):
                outputs[buffer.name] = output_of(buffer, bytes(data))
                continue
            name = request.keep.get(buffer.name)
            if name is not None and (taken is None or buffer.name in taken):
                transaction.publish(data, dtype=buffer.dtype, shape=buffer.shape, ttl_s=self._ttl_s)
            stored, version = transaction.publish(
                data, dtype=buffer.dtype, shape=buffer.shape, name=name, ttl_s=self._ttl_s
            )
            outputs[buffer.name] = msgspec.structs.replace(
                output_of(buffer), ref=stored.ref, name=name, version=version
            )
        return outputs

    def _yield_to_earlier(self, transaction: Transaction, ended: Ended) -> bytes | None:
        """If another worker committed this request while we ran it, its outcome counts and ours never was.

        That happens after a lost connection: the broker gives the request to somebody else while it still runs here.
        """
        earlier = transaction.outcome(ended.job.tenant, ended.job.id)
        if earlier is None:
            return None
        ended.discard()
        if matches(earlier, ended.digest):
            return earlier.reply
        ended.digest, ended.error = None, conflict(ended.job.id)
        return None

    def _keep_inputs(self, transaction: Transaction, ended: Ended) -> None:
        """Its dead letter is of use as long as its inputs are there."""
        for bound in ended.request.bind.values() if ended.request else ():
            if isinstance(bound, Stored):
                transaction.prolong(ended.job.tenant, Wanted(ref=bound.ref, name=bound.name), self._dead_ttl_s)

    def _reply(self, ended: Ended, outputs: dict[str, Output]) -> Reply:
        if ended.error is not None or ended.executed is None:
            error = ended.error or KaasqError("the request produced nothing")
            return Reply(
                id=ended.job.id,
                graph=ended.graph_hash,
                status=_STATUS.get(error.code, "error"),
                error=ErrorBody.of(error),
                timings=Timings(queued=ended.queued_us),
                worker=self._worker,
            )
        return Reply(
            id=ended.job.id,
            graph=ended.graph_hash,
            status="ok",
            outputs=outputs,
            timings=msgspec.structs.replace(ended.executed.timings, queued=ended.queued_us),
            cache=ended.executed.cache,
            worker=self._worker,
            repeat=ended.repeated,
        )

    def _answer(self, ended: Ended, reply: Reply | bytes, commit_us: int) -> Answer:
        """The answer for the front. A replayed outcome is published as it was stored, with its event and what follows
        once more.
        """
        if ended.settled is not None:
            return _of_workflow(ended, ended.settled)
        if isinstance(reply, bytes):
            reply = codec.decode_reply(reply, codec.MSGPACK)
        else:
            timings = msgspec.structs.replace(
                reply.timings, commit=commit_us, total=reply.timings.total + reply.timings.queued + commit_us
            )
            reply = msgspec.structs.replace(reply, timings=timings)
        follow = ended.due
        if ended.foretold is not None:
            follow = ended.foretold.follow
            reply = msgspec.structs.replace(reply, then=ended.foretold.told)
        elif ended.request is not None and ended.below is not None and ended.request.then and reply.status == "ok":
            job, type_ = ended.job, ended.reply_type
            told, follow = self._followers.following(
                *(job.tenant, job.id, ended.request, ended.below), reply, type_, ended.deadline_ms
            )
            reply = msgspec.structs.replace(reply, then=told)
        fresh = ended.replay is None or ended.job.redelivered  # else the letter has been written
        word = EVENT_WORDS[reply.status]
        event = None
        if ended.graph is not None and not (reply.error and reply.error.code == UnknownGraph.code):
            event = codec.encode(reply.without_inline(), codec.JSON)
        return Answer(
            tag=ended.job.tag,
            word=word,
            reply=codec.encode(reply, ended.reply_type),
            graph=ended.graph,
            event=event,
            error=reply.error,
            dead=fresh and reply.error is not None and is_deadly(reply.error),
            then=follow,
            also=ended.also,
        )


def _of_workflow(ended: Ended, settled: Settled) -> Answer:
    """The answer to what was about a workflow: its reply, if it gets one now, and what else is to be told."""
    event = settled.event
    return Answer(
        tag=ended.job.tag,
        word=EVENT_WORDS["ok" if event is None else event.status],
        reply=b"" if settled.reply is None else codec.encode(settled.reply, ended.reply_type),
        graph=settled.name or None,
        event=None if event is None else codec.encode(event.without_inline(), codec.JSON),
        then=list(settled.follow),
        told=list(settled.told),
        subject=settled.flow or None,
    )


def _settled(
    group: Sequence[Ended], settle: Callable[[Ended], Reply | bytes]
) -> tuple[list[Reply | bytes | None], set[int]]:
    """The replies of a group, in its order, and the tags of those that did not end as foretold.

    What began behind such a one has none.
    """
    replies: list[Reply | bytes | None] = []
    lost: set[int] = set()
    for each in group:
        before = each.before
        never = before is not None and (before.lost or before.job.tag in lost)
        reply = None if never else settle(each)
        if each.foretold is not None and not (isinstance(reply, Reply) and reply.status == "ok"):
            lost.add(each.job.tag)
        replies.append(reply)
    return replies, lost


def _publishes(ended: Ended) -> bool:
    """Whether it has outputs that are more than bytes of its reply."""
    return ended.executed is not None and not all(isinstance(each.data, bytearray) for each in ended.executed.outputs)


def _changes(ended: Ended) -> bool:
    """Whether there is anything to be written."""
    new = ended.digest is not None and ended.replay is None
    return new or ended.claimed or ended.step is not None or ended.task is not None


def _fresh(group: Sequence[Ended]) -> Fresh:
    """What steps of workflows bring to the store, which can be read from there only afterwards."""
    return {
        produced.data.seal(): produced.data.data
        for ended in group
        if ended.step is not None
        for executed in _executed(ended)
        for produced in executed.outputs
        if not isinstance(produced.data, bytearray)
    }


def _executed(ended: Ended) -> list[Executed]:
    """What the steps gave that it is."""
    if ended.executed is None:
        return []
    return [ended.executed, *(each.executed for each in (ended.stretch.ran[1:] if ended.stretch else ()))]
