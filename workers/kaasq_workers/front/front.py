"""The front: takes requests from the broker, hands them to the executor, publishes answers, then acks.

Everything here runs on the broker's I/O thread, so there are no locks. It never touches the device: whatever a kernel
does, heartbeats go on, and if the executor dies the front starts another and tells the truth about who was running.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from kaasq import codec
from kaasq.broker import Broker, Delivery
from kaasq.errors import Cancelled, DeadlineExceeded, KaasqError, KernelFailed, WorkerFailed
from kaasq.log import get_logger
from kaasq.messages import EVENT_WORDS, ErrorBody, Reply, Status, WorkerInfo
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.blame import Suspicion, judge
from kaasq_workers.front.handles import CLEAN_EXIT, Handle
from kaasq_workers.front.intake import Accepted, Refused, examine, examine_control
from kaasq_workers.link import Answer, FromExecutor, Hello, Job, Refusal, ToExecutor, Withdraw, Withdrawn

RETRY_SEND_S = 0.001
REAP_S = 2.0  # for a process to end after it has hung up, before it is killed
REAP_POLL_S = 0.005
WATCH_S = 0.25  # how often a running request is held against its deadline
CANCEL_GRACE_S = 1.0  # for a withdrawn request to end between two launches, before its executor is killed
RESEND_S = 5.0  # withdrawals that the executor could not record
RESTART_DELAYS_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # after executors that die without having served anything

log = get_logger()

Start = Callable[[], Handle]
Ready = Callable[[KaasqError | None], None]


class _Pending(msgspec.Struct):
    """A request taken and not yet answered."""

    job: Job
    accepted: Accepted
    delivery: Delivery


class _Withdrawal(msgspec.Struct):
    """A withdrawal until it is durable."""

    message: Withdraw
    delivery: Delivery


class _Stopped(msgspec.Struct):
    """A request whose executor was killed so that it ends, and what its client is told."""

    tag: int
    error: KaasqError
    status: Status


class Front:
    """One worker's front. ``on_ready`` is called once: the executor is up, or cannot start."""

    def __init__(self, broker: Broker, start: Start, answers: Answers, on_ready: Ready) -> None:
        self._broker = broker
        self._start_handle = start
        self._answers = answers
        self._on_ready: Ready | None = on_ready
        self._handle: Handle | None = None
        self._worker: WorkerInfo | None = None
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._waiting: list[int] = []  # taken but not sent: the executor is starting, or a suspect runs alone
        self._sent: OrderedDict[int, None] = OrderedDict()
        self._suspicions: dict[int, Suspicion] = {}
        self._next_tag = 1
        self._barren = 0  # executors in a row that died without an answer
        self._stopped: _Stopped | None = None  # the request for whose sake the executor was killed
        self._withdrawals: dict[int, _Withdrawal] = {}  # heard, and not yet durable
        self._withdrawn: dict[int, float] = {}  # tags of requests with the executor, and when they are to be killed
        self._flushing = False
        self._closing = False
        self._idle_callbacks: list[Callable[[], None]] = []

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the executor."""
        self._start_executor()
        self._broker.call_later(WATCH_S, self._watch)

    def lost(self) -> None:
        """The broker takes back what we hold: forget what has not been started, it will be delivered again."""
        for tag in self._waiting:
            self._pending.pop(tag, None)
            self._suspicions.pop(tag, None)
        self._waiting.clear()
        self._withdrawals.clear()
        self._check_idle()

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing is taken and unanswered, and every answer is confirmed."""
        self._idle_callbacks.append(callback)
        self._check_idle()

    def hang_up(self) -> None:
        """Let the executor end."""
        self._closing = True
        if self._handle is not None:
            self._handle.link.close()

    @property
    def handle(self) -> Handle | None:
        """The executor that is running, if any."""
        return self._handle

    # -- requests in ----------------------------------------------------------------------------------------------

    def take(self, delivery: Delivery) -> None:
        """A request from the queue."""
        message = delivery.message
        match examine(message):
            case Refused() as refused:
                self._refuse(delivery, refused)
            case Accepted() as accepted:
                tag = self._next_tag
                self._next_tag += 1
                job = Job(
                    tag,
                    accepted.tenant,
                    accepted.id,
                    message.body,
                    message.content_type,
                    message.timestamp_ms,
                    message.expiration_ms,
                )
                self._pending[tag] = _Pending(job, accepted, delivery)
                self._waiting.append(tag)
                self._pump()

    def take_control(self, delivery: Delivery) -> None:
        """A message to all workers of the pool: a request is cancelled."""
        try:
            withdrawal = examine_control(delivery.message)
        except KaasqError as error:
            log.warning("control.refused", code=error.code, error=error.message)
            delivery.ack()
            return
        tag = self._next_tag
        self._next_tag += 1
        self._withdrawals[tag] = _Withdrawal(Withdraw(tag, withdrawal.tenant, withdrawal.id), delivery)
        if self._worker is None or self._handle is None:
            return  # the executor is told when it is up
        for sent in self._sent:
            job = self._pending[sent].job
            if job.id == withdrawal.id and job.tenant == withdrawal.tenant:
                self._handle.link.vitals.withdraw(sent)
                self._withdrawn[sent] = time.monotonic() + CANCEL_GRACE_S
        self._withdraw([tag])

    def _withdraw(self, tags: list[int]) -> None:
        """Have the executor record them, as far as they are not recorded."""
        messages = [self._withdrawals[each].message for each in tags if each in self._withdrawals]
        if messages and self._worker is not None:
            self._send(messages)

    def _refuse(self, delivery: Delivery, refused: Refused) -> None:
        log.warning("request.refused", code=refused.error.code, error=refused.error.message)
        body = b""
        if refused.reply is not None:
            reply = Reply(id=refused.correlation_id, status="error", error=ErrorBody.of(refused.error))
            message = delivery.message
            body = codec.encode(reply, codec.reply_type(message.body, message.content_type))
        self._answers.refuse(delivery, refused, body, self._check_idle)

    # -- executor -------------------------------------------------------------------------------------------------

    def _start_executor(self) -> None:
        if self._closing:
            return
        try:
            self._handle = self._start_handle()
        except OSError as error:  # no process or memory to be had just now
            log.error("executor.not_started", error=str(error))
            self._broker.call_later(RESTART_DELAYS_S[-1], self._start_executor)
            return
        self._broker.add_reader(self._handle.link.fileno(), self._readable)

    def _pump(self) -> None:
        """Send what may be sent: suspects one at a time, everybody else together."""
        if self._worker is None or self._handle is None or not self._waiting:
            return
        if self._suspicions and any(self._is_alone(tag) for tag in self._sent):
            return
        batch: list[Job] = []
        while self._waiting:
            tag = self._waiting[0]
            if self._is_alone(tag):
                if self._sent or batch:
                    break
                self._waiting.pop(0)
                batch.append(msgspec.structs.replace(self._pending[tag].job, alone=True))
                break
            self._waiting.pop(0)
            batch.append(self._pending[tag].job)
        if batch:
            self._sent.update((job.tag, None) for job in batch)
            self._send(batch)

    def _is_alone(self, tag: int) -> bool:
        suspicion = self._suspicions.get(tag)
        return suspicion is not None and suspicion.alone

    def _send(self, batch: Sequence[ToExecutor]) -> None:
        assert self._handle is not None
        try:
            complete = self._handle.link.send(batch)
        except OSError:
            return  # its end of file follows and tells the rest
        except Exception:  # a job that cannot be encoded: keep the messages, in the dead-letter queue
            for each in batch:
                self._sent.pop(each.tag, None)
                pending = self._pending.pop(each.tag, None)
                if pending is not None:
                    pending.delivery.reject()
            raise
        if not complete and not self._flushing:
            self._flushing = True
            self._broker.call_later(RETRY_SEND_S, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._handle is not None:
            self._send([])

    def _readable(self) -> None:
        assert self._handle is not None
        messages = self._handle.link.receive()
        if messages is None:
            self._executor_gone()
            return
        for message in messages:
            try:
                self._hear(message)
            except Exception:
                log.exception("answer.broke", message=type(message).__name__)
        self._pump()
        self._check_idle()

    def _hear(self, message: FromExecutor) -> None:
        match message:
            case Answer():
                self._barren = 0
                self._answered(message)
            case Hello(worker=worker, description=description):
                self._worker = worker
                log.info("executor.ready", pid=worker.pid, device=worker.device, description=description)
                self._report_ready(None)
                self._withdraw(list(self._withdrawals))
            case Withdrawn(tags=tags, durable=True):
                for tag in tags:
                    done = self._withdrawals.pop(tag, None)
                    if done is not None:
                        done.delivery.ack()
            case Withdrawn(tags=tags):
                self._broker.call_later(RESEND_S, lambda: self._withdraw(tags))
            case Refusal(error=error):
                if self._on_ready is None:  # it has served before: try again later
                    log.error("executor.refused", code=error.code, error=error.message)
                else:
                    self._closing = True
                    self._report_ready(error.exception())

    def _answered(self, answer: Answer) -> None:
        pending = self._pending.pop(answer.tag, None)
        self._sent.pop(answer.tag, None)
        self._suspicions.pop(answer.tag, None)
        self._withdrawn.pop(answer.tag, None)
        if pending is None:
            return
        try:
            self._answers.answer(pending.delivery, pending.accepted, answer, self._check_idle)
        except Exception:
            pending.delivery.reject()  # kept in the dead-letter queue
            raise

    def _executor_gone(self) -> None:
        assert self._handle is not None
        handle, self._handle, self._worker = self._handle, None, None
        self._broker.remove_reader(handle.link.fileno())
        self._reap(handle, time.monotonic() + REAP_S)

    def _reap(self, handle: Handle, until: float) -> None:
        """Wait for the process to end, without blocking the I/O thread; then see to what it left."""
        how = handle.wait(0.0)
        if how is None:
            if time.monotonic() > until:
                handle.kill()
            self._broker.call_later(REAP_POLL_S, lambda: self._reap(handle, until))
            return
        running = handle.link.vitals.running.keys()
        handle.link.dispose()
        self._executor_ended(how, running)

    def _executor_ended(self, how: str, running: AbstractSet[int]) -> None:
        in_flight = list(self._sent)
        self._sent.clear()
        self._withdrawn.clear()  # the next executor finds their outcomes
        if self._closing:
            return  # what is in flight goes back to the queue with the connection
        stopped, self._stopped = self._stopped, None
        if stopped is not None:  # killed by us: nobody is to blame, even if it was answered at the last moment
            if stopped.tag in in_flight:
                in_flight.remove(stopped.tag)
                self._end_stopped(stopped)
            self._waiting = in_flight + self._waiting
            self._start_executor()
            return
        if self._on_ready is not None:
            self._report_ready(WorkerFailed(f"the executor ended before it was ready ({how}); see its log"))
            return
        log.error("executor.died", how=how, in_flight=len(in_flight), running=len(running))
        if how == CLEAN_EXIT:  # it gave up a poisoned device after answering for who poisoned it
            self._waiting = in_flight + self._waiting
            self._start_executor()
            return
        verdict = judge(in_flight, running, self._suspicions)
        self._waiting = verdict.again + self._waiting
        # Suspects go first and alone: everybody else waits a moment rather than being taken down with them.
        self._waiting.sort(key=lambda tag: not self._is_alone(tag))
        for tag in verdict.dead:
            self._bury(tag, how)
        delay = RESTART_DELAYS_S[min(self._barren, len(RESTART_DELAYS_S) - 1)]
        self._barren += 1
        self._broker.call_later(delay, self._start_executor)

    def _bury(self, tag: int, how: str) -> None:
        pending = self._pending.pop(tag)
        kills = self._suspicions.pop(tag).kills
        error = KernelFailed(
            f"the request killed its executor {kills} times ({how}): a kernel crashed, most likely by writing "
            "outside its buffers (`kaasq worker --guard` finds where); the request is kept in the dead-letter queue",
            how=how,
            kills=kills,
        )
        log.error("request.dead", request=pending.job.id, tenant=pending.job.tenant, how=how, kills=kills)
        self._answers.bury(
            pending.delivery, pending.accepted, _error_answer(pending.job, error, "error"), error, self._check_idle
        )

    # -- deadlines and cancelling ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Kill an executor whose request runs past its deadline or although it was cancelled.

        A kernel cannot be stopped in any other way.
        """
        if self._closing:
            return
        self._broker.call_later(WATCH_S, self._watch)
        if self._handle is None or not self._handle.killable or self._stopped is not None:
            return
        for tag, deadline_ms in self._handle.link.vitals.running.items():
            pending = self._pending.get(tag)
            if pending is not None:
                self._stopped = self._to_stop(pending.job, deadline_ms)
            if self._stopped is not None:  # one at a time: the others run again, and are looked at then
                self._handle.kill()
                return

    def _to_stop(self, job: Job, deadline_ms: int) -> _Stopped | None:
        """Whether a running request has to be stopped, and why."""
        if deadline_ms and time.time() * 1000 > deadline_ms:
            log.warning("request.overdue", request=job.id, tenant=job.tenant)
            error = DeadlineExceeded(f"request {job.id} was still running when its time was over; it was stopped")
            return _Stopped(job.tag, error, "expired")
        if time.monotonic() > self._withdrawn.get(job.tag, math.inf):
            log.warning("request.stopped", request=job.id, tenant=job.tenant)
            gone = Cancelled(f"request {job.id} was cancelled, and stopped", id=job.id)
            return _Stopped(job.tag, gone, "cancelled")
        return None

    def _end_stopped(self, stopped: _Stopped) -> None:
        pending = self._pending.pop(stopped.tag)
        self._suspicions.pop(stopped.tag, None)
        answer = _error_answer(pending.job, stopped.error, stopped.status)
        self._answers.answer(pending.delivery, pending.accepted, answer, self._check_idle)

    def _report_ready(self, error: KaasqError | None) -> None:
        if self._on_ready is not None:
            callback, self._on_ready = self._on_ready, None
            callback(error)

    def _check_idle(self) -> None:
        if self._idle_callbacks and not self._pending and self._answers.outstanding == 0:
            callbacks, self._idle_callbacks = self._idle_callbacks, []
            for callback in callbacks:
                callback()


def _error_answer(job: Job, error: KaasqError, status: Status) -> Answer:
    """An answer that the front gives itself, its executor being dead. Without an event: it never read the graph."""
    reply = Reply(id=job.id, status=status, error=ErrorBody.of(error))
    body = codec.encode(reply, codec.reply_type(job.body, job.content_type))
    return Answer(tag=job.tag, word=EVENT_WORDS[status], reply=body, error=reply.error)
