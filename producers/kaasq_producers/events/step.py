"""What a handler publishes with: requests whose ids follow from the event, so that doing it again changes nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from kaasq.errors import BadRequest, KaasqError
from kaasq.ids import derived_id
from kaasq_producers.calls import Call
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.event import Event, fetched
from kaasq_producers.events.submitted import Submitted
from kaasq_producers.flows.known import AnyFlow
from kaasq_producers.futures import Waiter
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.prepare import AnyGraph, AnyPrepared, Preparer
from kaasq_producers.result import Result
from kaasq_producers.side_threads import SideThreads

R = TypeVar("R")


class _Asked(NamedTuple):
    """What a handler asks for, with Client.run's arguments."""

    preparer: Preparer
    graph: AnyGraph | AnyFlow
    bindings: Mapping[str, Any]
    timeout_s: float
    bind: Mapping[str, Any] | None
    scalars: Mapping[str, Any] | None
    keep: Mapping[str, str] | None

    def prepare(self) -> AnyPrepared:
        return self.preparer.prepare(
            self.graph, self.bindings, timeout=self.timeout_s, bind=self.bind, scalars=self.scalars, keep=self.keep
        )

    @property
    def is_quick(self) -> bool:
        """Whether an event loop may wait for it."""
        return self.preparer.is_quick(self.graph, self.bindings, self.bind, self.scalars)


class AnyStep(ABC, Generic[R]):
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
        self._submitted = Submitted(core.broker, core.route, event)

    def submit(
        self,
        graph: AnyGraph | AnyFlow,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> str:
        """Publish a request or start a workflow, and wait for nothing: its event tells how it ends. Returns its id.

        The arguments are Client.run's. The event that caused it is acked once the broker has confirmed it.
        """
        request_id = self.request_id(key)
        self._submit(request_id, self._asked(graph, bindings, timeout, bind, scalars, keep))
        return request_id

    def run(
        self,
        graph: AnyGraph | AnyFlow,
        /,
        *,
        key: str | None = None,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> R:
        """Publish a request or start a workflow, and wait for its result: done again, for that of its outcome."""
        return self._run(self.request_id(key), self._asked(graph, bindings, timeout, bind, scalars, keep))

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
        await asyncio.gather(*map(asyncio.wrap_future, self._submitted.taken()))

    def _asked(
        self,
        graph: AnyGraph | AnyFlow,
        bindings: Mapping[str, Any],
        timeout: float | None,
        bind: Mapping[str, Any] | None,
        scalars: Mapping[str, Any] | None,
        keep: Mapping[str, str] | None,
    ) -> _Asked:
        timeout_s = self._timeout_s if timeout is None else timeout
        return _Asked(self._preparer, graph, bindings, timeout_s, bind, scalars, keep)

    @abstractmethod
    def _submit(self, request_id: str, asked: _Asked) -> None: ...

    @abstractmethod
    def _run(self, request_id: str, asked: _Asked) -> R: ...


class Step(AnyStep[Result]):
    """What a function gets. ``run`` blocks."""

    def _submit(self, request_id: str, asked: _Asked) -> None:
        self._submitted.publish(request_id, asked.prepare())

    def _run(self, request_id: str, asked: _Asked) -> Result:
        prepared = asked.prepare()
        waiter: Waiter[Result] = Waiter()
        until = time.monotonic() + prepared.timeout_s
        while self._core.send(prepared, waiter.set, request_id) is None:
            if not self._core.pending.wait_for_room(until - time.monotonic()):
                raise self._core.no_room(prepared.timeout_s)
        return waiter.wait()


class AsyncStep(AnyStep[Coroutine[Any, Any, Result]]):
    """What a coroutine function gets: ``submit`` returns at once, ``run`` is awaited, and its result's outputs are read
    then. Large inputs are prepared on threads, and must not be changed before the handler is done.

    Cancelling the task that awaits ``run`` does not cancel the request: the step may be done again, and then wants its
    outcome.
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

    async def fetch(self, result: Result | Event) -> Result:
        """AsyncClient.fetch, for a step that has no client: what ``step.event`` tells of, or a result with all its
        outputs read. Raises what the event's request failed with; NameNotFound, BufferMissing, StoreUnavailable.
        """
        return await fetched(self._threads, result)

    async def confirmed(self) -> None:
        """The same; also what is still being prepared."""
        preparing, self._preparing = self._preparing, []
        await asyncio.gather(*preparing)
        await super().confirmed()

    def _submit(self, request_id: str, asked: _Asked) -> None:
        if asked.is_quick:
            self._submitted.publish(request_id, asked.prepare())
        else:
            publish = self._submitted.publish
            self._preparing.append(self._threads.call(lambda: publish(request_id, asked.prepare())))

    async def _run(self, request_id: str, asked: _Asked) -> Result:
        prepared = asked.prepare() if asked.is_quick else await self._threads.call(asked.prepare)
        result = await self._sent(prepared, request_id)
        if result.unread:
            await self._threads.call(result.read, result.unread)
        result.seal()
        return result

    async def _sent(self, prepared: AnyPrepared, request_id: str) -> Result:
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
