"""The socket pair between front and executor, and both its ends: batches of messages in frames.

Each frame is a length (4 bytes, little-endian) and a MessagePack list of messages.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from kaasq.polling import Looking, wait
from kaasq_workers.link import Answer, FromExecutor, ToExecutor
from kaasq_workers.vitals import Vitals

RECEIVE_BYTES = 256 << 10
FEW_AT_ONCE = 2  # jobs, after which the executor still looks for the next ones without sleeping
FRAME_MOST = 512 << 20  # what RabbitMQ takes as one message at most
SEND_BYTES = 1 << 20  # in one frame, unless a single message has more
_LENGTH = struct.Struct("<I")
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

    def receive(self, sock: socket.socket) -> list[Any] | None:
        """What has arrived on a socket that does not block, which may be nothing; None when its other end is gone.

        Raises what ``feed`` does.
        """
        try:
            data = sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return list(self.feed(data)) if data else None


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
        return self._reader.receive(self._sock)

    def close(self) -> None:
        """Hang up: the executor finishes what it is doing and ends."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def dispose(self) -> None:
        """Free the socket."""
        self._sock.close()


class BlockingChannel:
    """The executor's end: one thread waits for jobs and takes all that have arrived, any may send."""

    def __init__(self, sock: socket.socket, busy_poll_s: float = 0.0) -> None:
        """``busy_poll_s``: for how long it looks for jobs at most before it sleeps."""
        sock.settimeout(None)  # for good: it is the whole socket's, and would cut another thread's frame short
        self._sock = sock
        self._sending = threading.Lock()
        self._reader = FrameReader(ToExecutor)
        self._looking = Looking(busy_poll_s)
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def receive(self, timeout_s: float | None) -> list[ToExecutor] | None:
        """Jobs and the like, at least one; [] if none came in time; None when the front is gone."""
        jobs: list[ToExecutor] = []
        while True:
            try:
                data = self._sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                if jobs or timeout_s == 0 or not wait(self._looking, self._readable, timeout_s):
                    return jobs
                continue
            except OSError:
                return jobs or None
            if not data:
                return jobs or None
            jobs.extend(self._reader.feed(data))
            if len(jobs) > FEW_AT_ONCE:
                self._looking.rest()
            if jobs and len(data) < RECEIVE_BYTES:  # else there may be more, or a frame is not whole
                return jobs

    def _readable(self, timeout_s: float | None) -> bool:
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1e3))

    def send(self, messages: Iterable[FromExecutor]) -> None:
        """Send them, large ones in frames of their own. Raises OSError if the front is gone."""
        batch: list[FromExecutor] = []
        nbytes = 0
        with self._sending:
            for each in messages:
                batch.append(each)
                nbytes += each.nbytes if isinstance(each, Answer) else 0
                if nbytes > SEND_BYTES:
                    self._sock.sendall(frame(batch))
                    batch, nbytes = [], 0
            if batch:
                self._sock.sendall(frame(batch))
