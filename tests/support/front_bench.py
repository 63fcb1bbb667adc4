"""A front with its surroundings driven by hand: the broker's loop and publishes, deliveries, an executor."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kaasq import codec
from kaasq.broker import Message
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError
from kaasq.messages import Cancel, Reply, WorkerInfo
from kaasq.settings import Settings
from kaasq_workers.channel import BlockingChannel, Link
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.front import Front
from kaasq_workers.link import Answer, Hello, Job, Said, Withdraw, Withdrawn
from kaasq_workers.vitals import Vitals

WORKER = WorkerInfo(host="h", pid=1, device="cpu")


class Executor:
    """The executor's end, played by the test; also the handle that the front holds."""

    killable = True

    def __init__(self) -> None:
        ours, self.sock = socket.socketpair()
        vitals, fd = Vitals.create()
        self.vitals = Vitals(fd)
        self.link = Link(ours, vitals)
        self.channel = BlockingChannel(self.sock)
        self.killed = False
        self.how = "SIGSEGV"

    def kill(self) -> None:
        self.killed = True
        self.sock.close()

    def wait(self, timeout_s: float) -> str | None:
        return self.how

    def received(self) -> list[Job]:
        return [each for each in self.channel.receive(0.0) or [] if isinstance(each, Job)]

    def told(self) -> list[Withdraw]:
        return [each for each in self.channel.receive(0.0) or [] if isinstance(each, Withdraw)]


class Informant:
    """The process that answers in the executor's place, played by the test; also what the front holds of it."""

    def __init__(self, number: int) -> None:
        self._fd = 1 << 20 | number
        self.asked: list[Job] = []
        self.said: list[Said] | None = []
        self.killed = False

    def fileno(self) -> int:
        return self._fd

    def ask(self, job: Job) -> None:
        self.asked.append(job)

    def heard(self) -> list[Said] | None:
        said, self.said = self.said, []
        return said

    def kill(self) -> None:
        self.killed = True

    def gone(self) -> bool:
        return self.killed


class Loop:
    """The broker's I/O thread and publishes, driven by hand."""

    tenant = "guest"

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.published: list[tuple[str, str, Message]] = []
        self.confirm: KaasqError | str | None = None
        self.unconfirmed: list[Callable[[KaasqError | None], None]] = []
        self.refuse: str | None = None  # publishes to this exchange are refused
        self.refusals: dict[str, KaasqError] = {}  # by exchange
        self.mandatory: set[str | None] = set()  # ids of what was published so
        self.tenants: list[str | None] = []  # for whom, of each
        self.failures = 0  # so many publishes are lost with their connection
        self.break_on: str | None = None

    def add_reader(self, fd: int, on_readable: Callable[[], None]) -> None:
        self.readers[fd] = on_readable

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        self.later.append((delay_s, callback))
        return lambda: None

    def publish(self, message, *, exchange: str, routing_key: str, mandatory=False, done=None, tenant=None) -> None:
        if self.break_on is not None and message.message_id == self.break_on:
            raise RecursionError
        self.published.append((exchange, routing_key, message))
        self.tenants.append(tenant)
        if mandatory:
            self.mandatory.add(message.message_id)
        if self.failures:
            self.failures -= 1
            done(BrokerLost("gone"))
        elif exchange in self.refusals:
            done(self.refusals[exchange])
        elif exchange == self.refuse:
            done(BrokerRefused("full"))
        elif self.confirm == "later":
            self.unconfirmed.append(done)
        else:
            done(self.confirm)

    def confirm_all(self) -> None:
        waiting, self.unconfirmed = self.unconfirmed, []
        for done in waiting:
            done(None)

    def close(self) -> None:
        """Nothing is published any more."""
        self.confirm = BrokerLost("closed", closed=True)
        waiting, self.unconfirmed = self.unconfirmed, []
        for done in waiting:
            done(self.confirm)

    def turn(self) -> None:
        for reader in list(self.readers.values()):
            reader()

    def run_timers(self) -> None:
        due, self.later = self.later, []
        for _, callback in due:
            callback()


class Taken:
    """A delivery that remembers how it was settled."""

    exchange, routing_key, queue = "kaasq.requests", "guest.p.any", "kaasq.work.p"
    redelivered = False

    def __init__(self, message: Message) -> None:
        self.message = message
        self.settled: str | None = None

    def _settle(self, how: str) -> None:
        self.settled = self.settled or how

    def ack(self) -> None:
        self._settle("ack")

    def requeue(self) -> None:
        self._settle("requeue")

    def reject(self) -> None:
        self._settle("reject")


class Bench:
    """A front with its surroundings."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.loop = Loop()
        self.executors: list[Executor] = []
        self.ready: list[KaasqError | None] = []
        self.informants: list[Informant] = []
        self.no_informants = 0  # so many cannot be started
        answers = Answers(self.loop, "/test")
        self.front = Front(self.loop, settings or Settings(), self, answers, self.ready.append, self.inform)
        self.front.start()
        self.say_hello()

    def start(self) -> Executor:
        """As the starter that the front has."""
        self.executors.append(Executor())
        return self.executors[-1]

    def inform(self) -> Informant:
        if self.no_informants:
            self.no_informants -= 1
            raise OSError
        self.informants.append(Informant(len(self.informants)))
        return self.informants[-1]

    def started(self, hello: Hello) -> None:
        """As the starter that the front has."""

    def close(self) -> None:
        """As the starter that the front has."""

    @property
    def executor(self) -> Executor:
        return self.executors[-1]

    def say_hello(self) -> None:
        self.executor.channel.send([Hello(worker=WORKER, description="")])
        self.loop.turn()

    def take(self, key: str, *, redelivered: bool = False, **changes) -> Taken:
        properties = {"message_id": key, "user_id": "guest", "reply_to": "r", "content_type": codec.JSON, **changes}
        taken = Taken(Message(**{"body": b"{}", **properties}))
        taken.redelivered = redelivered
        self.front.take(taken)
        return taken

    def cancel(self, key: str, **changes) -> Taken:
        body = codec.encode(Cancel(cancel=key), codec.JSON)
        taken = Taken(Message(**{"body": body, "content_type": codec.JSON, "user_id": "guest", **changes}))
        self.front.take_control(taken)
        return taken

    def note(self, *withdrawn: Withdraw, durable: bool = True) -> None:
        self.executor.channel.send([Withdrawn([each.tag for each in withdrawn], durable=durable)])
        self.loop.turn()

    def answer(self, job: Job, **changes) -> None:
        fields = {"word": "completed", "reply": b"R", "graph": "g", "event": b"E", **changes}
        self.executor.channel.send([Answer(tag=job.tag, **fields)])
        self.loop.turn()

    def die(self, running: int = 0) -> None:
        self.executor.vitals.begin(running)
        self.executor.sock.close()
        self.loop.turn()

    def revive(self) -> None:
        self.loop.run_timers()
        self.say_hello()


def reply(published: tuple[str, str, Message]) -> Reply:
    exchange, _key, message = published
    assert exchange == "kaasq.replies"
    return codec.decode_reply(message.body, message.content_type)
