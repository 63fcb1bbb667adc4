"""A client process of the load: asks at a steady rate, writes the ledger, ends once told to and answered.

``python -m kaasq_faults.client KIND ...``; KIND is threads, asyncio, amqp or flows: kaasq's two clients, a program
that knows only RabbitMQ (``amqp_client``) and one that runs workflows (``flow_client``); these two ask again under the
same ids after they were killed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import kaasq
from kaasq.errors import KaasqError
from kaasq.log import configure
from kaasq_faults import amqp_client
from kaasq_faults.asks import Ask, ask, graph, inputs
from kaasq_faults.flow_client import FlowClient
from kaasq_faults.ledger import OK, Asked, Book, Ended, Finished, Known, Started, now, read

WIDTH = 6  # requests of one client at a time
CONNECT_PAUSE_S = 0.5
LOG_VARIABLE = "FAULTS_LOG_LEVEL"


class Asker:
    """Keys in order, and what is written of them."""

    def __init__(self, book: Book, seed: str, client: str, incarnation: int, *, own: bool) -> None:
        self._book = book
        self._seed = seed
        self._own = own
        self._prefix = f"{client}.{incarnation}"
        self._next = 0
        self._lock = threading.Lock()

    def next(self) -> Ask:
        with self._lock:
            self._next += 1
            made = ask(self._seed, f"{self._prefix}.{self._next}", own=self._own)
        self._book.write(Asked(key=made.key, want=made.want, name=made.name, shared=made.shared, at=now()))
        return made

    def known(self, made: Ask, request_id: str | None) -> None:
        if request_id is not None:
            self._book.write(Known(made.key, request_id))

    def answered(self, made: Ask, result: kaasq.Result) -> None:
        """It was told that all is well; the ledger is told whether it is."""
        detail = ""
        if made.name is None:
            given = result["out"]
            if not np.array_equal(given, np.full(made.elements, made.want, np.float32)):
                detail = f"{given[:4]} instead of {made.want}"
        self._book.write(Ended(key=made.key, end=OK, right=not detail, detail=detail, at=now()))

    def failed(self, made: Ask, error: KaasqError) -> None:
        self._book.write(Ended(key=made.key, end=error.code, detail=error.message, at=now()))


def arguments_of(made: Ask) -> dict[str, Any]:
    """What a client's ``submit`` is given."""
    keep = {} if made.name is None else {"out": made.name}
    return {**inputs(made.elements), "a": made.a, "keep": keep}


def run_threads(client: kaasq.Client, asker: Asker, stop: threading.Event, *, rate: float, timeout_s: float) -> None:
    """WIDTH threads that ask and wait."""
    graphs = {elements: graph(elements).freeze() for elements in (64, 20_000)}

    def one() -> None:
        while not stop.wait(WIDTH / rate * random.uniform(0.5, 1.5)):  # not all at once
            made = asker.next()
            try:
                future = client.submit(graphs[made.elements], timeout=timeout_s, **arguments_of(made))
                asker.known(made, future.request_id)
                asker.answered(made, future.result())
            except KaasqError as error:
                asker.failed(made, error)

    threads = [threading.Thread(target=one, name=f"asker-{number}") for number in range(WIDTH)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


async def run_asyncio(url: str, options: Mapping[str, Any], asker: Asker, stop: threading.Event, rate: float) -> None:
    """WIDTH tasks that ask and wait."""
    graphs = {elements: graph(elements).freeze() for elements in (64, 20_000)}

    async def one(client: kaasq.AsyncClient) -> None:
        while not stop.is_set():
            await asyncio.sleep(WIDTH / rate * random.uniform(0.5, 1.5))
            made = asker.next()
            try:
                future = client.submit(graphs[made.elements], **arguments_of(made))
                while future.request_id is None and not future.done():  # noqa: ASYNC110  # nothing tells
                    await asyncio.sleep(0.001)
                asker.known(made, future.request_id)
                asker.answered(made, await future)
            except KaasqError as error:
                asker.failed(made, error)

    async with kaasq.AsyncClient(url, **options) as client:
        while not stop.is_set():
            try:
                await client.connect()
                break
            except KaasqError:
                await asyncio.sleep(CONNECT_PAUSE_S)
        await asyncio.gather(*(one(client) for _ in range(WIDTH)))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["threads", "asyncio", "amqp", "flows"])
    for name in ("--url", "--pool", "--name", "--seed"):
        parser.add_argument(name, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--timeout", type=float, required=True, help="seconds, of each request")
    parser.add_argument("--own", action=argparse.BooleanOptionalAction, default=True, help="keep names of their own")
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    configure(os.environ.get(LOG_VARIABLE, "info"), "json")
    threading.Thread(target=_end_with_parent, daemon=True).start()

    earlier = list(read(given.ledger)) if given.ledger.exists() else []
    incarnation = 1 + sum(isinstance(each, Started) for each in earlier)
    with Book(given.ledger) as book:
        book.write(Started(os.getpid(), resumes=given.kind in {"amqp", "flows"}))
        if given.kind == "amqp":
            amqp_client.run(given, book, earlier, incarnation, stop)
        else:
            asker = Asker(book, given.seed, given.name, incarnation, own=given.own)
            options = {"pool": given.pool, "store": given.store, "timeout": given.timeout}
            if given.kind == "asyncio":
                asyncio.run(run_asyncio(given.url, options, asker, stop, given.rate))
            else:
                with kaasq.Client(given.url, **options) as client:
                    connect(client, stop)
                    if given.kind == "flows":
                        FlowClient(given, book, earlier, incarnation).serve(client, stop)
                    else:
                        run_threads(client, asker, stop, rate=given.rate, timeout_s=given.timeout)
        book.write(Finished(os.getpid()))


def connect(client: kaasq.Client, stop: threading.Event) -> None:
    """Until there is a broker."""
    while not stop.is_set():
        try:
            client.connect()
            return
        except KaasqError:
            stop.wait(CONNECT_PAUSE_S)


def _end_with_parent() -> None:
    """Nothing of a run that was killed itself is to go on."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
