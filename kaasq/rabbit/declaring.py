"""Declaring: one operation at a time, so that a refusal names its culprit; everything again after a reconnect."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from pika.channel import Channel

from kaasq.broker import Done, Inspected
from kaasq.errors import BrokerRefused, KaasqError
from kaasq.io_thread import IoThread, invoke
from kaasq.log import get_logger
from kaasq.rabbit.connection import Backoff
from kaasq.rabbit.errors import (
    ACCESS_REFUSED,
    NOT_FOUND,
    PRECONDITION_FAILED,
    reply_code,
    reply_text,
    translate,
)
from kaasq.rabbit.state_log import Seldom
from kaasq.rabbit.wire import WireConnection
from kaasq.topology import Binding, Exchange, Queue, Topology, without

log = get_logger()


class Removal(NamedTuple):
    """A queue is deleted, a binding undone."""

    what: Queue | Binding


class Look(NamedTuple):
    """A queue is looked at, and declared only if it is there."""

    queue: str
    found: list[Inspected]


Step = Exchange | Queue | Binding | Removal | Look
ABSENT_S = 1.5  # a queue whose declaration is not answered for so long is on a node that is down (RabbitMQ 4.3 says it
# after a minute, 3.10 at once); if the broker was only slow, another queue does no harm


class Job:
    """Steps to be declared in order, and whom to tell."""

    def __init__(self, steps: Sequence[Step], done: Done, *, first_time: bool) -> None:
        self.steps = steps
        self.done = done
        self.first_time = first_time
        self.next = 0

    @property
    def step(self) -> Step:
        return self.steps[self.next]


class Declarer:
    """One channel on the consume connection.

    The broker answers what it does not like by closing the channel; it is opened again for what follows.
    """

    def __init__(
        self,
        io: IoThread,
        *,
        on_ready: Callable[[WireConnection], None],
        refused: Callable[[KaasqError], None],
    ) -> None:
        self._io = io
        self._on_ready = on_ready
        self._refused = refused
        self._connection: WireConnection | None = None
        self._channel: Channel | None = None
        self._jobs: deque[Job] = deque()
        self._topologies: list[Topology] = []
        self._on_absent: dict[str, Callable[[], None]] = {}  # by queue
        self._backoff = Backoff()
        self._seldom = Seldom()
        self._busy = False  # a step is at the broker
        self._over: KaasqError | None = None

    def declare(self, topology: Topology, done: Done, on_absent: Callable[[], None] | None = None) -> None:
        """Declare it, and after every reconnect again unless it was refused, or its queue's node is down and somebody
        is to hear of that.
        """

        def remember(error: KaasqError | None) -> None:
            if error is None and topology not in self._topologies:
                self._topologies.append(topology)
                if on_absent is not None:
                    self._on_absent.update((each.name, on_absent) for each in topology.queues)
            done(error)

        self._add(Job(_steps(topology), remember, first_time=True))

    def remove(self, topology: Topology, done: Done) -> None:
        """Undo bindings and delete queues; unless that was refused, they are not declared again."""

        def forget(error: KaasqError | None) -> None:
            if error is None:
                self._topologies = without(self._topologies, topology)
            done(error)

        doomed: tuple[Queue | Binding, ...] = (*topology.bindings, *topology.queues)
        self._add(Job([Removal(each) for each in doomed], forget, first_time=True))

    def inspect(self, queue: str, done: Callable[[Inspected | KaasqError], None]) -> None:
        """Look at it; nothing is found where there is none."""
        found = [Inspected(0, 0)]

        def told(error: KaasqError | None) -> None:
            done(found[-1] if error is None else error)

        self._add(Job((Look(queue, found),), told, first_time=True))

    def redeclare(self, queue: str, then: Callable[[], None]) -> None:
        """Declare again every topology that has the queue."""
        mine = [each for each in self._topologies if any(one.name == queue for one in each.queues)]
        steps = [step for each in mine for step in _steps(each)]
        self._add(Job(steps, lambda error: then() if error is None else None, first_time=False))

    def attach(self, connection: WireConnection) -> None:
        """Declare everything on this connection; ``on_ready`` once that is done."""
        self._connection = connection
        for job in self._jobs:  # what was under way starts afresh
            job.next = 0
        again = [step for each in self._topologies for step in _steps(each)]
        waiting = [job for job in self._jobs if job.first_time]
        self._jobs = deque((Job(again, self._restored, first_time=False), *waiting))
        self._open_channel()

    def detach(self) -> None:
        """The connection is gone. What was asked for and not answered is asked for again on the next one."""
        self._connection = self._channel = None
        self._busy = False

    def finish(self, error: KaasqError) -> None:
        """Nothing is declared any more."""
        self._over = error
        self.detach()
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            invoke(job.done, error)

    def _restored(self, error: KaasqError | None) -> None:
        if error is None and self._connection is not None:
            self._on_ready(self._connection)

    def _add(self, job: Job) -> None:
        if self._over is not None:
            invoke(job.done, self._over)
            return
        self._jobs.append(job)
        self._work()

    def _open_channel(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._opened).add_on_close_callback(self._closed)

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        self._work()

    def _work(self) -> None:
        """Take the next step of the first job; one without any left is done."""
        while self._jobs and self._channel is not None and not self._busy:
            job = self._jobs[0]
            if job.next < len(job.steps):
                self._busy = True
                channel = self._channel
                _declare(channel, job.step, partial(self._stepped, channel))
                if not job.first_time and isinstance(job.step, Queue) and job.step.name in self._on_absent:
                    self._io.call_later(ABSENT_S, partial(self._unanswered, channel, job, job.step))
            else:
                self._jobs.popleft()
                invoke(job.done, None)

    def _stepped(self, channel: Channel, _: Any) -> None:
        if channel is not self._channel:
            return  # the answer comes while the connection closes, or too late: nobody waits for it any more
        self._busy = False
        self._backoff.reset()
        self._jobs[0].next += 1
        self._work()

    def _unanswered(self, channel: Channel, job: Job, queue: Queue) -> None:
        """Let the queue go if its declaration still waits. So does what else is sent on this channel: it is left."""
        if channel is self._channel and self._busy and self._jobs[0] is job and job.step is queue:
            self._channel = None
            self._busy = False
            self._let_go(job, queue)
            channel.close()

    def _closed(self, channel: Channel, reason: Exception) -> None:
        if channel is not self._channel:
            return  # it was left
        self._channel = None
        self._busy = False
        code = reply_code(reason)
        if self._connection is None or self._connection.is_closed or not code:
            return  # the whole connection went: detach() follows
        if self._jobs:
            self._declined(self._jobs[0], code, reason)
        else:
            self._open_channel()

    def _declined(self, job: Job, code: int, reason: Exception) -> None:
        step = job.step
        if isinstance(step, Exchange) and code == ACCESS_REFUSED:
            # Who may declare an exchange may delete it, so tenants may not. If it is not there, binding to it says so.
            job.next += 1
            self._open_channel()
            return
        if isinstance(step, Look) and code == NOT_FOUND:
            job.next += 1
            self._open_channel()
            return
        error = _refusal(step, code, reason)
        log.debug("declare.refused", what=_name(step), reason=reply_text(reason))  # whoever is told next tells it
        if job.first_time:
            self._jobs.popleft()
            invoke(job.done, error)
            self._open_channel()
        elif code in {ACCESS_REFUSED, PRECONDITION_FAILED}:
            self._refused(error)
        elif code == NOT_FOUND and isinstance(step, Queue) and step.name in self._on_absent:
            self._let_go(job, step)
        else:  # such as 404 for a queue whose node is down: it comes back
            if self._seldom():
                log.warning("declare.waiting", error=error.message)
            self._io.call_later(self._backoff.pause_s(), self._open_channel)

    def _let_go(self, job: Job, queue: Queue) -> None:
        """The node that has the queue is down. It is not waited for: who declared it takes another one."""
        gone = Topology(queues=(queue,))
        self._topologies = without(self._topologies, gone)
        kept = [each for each in job.steps[job.next :] if each != queue and getattr(each, "queue", None) != queue.name]
        job.steps = [*job.steps[: job.next], *kept]
        log.debug("declare.absent", queue=queue.name)
        invoke(self._on_absent.pop(queue.name))
        self._open_channel()


def _steps(topology: Topology) -> tuple[Step, ...]:
    return (*topology.exchanges, *topology.queues, *topology.bindings)


def _declare(channel: Channel, step: Step, then: Callable[[Any], None]) -> None:
    match step:
        case Exchange():
            channel.exchange_declare(step.name, "topic", durable=True, callback=then)
        case Queue():
            channel.queue_declare(step.name, durable=step.durable, arguments=step.arguments, callback=then)
        case Binding():
            channel.queue_bind(step.queue, step.exchange, step.pattern, callback=then)
        case Removal(Binding() as binding):
            channel.queue_unbind(binding.queue, binding.exchange, binding.pattern, callback=then)
        case Removal(Queue() as queue):
            channel.queue_delete(queue.name, callback=then)
        case Look(queue, found):

            def looked(frame: Any) -> None:
                found.append(Inspected(frame.method.message_count, frame.method.consumer_count))
                then(frame)

            channel.queue_declare(queue, passive=True, callback=looked)


def _refusal(step: Step, code: int, reason: Exception) -> KaasqError:
    if isinstance(step, Queue) and code == PRECONDITION_FAILED:
        return BrokerRefused(
            f"queue {step.name!r} exists with other properties ({reply_text(reason)}): use the queue type that it was "
            f"made with, or let it drain, delete it (rabbitmqctl delete_queue {step.name}) and start again",
            queue=step.name,
        )
    doing = {Removal: "removing", Look: "looking at"}.get(type(step), "declaring")
    return translate(reason, f"{doing} {_name(step)}")


def _name(step: Step) -> str:
    if isinstance(step, Look):
        return f"queue {step.queue!r}"
    what = step.what if isinstance(step, Removal) else step
    name = what.queue if isinstance(what, Binding) else what.name
    return f"{type(what).__name__.lower()} {name!r}"
