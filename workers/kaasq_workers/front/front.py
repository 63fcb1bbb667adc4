"""The front: takes requests from the broker, has an executor run them, publishes answers, then acks.

Everything here runs on the broker's I/O thread, so there are no locks. It never touches the device: whatever a kernel
does, heartbeats go on, and if the executor dies its supervisor starts another and says who is to be told what.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from kaasq import codec
from kaasq.broker import Broker, Delivery
from kaasq.errors import KaasqError, QuotaExceeded
from kaasq.ids import new_id
from kaasq.log import get_logger
from kaasq.messages import EVENT_WORDS, ErrorBody, Reply, Status
from kaasq.quotas import LimitsByTenant
from kaasq.settings import Settings
from kaasq.topology import SLOT_WANTED, STEP
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.asking import Asking, question_of, too_late
from kaasq_workers.front.asking import Start as StartInformant
from kaasq_workers.front.executors import Executors
from kaasq_workers.front.following import request_of
from kaasq_workers.front.handles import Handle
from kaasq_workers.front.intake import Accepted, Refused, examine, examine_control
from kaasq_workers.front.pending import Pending, Pendings
from kaasq_workers.front.sharing import shared
from kaasq_workers.front.starting import Starter
from kaasq_workers.front.stopping import Stopped
from kaasq_workers.link import Address, Answer, Driven, Job, Withdraw, Withdrawn

RESEND_S = 5.0  # withdrawals that the executor could not record

log = get_logger()

Ready = Callable[[KaasqError | None], None]


class _Withdrawal(msgspec.Struct):
    """A withdrawal until it is durable."""

    message: Withdraw
    delivery: Delivery


class Front:
    """One worker's front. ``on_ready`` is called once: the executor is up, or cannot start."""

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        starter: Starter,
        answers: Answers,
        on_ready: Ready,
        informant: StartInformant | None = None,
    ) -> None:
        """``informant``: what starts a process that answers questions about workflows in the executor's place."""
        self._broker = broker
        self._answers = answers
        self._on_ready: Ready | None = on_ready
        self._executors = Executors(broker, settings, starter, self)
        self._limits = LimitsByTenant(settings.quotas)
        self._question_bytes = settings.questions.size
        self._pending = Pendings()
        self._asking = (
            None
            if informant is None
            else Asking(broker, informant, self._pending, self._executors, self.informed, settings.questions)
        )
        self._next_tag = 1
        self._epoch = new_id()
        self._withdrawals: dict[int, _Withdrawal] = {}  # heard, and not yet durable
        self._idle_callbacks: list[Callable[[], None]] = []

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the first executor."""
        self._executors.start()

    def lost(self) -> None:
        """The broker takes back what we hold: forget what has not been started, it will be delivered again."""
        alone = [] if self._asking is None else self._asking.forget_alone()
        for tag in [*alone, *self._executors.forget_waiting()]:
            self._take_off(tag)
        self._withdrawals.clear()
        self._check_idle()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing is taken and unanswered, and every answer is confirmed."""
        self._idle_callbacks.append(callback)
        self._check_idle()

    def drain(self) -> None:
        """What goes on in an executor by itself is to go through the broker from now on, to whoever stays."""
        self._executors.drain()

    def hang_up(self) -> None:
        """Let the executors end."""
        if self._asking is not None:
            self._asking.close()
        self._executors.hang_up()

    @property
    def held(self) -> int:
        """Requests taken and not yet answered."""
        return len(self._pending)

    @property
    def stuck(self) -> bool:
        """Whether there are requests and nothing is up that could run them."""
        return bool(self._pending) and not self._executors.up

    @property
    def handles(self) -> list[Handle]:
        """The executors that are running."""
        return self._executors.handles

    @property
    def owners(self) -> frozenset[str]:
        """Whose executors there are."""
        return self._executors.owners

    # -- requests in ----------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """A request from the queue. What breaks on one costs it alone: unsettled, it would keep its place for good."""
        tag = self._new_tag()
        try:
            self._take(tag, delivery)
        except Exception:
            self._take_off(tag)
            delivery.reject()  # kept in the dead-letter queue
            raise

    def _take(self, tag: int, delivery: Delivery) -> None:
        message = delivery.message
        match examine(message):
            case Refused() as refused:
                self._refuse(delivery, refused)
            case Accepted() as accepted if self._pending.join(accepted, delivery):
                log.info("request.joined", request=accepted.id, tenant=accepted.tenant)
            case Accepted() as accepted:
                job = Job(
                    tag,
                    accepted.tenant,
                    accepted.id,
                    message.body,
                    message.content_type,
                    message.timestamp_ms,
                    message.expiration_ms,
                    redelivered=delivery.redelivered,
                    delivery=f"{self._epoch}.{tag}",
                    taken_ms=time.time_ns() // 1_000_000,
                    to=None if accepted.reply is None else Address(*accepted.reply, accepted.correlation_id),
                )
                question = question_of(job, self._question_bytes)
                late = None if question is None else too_late(job, question)
                if late is not None:
                    self._turn_away(job, accepted, delivery, late, "expired")
                    return
                limit, held = self._limits.of(job.tenant).queued, self._pending.of(job.tenant)
                if limit and held >= limit:
                    error = _over_quota(job.tenant, limit, held)
                    if message.type != STEP:
                        self._turn_away(job, accepted, delivery, error, "error")
                        return
                    job = msgspec.structs.replace(job, verdict=ErrorBody.of(error))  # so its workflow knows it, too
                self._pending.add(job.tag, Pending(accepted, delivery))
                if self._asking is None or question is None or not self._asking.take(job, question):
                    self._executors.take(job)

    def _turn_away(self, job: Job, accepted: Accepted, delivery: Delivery, error: KaasqError, status: Status) -> None:
        """Answered at once: what is held back here would hold up the others behind it in the queue."""
        log.info("request.failed", request=job.id, tenant=job.tenant, code=error.code, error=error.message)
        self._answers.answer(delivery, accepted, _error_answer(job, ErrorBody.of(error), status), self._check_idle)

    def _refuse(self, delivery: Delivery, refused: Refused) -> None:
        log.warning("request.refused", code=refused.error.code, error=refused.error.message)
        body = b""
        if refused.reply is not None:
            reply = Reply(id=refused.correlation_id, status="error", error=ErrorBody.of(refused.error))
            message = delivery.message
            body = codec.encode(reply, codec.reply_type(message.body, message.content_type))
        self._answers.refuse(delivery, refused, body, self._check_idle)

    def _new_tag(self) -> int:
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        return tag

    # -- controls -------------------------------------------------------------------------------------------------

    def take_control(self, delivery: Delivery) -> None:
        """A message to all workers of the pool: a request is cancelled. Or to this one alone: whether it lives."""
        if delivery.message.type == SLOT_WANTED:
            log.info("slot.wanted", queue=delivery.queue)
            delivery.ack()
            return
        try:
            tenant, request_id = examine_control(delivery.message)
        except KaasqError as error:
            log.warning("control.refused", code=error.code, error=error.message)
            delivery.ack()
            return
        message = Withdraw(self._new_tag(), tenant, request_id)
        self._withdrawals[message.tag] = _Withdrawal(message, delivery)
        self._executors.mark_withdrawn(message)
        self._withdraw([message.tag])

    def _withdraw(self, tags: list[int]) -> None:
        """Have an executor record them, as far as they are not recorded."""
        messages = [self._withdrawals[each].message for each in tags if each in self._withdrawals]
        if messages:
            self._executors.withdraw(messages)

    def noted(self, withdrawn: Withdrawn) -> None:
        """Withdrawals are durable, or are to be told again later."""
        if not withdrawn.durable:
            self._broker.call_later(RESEND_S, lambda: self._withdraw(withdrawn.tags))
            return
        tenants: set[str] = set()
        for tag in withdrawn.tags:
            done = self._withdrawals.pop(tag, None)
            if done is not None:
                tenants.add(done.message.tenant)
                done.delivery.ack()
        self._answers.tell([each for each in withdrawn.told if each.tenant in tenants])

    def driven(self, driven: Driven) -> None:
        """Steps of workflows are due that nobody has published, or in vain."""
        self._answers.drive(driven)

    # -- answers out ----------------------------------------------------------------------------------------------

    def answered(self, answer: Answer, onward: Job | None) -> None:
        """The executor answered a request, and runs what follows it on the same delivery, if there is anything."""
        pending = self._take_off(answer.tag)
        if pending is None:
            return
        if onward is not None and answer.onward is not None:
            message, exchange, key = request_of(pending.delivery.message, pending.accepted, answer.onward)
            reply = None if answer.onward.quiet else pending.accepted.reply
            accepted = pending.accepted._replace(id=onward.id, correlation_id=onward.id, reply=reply)
            pending.delivery, share = shared(pending.delivery, message, exchange, key)
            self._pending.add(onward.tag, Pending(accepted, share))
        publish = self._answers.bury if answer.dead else self._answers.answer
        try:
            publish(pending.delivery, pending.accepted, answer, self._check_idle)
        except Exception:
            pending.delivery.reject()  # kept in the dead-letter queue
            raise

    def informed(self, tag: int, reply: bytes) -> None:
        """A question has been answered in the executor's place."""
        pending = self._pending.pop(tag)
        assert pending is not None
        answer = Answer(tag=tag, word=EVENT_WORDS["ok"], reply=reply)
        self._answers.answer(pending.delivery, pending.accepted, answer, self._check_idle)

    def _take_off(self, tag: int) -> Pending | None:
        """The executor has that request no more. None: it was a question, and has been answered in its place."""
        if self._asking is not None:
            self._asking.settled(tag)
        return self._pending.pop(tag)

    def stopped(self, stopped: Stopped) -> None:
        """A request was stopped, together with its executor."""
        pending = self._take_off(stopped.job.tag)
        if pending is None:
            return
        answer = _error_answer(stopped.job, ErrorBody.of(stopped.error), stopped.status)
        self._answers.answer(pending.delivery, pending.accepted, answer, self._check_idle)

    def killed(self, job: Job, error: ErrorBody) -> None:
        """A request killed executors once too often, even the one that was to record so."""
        pending = self._take_off(job.tag)
        if pending is None:
            return
        answer = _error_answer(job, error, "error")
        self._answers.bury(pending.delivery, pending.accepted, answer, self._check_idle)

    def unsendable(self, job: Job) -> None:
        """A request that no executor can be handed: kept in the dead-letter queue."""
        pending = self._take_off(job.tag)
        if pending is not None:
            pending.delivery.reject()

    # -- executors ------------------------------------------------------------------------------------------------

    def ready(self, error: KaasqError | None) -> None:
        """An executor is up, or the first one cannot start."""
        if self._on_ready is not None:
            callback, self._on_ready = self._on_ready, None
            callback(error)
        if error is None:
            self._withdraw(list(self._withdrawals))

    def turned(self) -> None:
        """What an executor had to say has been dealt with, or it has ended."""
        if self._executors.arrange():
            self._withdraw(list(self._withdrawals))  # it may have had some
        self._check_idle()

    def _check_idle(self) -> None:
        if self._idle_callbacks and not self._pending and self._answers.outstanding == 0:
            callbacks, self._idle_callbacks = self._idle_callbacks, []
            for callback in callbacks:
                callback()


def _over_quota(tenant: str, limit: int, held: int) -> QuotaExceeded:
    return QuotaExceeded(
        f"this worker holds {held} requests of tenant {tenant!r}, its quota is {limit}: try again once some of "
        "them have ended",
        which="queued",
        limit=limit,
        used=held,
    )


def _error_answer(job: Job, error: ErrorBody, status: Status) -> Answer:
    """An answer that the front gives itself. It has an event if an executor had read the graph, before it died."""
    reply = Reply(id=job.id, status=status, error=error)
    return Answer(
        tag=job.tag,
        word=EVENT_WORDS[status],
        reply=codec.encode(reply, codec.reply_type(job.body, job.content_type)),
        graph=job.graph,
        event=None if job.graph is None else codec.encode(reply, codec.JSON),
        error=reply.error,
    )
