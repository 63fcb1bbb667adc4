"""A TCP proxy before a broker. It can fall silent, be slow, cut a stream in two, reset; speaks TLS if told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset instead of the rest


class Proxy:
    """Used as a context manager; ``url`` leads to the broker through it, or in turn to ``others`` that answer."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, *, others: Sequence[str] = ()) -> None:
        parts = urlsplit(url)
        self._targets = [_place(each) for each in (url, *others)]
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        scheme = "amqp" if tls is None else "amqps"
        self.url = parts._replace(scheme=scheme, netloc=f"{user}@localhost:{port}").geturl()
        self._flowing = threading.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._cutting = False
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        for each in [self._listener, *self._open()]:
            _hang_up(each)
            each.close()

    def silence(self) -> None:
        """Forward nothing any more, in either direction."""
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Hold every piece of a stream that long."""
        self._delay_s = seconds

    def cut(self) -> None:
        """Forward one half of the next piece of each stream, and hang up; new connections as well, until resumed."""
        self._cutting = True

    def reset(self) -> None:
        """Reset every connection, in both directions."""
        for each in self._open():
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RD)  # wakes who reads it, which closes it
                each.close()

    def resume(self) -> None:
        """Forward again, as it comes."""
        self._delay_s, self._cutting = 0.0, False
        self._flowing.set()

    def _open(self) -> list[socket.socket]:
        with self._lock:
            return list(self._sockets)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            self._flowing.wait()
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = self._connect()
        except OSError:
            client.close()
            return
        pair = (client, server)
        with self._lock:
            self._sockets.update(pair)
        back = threading.Thread(target=self._copy, args=(server, client), daemon=True)
        back.start()
        self._copy(client, server)
        back.join()
        with self._lock:
            self._sockets.difference_update(pair)
        for each in pair:
            each.close()

    def _connect(self) -> socket.socket:
        with self._lock:
            self._targets.append(self._targets.pop(0))
        for target in self._targets[:-1]:
            with contextlib.suppress(OSError):
                return socket.create_connection(target)
        return socket.create_connection(self._targets[-1])

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                if self._delay_s:
                    time.sleep(self._delay_s)
                self._flowing.wait()
                if self._cutting:
                    target.sendall(data[: len(data) // 2])
                    break
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            _hang_up(each)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "localhost", parts.port or 5672


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        one.shutdown(socket.SHUT_RDWR)
