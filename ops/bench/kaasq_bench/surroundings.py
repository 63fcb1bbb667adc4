"""What of a user's own there is to measure on: his broker, his pool; and what is started in their place."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kaasq.errors import BrokerLost, KaasqError, ReplyTimeout, Unroutable
from kaasq.rabbit import RabbitBroker
from kaasq.settings import DEFAULT_BROKER_URL, Settings
from kaasq_bench.graphs import noop
from kaasq_bench.rabbitmq.installation import NodeError, installed
from kaasq_bench.rabbitmq.node import RabbitNode
from kaasq_bench.rabbitmq.probing import probe
from kaasq_bench.rabbitmq.queues import queue_type_of
from kaasq_bench.setting import BenchBroker, NotHere, Pool
from kaasq_producers import Client, Result
from kaasq_storage import open_store
from kaasq_workers.devices.opening import one_device

ANSWER_TIMEOUT_S = 20.0  # the worker may have to compile first
PROBE_TIMEOUT_S = 3.0
NO_BROKER = "needs a RabbitMQ: apt-get install rabbitmq-server, or name yours with --broker"


class Surroundings(NamedTuple):
    """Where it is measured. ``words`` says so. ``broker`` gives it, or raises NotHere where it is one in memory."""

    device: str
    broker: Callable[[], BenchBroker]
    pool: Pool | None
    words: str
    embedded: bool = False


def find(settings: Settings, flags: Mapping[str, Any], stack: ExitStack) -> Surroundings:
    """The settings' broker and pool where they answer, else a private broker, started when it is asked for, else none.

    Raises KaasqError where what was named explicitly does not answer.
    """
    named_pool = bool(flags.get("pool")) or "KAASQ_POOL" in os.environ
    own_device = one_device(flags.get("device") or settings.device)
    theirs = _theirs(settings, named=_named_broker(settings, flags))
    if theirs is None:
        if named_pool:
            raise _no_worker(settings)
        return _own(own_device, stack)
    broker = f"RabbitMQ {theirs.version} at {_place(settings.broker_url)}"
    served = None if flags.get("device") else _pool(settings, named=named_pool)
    if served is None:
        return Surroundings(own_device, lambda: theirs, None, f"{broker}, workers of our own on {own_device}")
    pool, device = served
    words = f"{broker}, your pool {settings.pool!r} on {device}"
    if pool.here:
        return Surroundings(device, lambda: theirs, pool, words)
    return Surroundings(
        own_device, lambda: theirs, pool, f"{words}; what needs its store, on workers of our own on {own_device}"
    )


def _theirs(settings: Settings, *, named: bool) -> BenchBroker | None:
    """The broker of the settings, None if nobody named it and it does not let us in."""
    try:
        broker = RabbitBroker(settings.broker_url, connection_name="kaasq bench")
        broker.open(settings.connect_timeout if named else min(settings.connect_timeout, PROBE_TIMEOUT_S))
        broker.close()
        # Its users are not ours to make: no management.
        return BenchBroker(settings.broker_url, probe(settings.broker_url, declare=False), None)
    except KaasqError:
        if named:
            raise
        return None
    except ConnectionError as error:
        raise BrokerLost(str(error)) from error


def _own(device: str, stack: ExitStack) -> Surroundings:
    if not installed():
        words = f"no RabbitMQ, so that messages go through memory and workers run in this process, on {device}"
        return Surroundings(device, _none, None, words, embedded=True)

    @cache
    def start() -> BenchBroker:
        try:
            node = stack.enter_context(RabbitNode())
        except NodeError as error:
            raise BrokerLost(f"the private RabbitMQ does not start: {error}") from error
        return BenchBroker(node.url, node.version, node.management)

    return Surroundings(device, start, None, f"a private RabbitMQ, workers of our own on {device}")


def _none() -> BenchBroker:
    raise NotHere(NO_BROKER)


def _pool(settings: Settings, *, named: bool) -> tuple[Pool, str] | None:
    """The pool of the settings and its device, if a worker answers there. Raises what a named one fails with."""
    with Client(settings=settings) as client:
        if not client._is_served(ANSWER_TIMEOUT_S):  # there a request would expire, and be a dead letter
            if named:
                raise _no_worker(settings)
            return None
        try:
            result = client.run(noop(), timeout=ANSWER_TIMEOUT_S)
        except (Unroutable, ReplyTimeout) as error:
            if named:
                raise _no_worker(settings) from error
            return None
    queue_type = queue_type_of(settings.broker_url, settings.pool) or settings.queue_type
    return Pool(settings, queue_type, _is_here(settings, result)), result.worker.device


def _is_here(settings: Settings, result: Result) -> bool:
    if result.worker.host != socket.gethostname() or not settings.store_path.exists():
        return False
    try:
        with open_store(settings.store_path, sync=settings.store_sync) as store:
            return store.id == result.worker.store
    except KaasqError:
        return False


def _no_worker(settings: Settings) -> KaasqError:
    return Unroutable(
        f"no worker serves pool {settings.pool!r}: start one (kaasq worker --pool {settings.pool}), or name no pool, "
        "and workers are started for the measurement"
    )


def _named_broker(settings: Settings, flags: Mapping[str, Any]) -> bool:
    named = bool(flags.get("broker_url")) or "KAASQ_BROKER_URL" in os.environ
    return named or settings.broker_url != DEFAULT_BROKER_URL


def _place(url: str) -> str:
    """A URL without its credentials."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (5671 if parts.scheme == 'amqps' else 5672)}"
