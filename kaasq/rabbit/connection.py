"""One AMQP connection that comes back by itself, with growing, jittered pauses."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pika

from kaasq.errors import KaasqError
from kaasq.io_thread import IoThread
from kaasq.log import get_logger
from kaasq.rabbit.errors import Where, connection_error
from kaasq.rabbit.wire import IoServices, WireConnection

log = get_logger()


class Backoff:
    """Pauses that double from ``first_s`` to ``max_s``, each shortened at random by up to half, so that a thousand
    programs that lost the same broker do not all come back at once.
    """

    def __init__(self, first_s: float = 0.1, max_s: float = 5.0) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def pause_s(self) -> float:
        pause_s, self._next_s = self._next_s, min(self._max_s, self._next_s * 2)
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311  # spreading load, not guarding secrets

    def reset(self) -> None:
        self._next_s = self._first_s


@dataclass(frozen=True)
class Callbacks:
    """Whom to call, on the I/O thread, when something happens to a connection."""

    on_up: Callable[[WireConnection], None]
    on_down: Callable[[KaasqError], None]
    """It was open and is gone; another attempt follows."""
    on_failed: Callable[[KaasqError], None]
    """An attempt to open it failed; another follows, unless this calls ``close``."""
    on_blocked: Callable[[bool], None]
    """The broker is short of memory or disk and reads no publishes from it, or does so again (False)."""
    wanted: Callable[[], bool] = lambda: True
    """Whether to try again now that it is gone. If not, ``wake`` does."""


class Connection:
    """Keeps an AMQP connection open until it is closed. Lives on the I/O thread."""

    STABLE_S = 10.0
    """After that long, a connection counts as working: the next loss is a new one, with short pauses again."""

    def __init__(
        self, io: IoThread, parameters: pika.URLParameters, where: Where, role: str, max_pause_s: float
    ) -> None:
        self._io = io
        self._where = where
        self._role = role
        self._parameters = copy.copy(parameters)
        properties: dict[str, Any] = {**(parameters.client_properties or {})}
        properties["connection_name"] = f"{properties.get('connection_name', 'kaasq')} {role}"
        self._parameters.client_properties = properties
        self._backoff = Backoff(max_s=max_pause_s)
        self._callbacks: Callbacks | None = None
        self._connection: WireConnection | None = None
        self._up_since: float | None = None
        self._cancel_retry: Callable[[], None] | None = None
        self._on_closed: Callable[[], None] | None = None
        self._closing = self._resting = False

    def start(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self._services = IoServices(self._io)
        self._connect()

    def wake(self) -> None:
        """Try again, if it is gone and was not wanted. The pause after the loss has passed, or is waited for."""
        if self._resting and not self._closing:
            self._connect()

    def close(self, on_closed: Callable[[], None]) -> None:
        """Close it for good; ``on_closed`` once it is."""
        self._closing = True
        if self._cancel_retry is not None:
            self._cancel_retry()
        connection = self._connection
        if connection is None or connection.is_closed:
            on_closed()
            return
        self._on_closed = on_closed
        if connection.is_open or connection.connection_state == connection.CONNECTION_INIT:
            connection.close()
        elif not connection.is_closing:
            self.drop()  # in the handshake: there close() ends in a failed assertion (pika 1.4.4)

    def drop(self) -> None:
        """Lose the present connection, without a word to the broker."""
        if self._callbacks is not None:
            self._services.drop()

    def _retry(self) -> None:
        self._cancel_retry = None
        assert self._callbacks is not None
        if self._callbacks.wanted():
            self._connect()
        else:
            self._resting = True

    def _connect(self) -> None:
        self._resting = False
        self._connection = WireConnection(
            self._parameters,
            on_open_callback=self._opened,
            on_open_error_callback=self._failed,
            on_close_callback=self._closed,
            nbio=self._services,
        )

    def _opened(self, connection: pika.connection.Connection) -> None:
        assert self._callbacks is not None
        assert isinstance(connection, WireConnection)
        log.debug("connection.up", role=self._role, broker=str(self._where))
        self._up_since = self._io.loop.time()
        assert self._services.wire is not None
        connection.wire = self._services.wire
        connection.wire.beats = bool(connection.params.heartbeat)
        on_blocked = self._callbacks.on_blocked
        connection.add_on_connection_blocked_callback(lambda *_: on_blocked(True))
        connection.add_on_connection_unblocked_callback(lambda *_: on_blocked(False))
        self._callbacks.on_up(connection)

    def _failed(self, _connection: pika.connection.Connection, reason: BaseException) -> None:
        self._connection = None
        if self._callbacks is not None and not self._closing:
            error = connection_error(reason, self._where)
            log.debug("connection.failed", role=self._role, broker=str(self._where), error=error.message)
            self._callbacks.on_failed(error)
        self._again()

    def _closed(self, _connection: pika.connection.Connection, reason: BaseException) -> None:
        assert self._up_since is not None
        if self._io.loop.time() - self._up_since > self.STABLE_S:
            self._backoff.reset()
        self._connection = self._up_since = None
        if self._callbacks is not None and not self._closing:
            error = connection_error(reason, self._where)
            log.debug("connection.down", role=self._role, broker=str(self._where), error=error.message)
            self._callbacks.on_down(error)
        self._again()

    def _again(self) -> None:
        if not self._closing:
            self._cancel_retry = self._io.call_later(self._backoff.pause_s(), self._retry)
        elif self._on_closed is not None:
            on_closed, self._on_closed = self._on_closed, None
            on_closed()
