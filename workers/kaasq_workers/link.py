"""What front and executor say to each other: batches of small frames over a socket pair, and a shared page of vitals.

Each frame is a length (4 bytes, little-endian) and a MessagePack list of messages. The page lets the front see, without
a message per request, which requests the executor is running: if the executor dies, those are the suspects.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from kaasq.messages import ErrorBody, WorkerInfo
from kaasq.settings import Settings

T = TypeVar("T")

_LENGTH = struct.Struct("<I")
_WORD = struct.Struct("<Q")
_RUNNING = struct.Struct("<QQ")
RUNNING_MOST = 64
RECEIVE_BYTES = 256 << 10
FRAME_MOST = 512 << 20  # what RabbitMQ takes as one message at most
SEND_BYTES = 1 << 20  # in one frame, unless a single message has more
_PLACES = 1 << 16  # prefetch is at most one less
_TURNS_AT = RUNNING_MOST * _RUNNING.size
_PULSE_AT = _TURNS_AT + _WORD.size
_WITHDRAWN_AT = _PULSE_AT + _WORD.size
_NAMES_AT = _WITHDRAWN_AT + _PLACES * _WORD.size
_NAME_BYTES = 256  # its length, and a graph's name as it fits into a routing key
_VITALS_BYTES = _NAMES_AT + RUNNING_MOST * _NAME_BYTES


class Orders(msgspec.Struct, frozen=True):
    """What an executor begins with."""

    settings: Settings
    sharing: int = 1
    """So many executors share what the settings say of device memory and pinned memory."""


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


class Withdraw(msgspec.Struct, frozen=True, array_like=True, tag="withdraw"):
    """A request is not to run, wherever it is: on its way here, queued, or never heard of. Answered with Withdrawn."""

    tag: int
    tenant: str
    id: str


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="hello"):
    """The executor is ready."""

    worker: WorkerInfo
    description: str
    device_memory: int = 0
    """Bytes that it may use."""


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag="refusal"):
    """The executor cannot start."""

    error: ErrorBody


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag="withdrawn"):
    """Those withdrawals are durable; or could not be made so, and are to be sent again later."""

    tags: list[int]
    durable: bool = True


class Following(msgspec.Struct, frozen=True, array_like=True):
    """A request to be published after the one that it follows; with an ``error``, one that could not be made."""

    id: str
    pool: str
    body: bytes = b""
    timeout_ms: int | None = None
    error: ErrorBody | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """A request has its outcome: durable, and ready to be published. ``event`` None: it gets none."""

    tag: int
    word: str
    reply: bytes
    graph: str | None = None
    event: bytes | None = None
    error: ErrorBody | None = None
    dead: bool = False
    """To be kept in the dead-letter queue, too."""
    then: list[Following] = []

    @property
    def nbytes(self) -> int:
        """About so many bytes it takes to send."""
        return len(self.reply) + len(self.event or b"") + sum([len(each.body) for each in self.then])


ToExecutor = Job | Withdraw
FromExecutor = Hello | Refusal | Answer | Withdrawn

_encode = msgspec.msgpack.Encoder().encode


def frame(messages: Sequence[Any]) -> bytes:
    """The messages as one frame."""
    body = _encode(messages)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into frames of ``most`` bytes and decodes them."""

    def __init__(self, kind: Any, most: int = (1 << 32) - 1) -> None:
        self._decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[kind])
        self._buffer = bytearray()
        self._most = most

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that are complete with this data, in order.

        Raises ValueError for a frame that is too large, and what msgspec raises for what is no such messages.
        """
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > self._most:
                raise ValueError(f"a frame of {length} bytes; {self._most} are the most")
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            with memoryview(self._buffer) as view:
                messages = self._decoder.decode(view[start + _LENGTH.size : end])
            start = end
            yield from messages
        del self._buffer[:start]


class Link:
    """The front's end: never blocks. What the executor does not take at once waits for ``flush``."""

    def __init__(self, sock: socket.socket, vitals: Vitals) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(FromExecutor, FRAME_MOST)
        self._backlog = bytearray()
        self.vitals = vitals

    def fileno(self) -> int:
        """For watching readability."""
        return self._sock.fileno()

    def send(self, jobs: Sequence[ToExecutor]) -> bool:
        """Send as one frame; whether all of it went. Raises OSError if the executor is gone."""
        if jobs:
            self._backlog += frame(jobs)
        return self.flush()

    def flush(self) -> bool:
        """Send what waits; whether all of it went. Raises OSError if the executor is gone."""
        while self._backlog:
            try:
                sent = self._sock.send(self._backlog)
            except BlockingIOError:
                return False
            del self._backlog[:sent]
        return True

    def receive(self) -> list[FromExecutor] | None:
        """What has arrived; None when the executor is gone. Raises as FrameReader for what is no word of its."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self._reader.feed(data)) if data else None

    def close(self) -> None:
        """Hang up: the executor finishes what it is doing and ends."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def dispose(self) -> None:
        """Free the socket."""
        self._sock.close()


class BlockingChannel:
    """The executor's end: waits for jobs, takes all that have arrived."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader(ToExecutor)

    def receive(self, timeout_s: float | None) -> list[ToExecutor] | None:
        """Jobs and the like, at least one; [] if none came in time; None when the front is gone."""
        jobs: list[ToExecutor] = []
        self._sock.settimeout(timeout_s)
        while True:
            try:
                data = self._sock.recv(RECEIVE_BYTES)
            except TimeoutError:
                return []
            except BlockingIOError:
                return jobs
            except OSError:
                return jobs or None
            if not data:
                return jobs or None
            jobs.extend(self._reader.feed(data))
            self._sock.settimeout(0.0 if jobs else timeout_s)  # take what else is there, but wait for a whole frame

    def send(self, messages: Iterable[FromExecutor]) -> None:
        """Send them, large ones in frames of their own. Raises OSError if the front is gone."""
        self._sock.settimeout(None)
        batch: list[FromExecutor] = []
        nbytes = 0
        for each in messages:
            batch.append(each)
            nbytes += each.nbytes if isinstance(each, Answer) else 0
            if nbytes > SEND_BYTES:
                self._sock.sendall(frame(batch))
                batch, nbytes = [], 0
        if batch:
            self._sock.sendall(frame(batch))


class Vitals:
    """Shared memory: the requests that are running, each with its deadline; signs of life; which tags are withdrawn.

    A request is known by its tag, which is never 0. Deadlines are in milliseconds since the epoch, 0 for none. Of a
    request's two words the tag is written last and erased first, so that a reader never holds it against another's
    deadline. A tag is withdrawn by its number in the place that is its own (more of them than places are never with
    one executor), so that a running request can look without a system call.

    Beside a request stands the name of its graph, once it is read: if its executor dies, its event can still be told.

    There are two signs of life, both counters: the turns of the executor's loop, which stand still while a request
    runs that nobody can look into, and the process's pulse, which goes on through any kernel.
    """

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, _VITALS_BYTES)
        self._places: dict[int, int] = {}  # of what runs here
        self._free = list(range(_TURNS_AT - _RUNNING.size, -1, -_RUNNING.size))

    @classmethod
    def create(cls) -> tuple[Vitals, int]:
        """A new page and the file descriptor by which another process maps it.

        Its size stays: whoever looks at a page whose file was cut short is killed, and the executor runs tenants' code.
        """
        fd = os.memfd_create("kaasq-vitals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _VITALS_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd), fd

    @property
    def running(self) -> dict[int, int]:
        """The tags that are running, and their deadlines."""
        return {tag: deadline_ms for tag, deadline_ms in _RUNNING.iter_unpack(self._page[:_TURNS_AT]) if tag}

    @property
    def graphs(self) -> dict[int, str]:
        """The names of the graphs of the tags that are running, as far as they were read."""
        found: dict[int, str] = {}
        for number, (tag, _) in enumerate(_RUNNING.iter_unpack(self._page[:_TURNS_AT])):
            at = _NAMES_AT + number * _NAME_BYTES
            length = self._page[at]
            if tag and length:
                found[tag] = self._page[at + 1 : at + 1 + length].decode("ascii", "replace")
        return found

    @property
    def turns(self) -> int:
        """The turns of the executor's loop so far."""
        return int(_WORD.unpack_from(self._page, _TURNS_AT)[0])

    @property
    def pulse(self) -> int:
        """The beats of the executor's process so far."""
        return int(_WORD.unpack_from(self._page, _PULSE_AT)[0])

    def turn(self) -> None:
        """The loop goes round once more."""
        _WORD.pack_into(self._page, _TURNS_AT, self.turns + 1)

    def beat(self) -> None:
        """The process lives."""
        _WORD.pack_into(self._page, _PULSE_AT, self.pulse + 1)

    def begin(self, tag: int, deadline_ms: int = 0) -> None:
        """A request begins; this deadline holds until its own is known. At most ``RUNNING_MOST`` at once."""
        place = self._places[tag] = self._free.pop()
        self._page[self._name_at(place)] = 0
        _WORD.pack_into(self._page, place + _WORD.size, deadline_ms)
        _WORD.pack_into(self._page, place, tag)

    def due(self, tag: int, deadline_ms: int) -> None:
        """A running request's own deadline."""
        _WORD.pack_into(self._page, self._places[tag] + _WORD.size, deadline_ms)

    def read(self, tag: int, graph: str) -> None:
        """A running request's graph has that name."""
        name, at = graph.encode("ascii"), self._name_at(self._places[tag])
        if len(name) < _NAME_BYTES:  # else it fits no routing key either
            self._page[at + 1 : at + 1 + len(name)] = name
            self._page[at] = len(name)

    def end(self, tag: int) -> None:
        """It runs no longer."""
        place = self._places.pop(tag)
        _WORD.pack_into(self._page, place, 0)
        self._free.append(place)

    def withdraw(self, tag: int) -> None:
        """The request with this tag is not to run any further."""
        _WORD.pack_into(self._page, self._place(tag), tag)

    def withdrawn(self, tag: int) -> bool:
        """Whether it is not to run any further."""
        return bool(_WORD.unpack_from(self._page, self._place(tag))[0] == tag)

    @staticmethod
    def _name_at(place: int) -> int:
        return _NAMES_AT + place // _RUNNING.size * _NAME_BYTES

    @staticmethod
    def _place(tag: int) -> int:
        return _WITHDRAWN_AT + tag % _PLACES * _WORD.size
