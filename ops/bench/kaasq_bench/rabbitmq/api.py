"""Administers a RabbitMQ broker through its management HTTP API: vhosts, users, permissions, queues.

A call takes about 10 ms where ``rabbitmqctl`` takes half a second. For tests and operations scripts; the product
itself needs nothing but AMQP.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlsplit

CALL_TIMEOUT_S = 10.0
ALL = ".*"


class ManagementError(RuntimeError):
    """The management API refused a call, or did not answer."""


class Management:
    """Client of one broker's management API. ``url`` carries the credentials: ``http://guest:guest@host:15672``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self._base = f"{parts.scheme}://{parts.hostname}:{parts.port or 15672}/api"
        credentials = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        self._authorization = "Basic " + base64.b64encode(credentials.encode()).decode()

    def call(self, method: str, *path: str, body: object | None = None) -> Any:
        """One HTTP call; ``path`` segments are quoted here, so a vhost may be called ``/``."""
        request = urllib.request.Request(
            "/".join([self._base, *(quote(segment, safe="") for segment in path)]),
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            detail = error.read().decode(errors="replace")
            raise ManagementError(f"{method} {request.full_url}: {error.code} {detail}") from error
        except OSError as error:
            raise ManagementError(f"{method} {request.full_url}: {error}") from error
        return json.loads(text) if text else None

    def version(self) -> str:
        """The broker's version, such as ``4.0.5``."""
        return str(self.call("GET", "overview")["rabbitmq_version"])

    def add_vhost(self, vhost: str, user: str = "guest") -> None:
        """Create a vhost in which ``user`` may do everything."""
        self.call("PUT", "vhosts", vhost, body={})
        self.set_permissions(user, vhost=vhost)

    def delete_vhost(self, vhost: str) -> None:
        """Delete a vhost with all that is in it."""
        self.call("DELETE", "vhosts", vhost)

    def add_user(self, user: str, password: str, *, tags: str = "") -> None:
        """Create a user without any permission, or set the password of one that is there."""
        self.call("PUT", "users", user, body={"password": password, "tags": tags})

    def delete_user(self, user: str) -> None:
        self.call("DELETE", "users", user)

    def set_permissions(
        self, user: str, *, vhost: str = "/", configure: str = ALL, write: str = ALL, read: str = ALL
    ) -> None:
        """What ``user`` may configure, write to and read from: regular expressions over names."""
        body = {"configure": configure, "write": write, "read": read}
        self.call("PUT", "permissions", vhost, user, body=body)

    def queues(self, vhost: str = "/") -> list[dict[str, Any]]:
        """Every queue of a vhost with its arguments and type."""
        return list(self.call("GET", "queues", vhost))

    def close_connections(self, vhost: str | None = None) -> int:
        """Have the broker close the connections of a vhost (or all): how a test drops a client. Returns how many.

        The list trails reality by some seconds where the broker does not collect statistics.
        """
        closed = 0
        for connection in self.call("GET", "connections"):
            if vhost is None or connection.get("vhost") == vhost:
                self.call("DELETE", "connections", connection["name"])
                closed += 1
        return closed

    def wait(self, timeout_s: float) -> None:
        """Return once the API answers; raise its last error after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.version()
                return
            except ManagementError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def management_of(url: str, management_url: str | None = None) -> Management | None:
    """The management API of the broker at an AMQP URL: where it is said to be, else on its usual port with the same
    credentials. None where it does not answer.
    """
    parts = urlsplit(url)
    usual = f"http://{parts.username or 'guest'}:{parts.password or 'guest'}@{parts.hostname}:15672"
    management = Management(management_url or usual)
    try:
        management.version()
    except ManagementError:
        return None
    return management
