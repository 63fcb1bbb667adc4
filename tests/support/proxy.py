"""A TCP proxy before a broker: speaks TLS to the client if told to, and can fall silent without hanging up."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536


class Proxy:
    """Used as a context manager; ``url`` leads to the broker through it."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "localhost", parts.port or 5672)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        scheme = "amqp" if tls is None else "amqps"
        self.url = parts._replace(scheme=scheme, netloc=f"{user}@localhost:{port}").geturl()
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._flowing.set()
        for each in [self._listener, *self._sockets]:
            _hang_up(each)
            each.close()

    def silence(self) -> None:
        """Forward nothing any more, in either direction."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again."""
        self._flowing.set()

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
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self._sockets += [client, server]
        threading.Thread(target=self._copy, args=(server, client), daemon=True).start()
        self._copy(client, server)

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK_BYTES):
                self._flowing.wait()
                target.sendall(data)
        except OSError:
            pass
        for each in (source, target):
            _hang_up(each)


def _hang_up(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        one.shutdown(socket.SHUT_RDWR)
