"""What a handler publishes with: requests whose ids follow from the event, so that doing it again changes nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from kaasq import codec
from kaasq.broker import Message
from kaasq.errors import BadRequest, BrokerLost, KaasqError
from kaasq.ids import derived_id
from kaasq.topology import REQUESTS
from kaasq_producers.calls import Call
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.event import Event
from kaasq_producers.futures import Waiter
from kaasq_producers.known_graphs import encode
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.prepare import AnyGraph, Prepared, Preparer
from kaasq_producers.result import Result
from kaasq_producers.side_threads import SideThreads

PUBLISH_ATTEMPTS = 8  # 25 s in all
AGAIN_S = 0.2  # doubled each time

Prepare = Callable[[], Prepared]


class Step:
    """One attempt of a handler at one event. Thread-safe.

    A request's id is derived from the event's id, the subscription's name, and ``key`` or else the number of the call
    in this handler; so a handler that makes the same calls in the same order publishes the same requests whenever it is
    called with the event again. Where the order may differ, give keys.
    """

    def __init__(self, event: Event, subscription: str, timeout_s: float, core: ClientCore, preparer: Preparer) -> None:
        self.event = event
        self.subscription = subscription
        self._timeout_s = timeout_s
        self._core = core
        self._preparer = preparer
        self._lock = threading.Lock()
        self._calls = 0
        self._ids: set[str] = set()
        self._published: list[Future[None]] = []

    def submit(
        self,
        graph: AnyGraph,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> str:
        """Publish a request, and wait for nothing: its event tells how it ends. Returns its id.

        The arguments are Client.run's. The event that caused it is acked once the broker has confirmed it.
        """
        request_id = self.request_id(key)
        self._publish(request_id, self._prepared(graph, bindings, timeout, bind, scalars, keep)())
        return request_id

    def run(
        self,
        graph: AnyGraph,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> Result:
        """Publish a request and wait for its result. Done again, it is answered from its outcome."""
        request_id = self.request_id(key)
        prepared = self._prepared(graph, bindings, timeout, bind, scalars, keep)()
        waiter: Waiter[Result] = Waiter()
        until = time.monotonic() + prepared.timeout_s
        while self._core.send(prepared, waiter.set, request_id) is None:
            if not self._core.pending.wait_for_room(until - time.monotonic()):
                raise self._core.no_room(prepared.timeout_s)
        return waiter.wait()

    def request_id(self, key: str | None = None) -> str:
        """The id of the next request, or of the one with that key. Raises BadRequest for a key that was used."""
        with self._lock:
            number, self._calls = self._calls, self._calls + 1
            path = ("call", str(number)) if key is None else ("key", key)
            request_id = derived_id(self.event.id, self.subscription, *path)
            if request_id in self._ids:
                raise BadRequest(f"this step published a request with the key {key!r} already", at="key")
            self._ids.add(request_id)
        return request_id

    async def confirmed(self) -> None:
        """Wait until the broker has taken responsibility for all that was submitted. Raises what it refused."""
        published, self._published = self._published, []
        await asyncio.gather(*map(asyncio.wrap_future, published))

    def _prepared(
        self,
        graph: AnyGraph,
        bindings: Mapping[str, Any],
        timeout: float | None,
        bind: Mapping[str, Any] | None,
        scalars: Mapping[str, Any] | None,
        keep: Mapping[str, str] | None,
    ) -> Prepare:
        timeout = self._timeout_s if timeout is None else timeout
        return partial(self._preparer.prepare, graph, bindings, timeout=timeout, bind=bind, scalars=scalars, keep=keep)

    def _publish(self, request_id: str, prepared: Prepared) -> None:
        future: Future[None] = Future()
        self._published.append(future)
        # Whole: a worker that does not know the graph has nobody to tell.
        body = encode(prepared.graph, prepared.bound, round(prepared.timeout_s * 1000), whole=True)
        trace = {"traceparent": self.event.traceparent, "tracestate": self.event.tracestate}
        message = Message(
            body=body,
            content_type=codec.MSGPACK,
            message_id=request_id,
            correlation_id=request_id,
            user_id=self._core.route.tenant,
            expiration_ms=max(1, round(prepared.timeout_s * 1000)),
            timestamp_ms=time.time_ns() // 1_000_000,
            headers={name: value for name, value in trace.items() if value is not None},
        )
        self._send(message, future, 1)

    def _send(self, message: Message, future: Future[None], attempt: int) -> None:
        def done(error: KaasqError | None) -> None:
            if error is None:
                future.set_result(None)
            elif attempt < PUBLISH_ATTEMPTS and (isinstance(error, BrokerLost) or error.detail.get("rejected")):
                # It may have arrived, and the id makes repeating safe; or the queue is full, or has no leader.
                again = partial(self._send, message, future, attempt + 1)
                self._core.broker.call_later(AGAIN_S * 2 ** (attempt - 1), again)
            else:
                future.set_exception(self._core.route.refused(error, message.message_id or ""))

        self._core.broker.publish(
            message, exchange=REQUESTS, routing_key=self._core.route.key, mandatory=True, done=done
        )


class AsyncStep(Step):
    """The same on an event loop: ``submit`` returns at once, ``run`` is awaited. Large inputs are prepared on threads,
    and must not be changed before the handler is done.
    """

    def __init__(
        self,
        event: Event,
        subscription: str,
        timeout_s: float,
        core: ClientCore,
        preparer: Preparer,
        inbox: LoopInbox,
        threads: SideThreads,
    ) -> None:
        super().__init__(event, subscription, timeout_s, core, preparer)
        self._inbox = inbox
        self._threads = threads
        self._preparing: list[asyncio.Future[None]] = []

    def submit(
        self,
        graph: AnyGraph,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> str:
        """Publish a request, and wait for nothing. Returns its id."""
        request_id = self.request_id(key)
        prepare = self._prepared(graph, bindings, timeout, bind, scalars, keep)
        if self._preparer.is_quick(graph, bindings, *(each for each in (bind, scalars) if each)):
            self._publish(request_id, prepare())
        else:
            self._preparing.append(self._threads.call(lambda: self._publish(request_id, prepare())))
        return request_id

    async def run(  # type: ignore[override]  # awaited, as everything is in a loop
        self,
        graph: AnyGraph,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # it travels with the request
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> Result:
        """Publish a request and await its result, its outputs read. Cancelling the task does not cancel the request:
        the step may be done again, and then wants its outcome.
        """
        request_id = self.request_id(key)
        prepare = self._prepared(graph, bindings, timeout, bind, scalars, keep)
        quick = self._preparer.is_quick(graph, bindings, *(each for each in (bind, scalars) if each))
        prepared = prepare() if quick else await self._threads.call(prepare)
        result = await self._sent(prepared, request_id)
        if result.unread:
            await self._threads.call(result.read, result.unread)
        result.seal()
        return result

    async def confirmed(self) -> None:
        """The same; also what is still being prepared."""
        preparing, self._preparing = self._preparing, []
        await asyncio.gather(*preparing)
        await super().confirmed()

    async def _sent(self, prepared: Prepared, request_id: str) -> Result:
        ended: asyncio.Future[Result] = self._inbox.loop.create_future()
        room: asyncio.Future[None]
        while True:
            call: Call | None = self._core.send(prepared, partial(self._inbox.post, _settle, ended), request_id)
            if call is not None:
                break
            room = self._inbox.loop.create_future()
            self._core.pending.on_room(partial(self._inbox.post, _wake, room))
            try:
                await asyncio.wait_for(room, prepared.timeout_s)
            except TimeoutError:
                raise self._core.no_room(prepared.timeout_s) from None
        try:
            return await ended
        except asyncio.CancelledError:
            self._core.pending.forget(call)
            raise


def _settle(future: asyncio.Future[Result], result: Result | KaasqError) -> None:
    if future.done():
        return
    if isinstance(result, KaasqError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
