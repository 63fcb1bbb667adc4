"""The part of a client that lives in one event loop: from a request to its future, connecting, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from kaasq.errors import BrokerLost, KaasqError
from kaasq_producers.calls import Sendable
from kaasq_producers.client_core import ClientCore
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.outbox import Outbox, RequestFuture
from kaasq_producers.result import Result
from kaasq_producers.side_threads import SideThreads
from kaasq_producers.steps import Steps
from kaasq_producers.then import Then, named

CLOSED = "the client is closed"


class LoopSide:
    """Its methods are called on the loop and return at once; ``connect`` blocks and runs on a thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connect: Callable[[], ClientCore], *, fetch: bool, threads: int
    ) -> None:
        self.loop = loop
        self.inbox = LoopInbox(loop)
        self.threads = SideThreads(self.inbox, threads)
        self._outbox = Outbox(self.inbox, self._deliver)
        self._connect = connect
        self._fetch = fetch
        self._connecting: asyncio.Future[ClientCore] | None = None
        self._closing: asyncio.Future[None] | None = None

    def send(
        self, prepare: Callable[[], Sendable], is_quick: Callable[[], bool], then: Sequence[Then] = ()
    ) -> RequestFuture:
        """Have it prepared, here if that is quick, and sent. What either raises comes through the future.

        ``then``: what is to follow it, for which the future has futures.
        """
        future = RequestFuture(self._outbox)
        if then:
            names = named(then)
            future.then = Steps([RequestFuture(self._outbox) for _ in names], names)
        self.connected()
        try:
            if is_quick():
                self._outbox.put(future, prepare())
            else:
                self.threads.call(prepare).add_done_callback(partial(self._put, future))
        except KaasqError as error:
            self._outbox.fail(future, error)
        return future

    def connected(self) -> asyncio.Future[ClientCore]:
        """The core, once it is connected. Not to be cancelled: others wait for it, too."""
        if self._connecting is None:
            self._connecting = self.threads.call(self._connect)
            self._connecting.add_done_callback(self._on_connected)
        return self._connecting

    async def close(self, disconnect: Callable[[], None]) -> None:
        """Tell all who wait, then ``disconnect`` on a thread; every future has ended after that. Idempotent."""
        if self._closing is None:
            self._outbox.close(BrokerLost(CLOSED))
            self.threads.close(BrokerLost(CLOSED))
            self._closing = SideThreads(self.inbox, 1).call(self._end, disconnect)
        await asyncio.shield(self._closing)  # it goes on although whoever closes is cancelled

    def _end(self, disconnect: Callable[[], None]) -> None:
        self.threads.join()  # first: nobody may be reading the store when it is closed
        disconnect()

    def _on_connected(self, connecting: asyncio.Future[ClientCore]) -> None:
        error = connecting.exception()
        if error is None:
            self._outbox.open(connecting.result())
        else:
            self._connecting = None  # the next request tries again
            self._outbox.fail_waiting(error)

    def _put(self, future: RequestFuture, preparing: asyncio.Future[Sendable]) -> None:
        try:
            prepared = preparing.result()
            self.connected()  # it may have failed meanwhile
        except Exception as error:  # noqa: BLE001  # whatever it is: nobody else would hear of it
            self._outbox.fail(future, error)
        else:
            self._outbox.put(future, prepared)

    def _deliver(self, future: RequestFuture, result: Result) -> None:
        names = result.unread if self._fetch else []
        if not names:
            result.seal()
            future.set_result(result)
            return
        try:
            reading = self.threads.call(result.read, names)
        except BrokerLost as error:
            self._outbox.fail(future, error)
        else:
            reading.add_done_callback(partial(self._give, future, result))

    def _give(self, future: RequestFuture, result: Result, reading: asyncio.Future[None]) -> None:
        error = reading.exception()
        if error is not None:
            self._outbox.fail(future, error)
        elif not future.done():
            result.seal()
            future.set_result(result)


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop that the caller runs in. Raises KaasqError if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise KaasqError(
            "an AsyncClient is used in a running event loop only, and here is none: kaasq.Client is for threads, and "
            "asyncio.run_coroutine_threadsafe leads from a thread into a loop"
        ) from None
