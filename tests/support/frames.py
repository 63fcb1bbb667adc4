"""A proxy before RabbitMQ that holds back chosen frames of its clients and lets all others pass."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

HEADER = struct.Struct(">BHI")  # type, channel, size; a byte that ends the frame follows the payload
GREETING_BYTES = 8
QUEUE_DECLARE = struct.pack(">HH", 50, 10)


def declares(queue: str) -> Callable[[bytes], bool]:
    """Whether a frame's payload declares that queue."""
    return lambda payload: payload.startswith(QUEUE_DECLARE) and queue.encode() in payload


class FrameProxy:
    """Used as a context manager. What ``holds`` is true of waits until ``let_go``, by itself; what follows does not."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "localhost", parts.port or 5672
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"guest:guest@127.0.0.1:{port}").geturl()
        self.holds: Callable[[bytes], bool] = lambda _: False
        self.held: list[bytes] = []
        self._held_for: list[tuple[socket.socket, bytes]] = []
        self._sockets: list[socket.socket] = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def let_go(self) -> None:
        """Hold nothing any more, and send what was held."""
        self.holds = lambda _: False
        for server, frame in self._held_for:
            with contextlib.suppress(OSError):
                server.sendall(frame)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._back, args=(server, client), daemon=True).start()
                threading.Thread(target=self._forth, args=(client, server), daemon=True).start()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as stream:
            server.sendall(stream.read(GREETING_BYTES))
            while head := stream.read(HEADER.size):
                _, _, size = HEADER.unpack(head)
                rest = stream.read(size + 1)
                if self.holds(rest[:-1]):
                    self.held.append(rest[:-1])
                    self._held_for.append((server, head + rest))
                else:
                    server.sendall(head + rest)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
