"""pika's bytes over an asyncio transport: large reads, and one write for all frames of a turn of the loop.

pika's own transports read 4 KiB at a time and call send() once per frame, three times per message; neither can be
changed from outside (class constants and methods with a leading underscore, pika 1.3 to 1.4). What can be replaced as a
whole is the I/O service below a connection: pika's README names BaseConnection with an AbstractIOServices as the way
to write an adapter, and that is what this module is. Measured against pika's own transport: 52 instead of 90 us of CPU
per small message sent and received, 1.5 instead of 2.5 ms per MiB, and 1.8 times the throughput with 64 outstanding.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from ssl import SSLContext
from typing import TYPE_CHECKING, Any, NoReturn

from pika import BaseConnection
from pika.adapters.utils import nbio_interface

from kaasq.io_thread import IoThread
from kaasq.rabbit.lanes import Lane

READ_BYTES = 256 * 1024
FEED_BYTES = 4 * 1024
ALIVE_S = 1.0  # pika is told at most so often that the broker is there
_FRAME = struct.Struct(">BHI")
_FRAME_OVERHEAD = 8  # type, channel, size; end mark
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_PAYLOAD_AT = 7  # after a frame's type, channel and size


if TYPE_CHECKING:
    _Base = BaseConnection[asyncio.AbstractEventLoop]
else:
    _Base = BaseConnection  # generic in its stubs only


class WireConnection(_Base):
    """pika's AMQP over our transport. Only to be used on the loop's thread."""

    wire: Wire
    """What it speaks over, once it is open."""

    @classmethod
    def create_connection(cls, *_args: Any, **_kwargs: Any) -> NoReturn:  # for callers with several hosts: none here
        raise NotImplementedError


class IoServices(nbio_interface.AbstractIOServices):
    """What pika needs of an event loop, from asyncio. One for each connection that is kept open."""

    def __init__(self, io: IoThread) -> None:
        self.io = io
        self._loop = io.loop
        self.wires: weakref.WeakSet[Wire] = weakref.WeakSet()
        self.wire: Wire | None = None
        """The one that was connected last."""

    def drop(self) -> None:
        """End what is open without a word to the broker."""
        for each in list(self.wires):
            each.drop()

    def get_native_ioloop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:  # the loop is not pika's to close, run or stop: the I/O thread does that
        raise NotImplementedError

    run = stop = close

    def add_callback_threadsafe(self, callback: Callable[..., None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def call_later(self, delay: float, callback: Callable[..., None]) -> _Timer:
        return _Timer(self._loop.call_later(delay, callback))

    def getaddrinfo(
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        on_done: Callable[[Any], None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> _Lookup:
        return _Lookup(self._loop, on_done, (host, port, family, socktype, proto, flags))

    def connect_socket(
        self, sock: socket.socket, resolved_addr: tuple[str, int], on_done: Callable[[BaseException | None], None]
    ) -> _Task:
        return _Task(self._loop, self._loop.sock_connect(sock, resolved_addr), on_done)

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], nbio_interface.AbstractStreamProtocol],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> _Task:
        async def connect() -> tuple[Wire, nbio_interface.AbstractStreamProtocol]:
            _, wire = await self._loop.create_connection(
                lambda: Wire(self, protocol_factory()),
                sock=sock,
                ssl=ssl_context,
                server_hostname=server_hostname if ssl_context else None,
            )
            return wire, wire.get_protocol()

        return _Task(self._loop, connect(), on_done)


class Wire(asyncio.BufferedProtocol, nbio_interface.AbstractStreamTransport):
    """A transport to pika, a protocol to asyncio.

    Whole frames only: those of lanes (``lanes.py``) to them, the others to pika, which keeps a partial frame as bytes
    and copies them with every piece that arrives. Their order stays.
    """

    def __init__(self, services: IoServices, amqp: nbio_interface.AbstractStreamProtocol) -> None:
        self._services = services
        self._io = services.io
        services.wires.add(self)
        self._amqp = amqp
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(READ_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._out: list[bytes] = []
        self._dropped = False
        self.lanes: dict[int, Lane] = {}
        """By channel. A channel that is opened again under its number gets a new one."""
        self.beats = False
        """Whether pika gives the connection up when it hears nothing for long."""
        self._told_at = 0.0

    # asyncio below

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._services.wire = self
        self._amqp.connection_made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's hint is always -1
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._io.turn(self._feed, self._filled + nbytes)

    def eof_received(self) -> bool:
        return bool(self._amqp.eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is None and self._dropped:
            exc = ConnectionAbortedError("dropped")
        self._amqp.connection_lost(exc)

    def drop(self) -> None:
        """Lose the connection: what pika's ``abort`` does, but pika will not take it for its own doing."""
        self._dropped = True
        self.abort()

    # pika above

    def write(self, data: bytes) -> None:
        if not self._out:
            self._io.at_end(self._flush)
        self._out.append(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._flush()  # the last frame is often the answer that lets the broker close in peace
            self._transport.abort()

    def get_protocol(self) -> nbio_interface.AbstractStreamProtocol:
        return self._amqp

    def get_write_buffer_size(self) -> int:
        waiting = sum(map(len, self._out))
        return waiting + (self._transport.get_write_buffer_size() if self._transport else 0)

    def _flush(self) -> None:
        if self._out:
            out, self._out = self._out, []
            if self._transport is not None:
                self._transport.writelines(out)

    def _feed(self, end: int) -> None:
        buffer, view, lanes = self._buffer, self._view, self.lanes
        if buffer.startswith(b"AMQP"):  # not a frame: a broker that speaks another version says so and hangs up
            self._amqp.data_received(bytes(view[:end]))
            return
        start = cut = 0  # from start to cut: whole frames for pika
        taken = False
        while end - cut >= _FRAME_OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(buffer, cut)
            after = cut + size + _FRAME_OVERHEAD
            if after > end:
                break
            lane = lanes.get(channel)
            if lane is not None and lane.is_for(kind, buffer, cut + _PAYLOAD_AT):
                if cut > start:  # what came before goes before
                    self._amqp.data_received(bytes(view[start:cut]))
                lane.take(kind, view[cut + _PAYLOAD_AT : after - 1])
                start = cut = after
                taken = True
                continue
            cut = after
            if cut - start >= FEED_BYTES:  # few at a time: pika copies the rest after each one
                self._amqp.data_received(bytes(view[start:cut]))
                start = cut
        if cut > start:
            self._amqp.data_received(bytes(view[start:cut]))
        elif taken and self.beats:
            self._tell_alive()
        self._filled = end - cut
        if self._filled and cut:
            view[: self._filled] = view[cut:end]
        elif self._filled == len(buffer):
            raise ConnectionError(f"a frame of more than {READ_BYTES} bytes: is this an AMQP broker?")

    def _tell_alive(self) -> None:
        """Of what lanes take pika hears nothing, and a busy broker sends no heartbeats."""
        now = self._io.loop.time()
        if now - self._told_at > ALIVE_S:
            self._told_at = now
            self._amqp.data_received(_HEARTBEAT)


class _Timer(nbio_interface.AbstractTimerReference):
    def __init__(self, handle: asyncio.TimerHandle) -> None:
        self._handle = handle

    def cancel(self) -> None:
        self._handle.cancel()


class _Task(nbio_interface.AbstractIOReference):
    """A coroutine whose result, or error, goes to a callback unless it is cancelled, even if it had ended by then: pika
    reports the end of an attempt by itself when it cancels.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], on_done: Callable[[Any], None]
    ) -> None:
        self._on_done: Callable[[Any], None] | None = on_done
        self._task = loop.create_task(work)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> bool:
        pending, self._on_done = self._on_done is not None, None
        self._task.cancel()
        return pending

    def _ended(self, task: asyncio.Task[Any]) -> None:
        on_done, self._on_done = self._on_done, None
        if task.cancelled():
            return
        result = task.exception() or task.result()
        if on_done is not None:
            on_done(result)
        elif isinstance(result, tuple):  # connected, and nobody wants it any more
            wire, amqp = result
            amqp.add_on_open_error_callback(lambda *_: None, remove_default=True)
            wire.abort()


class _Lookup(nbio_interface.AbstractIOReference):
    """A name looked up on a daemon thread: one of an executor would keep a program from ending while DNS hangs."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: Callable[[Any], None], query: Sequence[Any]) -> None:
        self._loop = loop
        self._on_done: Callable[[Any], None] | None = on_done
        threading.Thread(target=self._run, args=(query,), name="kaasq-dns", daemon=True).start()

    def cancel(self) -> bool:
        pending, self._on_done = self._on_done is not None, None
        return pending

    def _run(self, query: Sequence[Any]) -> None:
        result: Any
        try:
            result = socket.getaddrinfo(*query)
        except (OSError, UnicodeError) as error:
            result = error
        try:
            self._loop.call_soon_threadsafe(self._finish, result)
        except RuntimeError:  # the loop was closed meanwhile
            return

    def _finish(self, result: Any) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(result)
