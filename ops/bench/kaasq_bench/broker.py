"""The RabbitMQ that both sides use: the given one, or a private one started when a part first needs it."""

from __future__ import annotations

from contextlib import ExitStack

import click

from kaasq_bench.rabbitmq.api import management_of
from kaasq_bench.rabbitmq.installation import NodeError
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.probing import probe
from kaasq_bench.setting import BenchBroker


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
            except (NodeError, ConnectionError) as error:
                raise click.UsageError(f"no broker to measure on: {error}") from error
        return self.started

    def _start(self) -> BenchBroker:
        if self._url is not None:
            return BenchBroker(self._url, probe(self._url), management_of(self._url))
        own = self._stack.enter_context(RabbitNode())
        return BenchBroker(own.url, own.version, own.management)
