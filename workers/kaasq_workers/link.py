"""What front and executor say to each other: the orders that an executor begins with, jobs, answers, withdrawals."""

from __future__ import annotations

import msgspec

from kaasq import codec
from kaasq.messages import ErrorBody, WorkerInfo
from kaasq.settings import Settings
from kaasq_workers.vitals import next_tag

ANSWER_BYTES = 16 << 20  # of a reply by who only reads


GAVE_UP = 75
"""The exit code of an executor that leaves nobody to blame. Not 0: a kernel that calls exit(0) would run for ever."""


class Orders(msgspec.Struct, frozen=True):
    """What an executor begins with."""

    settings: Settings
    sharing: int = 1
    """So many executors share what the settings say of device memory and pinned memory."""


class Address(msgspec.Struct, frozen=True, array_like=True):
    """Where a reply is published, and as what."""

    exchange: str
    routing_key: str
    correlation_id: str


class Job(msgspec.Struct, frozen=True, array_like=True, tag="job"):
    """A request on its way to the executor. ``tag`` is the front's own number for it."""

    tag: int
    tenant: str
    id: str
    body: bytes
    content_type: str | None
    published_ms: int | None
    expiration_ms: int | None = None
    alone: bool = False
    """Nothing else may run or be committed with it: it is suspected of having killed an executor."""
    redelivered: bool = False
    """The broker has delivered it before."""
    delivery: str = ""
    """Tells one delivery of a request from the next, over all fronts."""
    graph: str | None = None
    """Its graph's name, if an executor that died had read it: its event is told under that."""
    verdict: ErrorBody | None = None
    """It is not run any more: this is its outcome."""
    taken_ms: int = 0
    """When the front took its delivery, in milliseconds since the epoch."""
    to: Address | None = None
    """Where its reply goes, for one that is to be kept for later."""
    rerun: bool = False
    """An executor that had it has died."""
    died: str | None = None
    """How that died, if this one is suspected of it."""
    kills: int = 0
    """So many executors it is known to have killed."""

    @property
    def repeated(self) -> bool:
        """Whether it may have ended before, and whoever was to publish what followed may have died."""
        return self.redelivered or self.rerun


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag="withdraw"):
    """A request is not to run, wherever it is: on its way here, queued, or never heard of. Answered with Withdrawn."""

    tag: int
    tenant: str
    id: str


class Said(msgspec.Struct, frozen=True, array_like=True, tag="said"):
    """The reply to a question about workflows by who only reads. Empty: the executor is to answer."""

    tag: int
    reply: bytes = b""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The executor is ready."""

    worker: WorkerInfo
    description: str
    device_memory: int = 0
    """Bytes that it may use."""
    store_path: str = ""
    """The folder of the store that it has opened."""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """The executor cannot start."""

    error: ErrorBody


class Told(msgspec.Struct, frozen=True, array_like=True):
    """A reply to somebody of a tenant who has been waiting for it."""

    tenant: str
    id: str
    correlation_id: str
    exchange: str
    routing_key: str
    content_type: str
    body: bytes


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag="withdrawn"):
    """Those withdrawals are durable; or could not be made so, and are to be sent again later."""

    tags: list[int]
    durable: bool = True
    told: list[Told] = []
    """Who waits for a workflow that ends so."""


class Following(msgspec.Struct, frozen=True, array_like=True):
    """A request to be published after the one that it follows; with an ``error``, one that could not be made."""

    id: str
    pool: str
    body: bytes = b""
    timeout_ms: int | None = None
    error: ErrorBody | None = None
    quiet: bool = False
    """Nobody awaits a reply to it. If the broker does not take it, it will be published again later."""


class Happened(msgspec.Struct, frozen=True, array_like=True):
    """The event of something that has ended besides the request that is answered."""

    id: str
    graph: str
    word: str
    event: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """A request has its outcome: durable, and ready to be published. ``event`` None: it gets none. ``reply`` empty: so.

    ``then`` is to be published, ``onward`` is not: the executor has begun it already, as ``onward_from`` has it.
    """

    tag: int
    word: str
    reply: bytes
    graph: str | None = None
    event: bytes | None = None
    error: ErrorBody | None = None
    dead: bool = False
    """To be kept in the dead-letter queue, too."""
    then: list[Following] = []
    onward: Following | None = None
    told: list[Told] = []
    also: list[Happened] = []
    subject: str | None = None
    """The id of what has ended, for its event, where that is not the request's."""

    @property
    def nbytes(self) -> int:
        """About so many bytes it takes to send."""
        nbytes = len(self.reply) + len(self.event or b"")
        if self.then or self.told or self.also:
            nbytes += sum([len(each.body) for each in self.then]) + sum([len(each.body) for each in self.told])
            nbytes += sum([len(each.event) for each in self.also])
        return nbytes if self.onward is None else nbytes + len(self.onward.body)


def onward_from(job: Job, following: Following, now_ms: int) -> Job | None:
    """What follows a job as the next one on the same delivery, without the broker. None if it may have no more.

    Front and executor make it alike, but for the time at which they do. It is no suspect, whatever its job was.
    """
    tag = next_tag(job.tag)
    if tag is None:
        return None
    return msgspec.structs.replace(
        job,
        tag=tag,
        id=following.id,
        body=following.body,
        content_type=codec.reply_type(job.body, job.content_type),
        published_ms=now_ms,
        expiration_ms=following.timeout_ms,
        alone=False,
        graph=None,
        verdict=None,
        died=None,
        kills=0,
        to=None if following.quiet or job.to is None else msgspec.structs.replace(job.to, correlation_id=following.id),
    )


class Driven(msgspec.Struct, frozen=True, array_like=True, tag="driven"):
    """What is due in a tenant's workflows, though none of their steps has ended."""

    tenant: str
    then: list[Following]


ToExecutor = Job | Withdraw
FromExecutor = Hello | Refusal | Answer | Withdrawn | Driven
