"""Finds a real RabbitMQ for the tests: a given one, a container, or a private node of the installed package.

Never skips: where none is to be had, the tests that need one fail and say what to install.

    python ops/real_broker.py        # prints which it would be: url, docker, node or none
    python ops/real_broker.py own    # likewise for a broker that a test may kill: never url
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol, Self
from urllib.parse import urlsplit

from kaasq_bench.rabbitmq.api import Management, management_of
from kaasq_bench.rabbitmq.installation import NodeError, installed
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.ports import free_ports
from kaasq_bench.rabbitmq.probing import probe

URL_VARIABLE = "KAASQ_TEST_BROKER_URL"
ROOT_VARIABLE = "KAASQ_TEST_RABBITMQ_ROOT"
MANAGEMENT_VARIABLE = "KAASQ_TEST_MANAGEMENT_URL"
IMAGE = "rabbitmq:4-management"
CONTAINER_START_TIMEOUT_S = 120.0

Source = Literal["url", "docker", "node", "none"]

NO_BROKER = (
    "No RabbitMQ for the tests. Do one of: apt-get install rabbitmq-server (a private node is started from it; its "
    f"service need not run), start docker ({IMAGE} is used), or set {URL_VARIABLE}=amqp://user:password@host:port/ to "
    "a broker on which the tests may create and delete what they like."
)


class Broker(Protocol):
    """A RabbitMQ that the tests own: they may stop it, kill it and start it again with its ports and data."""

    @property
    def url(self) -> str: ...
    @property
    def management(self) -> Management: ...
    @property
    def running(self) -> bool: ...
    @property
    def version(self) -> str: ...

    def start(self) -> Self: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self, *, graceful: bool = True) -> None: ...
    def ctl(self, *args: str) -> str: ...
    def close(self) -> None: ...


class RabbitContainer:
    """RabbitMQ in a container, with the interface of RabbitNode. Ports are fixed, so that a restart keeps them."""

    def __init__(self, image: str = IMAGE) -> None:
        from testcontainers.core.container import DockerContainer

        self._port, self._management_port = free_ports(2)
        self._container: Any = (
            DockerContainer(image)
            .with_bind_ports(5672, self._port)
            .with_bind_ports(15672, self._management_port)
            .with_kwargs(hostname="kaasq-tests")  # the data's folder is named after it
        )
        self._created = False
        self.running = False
        self.version = ""

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self._container.get_container_host_ip()}:{self._port}/"

    @property
    def management(self) -> Management:
        host = self._container.get_container_host_ip()
        return Management(f"http://guest:guest@{host}:{self._management_port}")

    def start(self) -> Self:
        if self.running:
            return self
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        deadline = time.monotonic() + CONTAINER_START_TIMEOUT_S
        while True:
            try:
                self.version = probe(self.url)
                break
            except ConnectionError as error:
                if time.monotonic() > deadline:
                    raise NodeError(f"{IMAGE} was not ready in time") from error
                time.sleep(0.1)
        self.management.wait(CONTAINER_START_TIMEOUT_S)
        self.running = True
        return self

    def stop(self) -> None:
        self._container.get_wrapped_container().stop()
        self.running = False

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()
        self.running = False

    def restart(self, *, graceful: bool = True) -> None:
        if graceful:
            self.stop()
        else:
            self.kill()
        self.start()

    def ctl(self, *args: str) -> str:
        code, output = self._container.exec(["rabbitmqctl", *args])
        text = bytes(output).decode(errors="replace")
        if code != 0:
            raise NodeError(f"rabbitmqctl {' '.join(args)}: {text.strip()}")
        return text

    def close(self) -> None:
        if self._created:
            self._container.stop()
        self.running = False


@dataclass(frozen=True, kw_only=True)
class RealBroker:
    """A running RabbitMQ. ``management`` is None for a given broker whose management API does not answer."""

    url: str
    version: str
    how: str
    management: Management | None


def source() -> Source:
    """Where the tests' broker would come from."""
    if os.environ.get(URL_VARIABLE):
        return "url"
    return own_source()


def node_root() -> Path | None:
    """The folder with another Debian (debootstrap) whose RabbitMQ private nodes run, if one is given. As root only."""
    root = os.environ.get(ROOT_VARIABLE)
    return Path(root) if root else None


def own_source() -> Source:
    """Where a broker that a test may kill would come from."""
    if node_root() is not None:
        return "node"
    if _docker_offers_image():
        return "docker"
    return "node" if installed() else "none"


@contextlib.contextmanager
def own_broker() -> Iterator[Broker]:
    """Start a broker for the caller alone; raises NodeError where this machine has none to start."""
    broker: Broker
    match own_source():
        case "docker":
            broker = RabbitContainer()
        case "node":
            broker = RabbitNode(root=node_root())
        case _:
            raise NodeError(NO_BROKER)
    try:
        yield broker.start()
    finally:
        broker.close()


@contextlib.contextmanager
def real_broker() -> Iterator[RealBroker]:
    """The broker for the tests, running; raises NodeError with what to do where there is none."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        try:
            version = probe(url)
        except ConnectionError as error:
            raise NodeError(f"{URL_VARIABLE}={_place(url)} does not answer: {error}") from error
        management = management_of(url, os.environ.get(MANAGEMENT_VARIABLE))
        yield RealBroker(url=url, version=version, how=_place(url), management=management)
        return
    with own_broker() as broker:
        kind = "a container" if isinstance(broker, RabbitContainer) else "a private node"
        how = f"{_place(broker.url)} ({kind})"
        yield RealBroker(url=broker.url, version=broker.version, how=how, management=broker.management)


@cache
def _docker_offers_image() -> bool:
    """Whether an engine answers and has the image or can pull it. An engine without a registry is of no use."""
    try:
        import docker
        from docker.errors import DockerException, ImageNotFound
    except ImportError:
        return False
    try:
        client = docker.from_env(timeout=5)
    except (DockerException, OSError):
        return False
    try:
        client.ping()
        try:
            client.images.get(IMAGE)
        except ImageNotFound:
            client.api.timeout = 300
            client.images.pull(IMAGE)
    except (DockerException, OSError) as error:
        print(f"a docker engine answers but does not offer {IMAGE}, so it is not used: {error}", flush=True)
        return False
    finally:
        client.close()
    return True


def _place(url: str) -> str:
    """A URL without its credentials."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5672}"


if __name__ == "__main__":
    print(own_source() if sys.argv[1:] == ["own"] else source())
