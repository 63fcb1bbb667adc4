"""The RabbitMQ that both sides use: the given one, or a private one started when a part first needs it."""

from __future__ import annotations

from contextlib import ExitStack

import click
from pika.exceptions import AMQPError

from bench.setting import BenchBroker
from rabbitmq_node import NodeError, probe
from real_broker import management_of, own_broker


class OnDemand:
    """Gives the broker, starting it at the first call; ``stack`` ends it. Raises UsageError where there is none."""

    def __init__(self, url: str | None, stack: ExitStack) -> None:
        self._url = url
        self._stack = stack
        self.started: BenchBroker | None = None

    def __call__(self) -> BenchBroker:
        if self.started is None:
            try:
                self.started = self._start()
            except (NodeError, AMQPError, OSError) as error:
                raise click.UsageError(f"no broker to measure on: {error!r}") from error
        return self.started

    def _start(self) -> BenchBroker:
        if self._url is not None:
            return BenchBroker(self._url, probe(self._url), management_of(self._url))
        own = self._stack.enter_context(own_broker())
        return BenchBroker(own.url, own.version, own.management)
