"""The client for event loops: the same core as Client's; nothing here blocks the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

from kaasq.broker import Broker
from kaasq.errors import BadRequest, BrokerLost, KaasqError
from kaasq.flows.model import FlowState
from kaasq.messages import Repeat
from kaasq.names import check_request_id, check_word
from kaasq.settings import Settings
from kaasq_producers.base import ClientBase
from kaasq_producers.buffers import Array
from kaasq_producers.client_core import ClientCore
from kaasq_producers.completions import Completion, Inputs, completions
from kaasq_producers.events.event import Event, fetched
from kaasq_producers.events.iterating import AsyncEvents
from kaasq_producers.events.register import Note
from kaasq_producers.events.served import AsyncServed
from kaasq_producers.events.service import Handler, Service, service_of
from kaasq_producers.events.serving import DRAIN_TIMEOUT_S, Serving
from kaasq_producers.events.subscription import PREFETCH, Wanted
from kaasq_producers.events.subscriptions import look, remove
from kaasq_producers.flows.calls import Question
from kaasq_producers.flows.known import AnyFlow
from kaasq_producers.flows.listing import LISTED, Looking, Search, Workflows
from kaasq_producers.flows.prepare import check_flow_id
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.flows.run import AsyncRun
from kaasq_producers.loop_side import CLOSED, LoopSide, running_loop
from kaasq_producers.outbox import FlowRequestFuture, RequestFuture
from kaasq_producers.prepare import AnyGraph
from kaasq_producers.references import BufferRef
from kaasq_producers.result import Result
from kaasq_producers.then import Then, as_list
from kaasq_storage.protocol import DEFAULT_TTL_S, BufferStore, Named

THREADS = 4


class AsyncClient(ClientBase):
    """Runs graphs on a pool of workers, and reads and writes the pool's store, from one event loop.

    It belongs to the loop that it is first used in. What it is given is what Client is given, and also:

    ``fetch``: outputs that lie in the store are read (on a thread) before the result is given, but for those kept under
    a name. Without, they stay there: ``result.refs`` has their refs, and ``await client.fetch(result)`` reads them.
    ``threads``: how many calls that block (the store's, connecting, preparing large inputs) may run at a time.
    """

    def __init__(
        self,
        broker: str | Broker | None = None,
        *,
        store: str | Path | BufferStore | None = None,
        pool: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
        fetch: bool = True,
        threads: int = THREADS,
    ) -> None:
        if threads < 1:
            raise BadRequest(f"expected 1 thread or more, given {threads}", at="threads")
        super().__init__(broker, store=store, pool=pool, timeout=timeout, settings=settings)
        self._fetch = fetch
        self._thread_count = threads
        self._side: LoopSide | None = None

    @overload
    async def run(self, graph: AnyFlow, /, *, timeout: float | None = None, **bindings: Any) -> FlowResult: ...  # noqa: ASYNC109
    @overload
    async def run(
        self,
        graph: AnyGraph,
        /,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> Result: ...
    async def run(
        self,
        graph: Any,
        /,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # it travels with the request, and stops kernels
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> Result:
        """Publish a request, or start a workflow, and await its result; see Client.run for what it is given.

        Cancelling the task (``asyncio.timeout`` among others) cancels it: the workers do not run it, or not any
        further. Raises ReplyTimeout if nobody said anything in time, or what the request failed with.
        """
        result: Result = await self.submit(
            graph, timeout=timeout, bind=bind, scalars=scalars, keep=keep, repeat=repeat, then=then, **bindings
        )
        return result

    @overload
    def submit(self, graph: AnyFlow, /, *, timeout: float | None = None, **bindings: Any) -> FlowRequestFuture: ...
    @overload
    def submit(
        self,
        graph: AnyGraph,
        /,
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> RequestFuture: ...
    def submit(
        self,
        graph: Any,
        /,
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> RequestFuture:
        """Publish a request; its result, or any error of it, comes through the future. Returns at once.

        Beyond ``settings.pending_limit`` requests without a reply it waits for room, as long as ``timeout`` at most;
        ``map`` sends many with a window. Inputs must not be changed before the result is there: large ones are
        brought to the store later, on a thread. Cancelling the future cancels the request.
        """
        follow = as_list(then)
        prepare = partial(
            self._preparer.prepare,
            graph,
            bindings,
            timeout=timeout,
            bind=bind,
            scalars=scalars,
            keep=keep,
            repeat=repeat,
            then=follow,
        )
        is_quick = partial(self._preparer.is_quick, graph, bindings, bind, scalars, then=follow)
        return self._here().send(prepare, is_quick, follow)

    async def start(
        self,
        flow: AnyFlow,
        /,
        *,
        id: str | None = None,  # noqa: A002  # it is the word for it, everywhere
        timeout: float | None = None,  # noqa: ASYNC109  # it travels with the workflow
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> AsyncRun:
        """Start a workflow, and wait until that is durable; see Client.start."""
        prepare = partial(
            self._preparer.flows.start,
            flow,
            bindings,
            timeout=timeout,
            bind=bind,
            scalars=scalars,
            keep=keep,
            flow_id=id,
        )
        started = await self._here().send(prepare, lambda: False)
        assert isinstance(started, FlowResult)
        return self.attach(started.id)

    def attach(self, flow_id: str) -> AsyncRun:
        """A workflow of this tenant that has begun, by its id; see Client.attach."""
        return AsyncRun(check_flow_id(flow_id), self._ask, self.cancel, self.settings.timeout)

    async def workflows(self, state: FlowState | None = None, *, limit: int = LISTED) -> Workflows:
        """The tenant's workflows that the pool knows; see Client.workflows."""
        looking = Looking(state, limit, self.settings.timeout)
        while looking.search is not None:
            looking.add(await self._sent(looking.search))
        return looking.found

    def map(
        self,
        graph: AnyGraph,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        /,
        *,
        limit: int = 64,
        timeout: float | None = None,
        **bindings: Any,
    ) -> AsyncGenerator[Completion, None]:
        """Run the graph once for each mapping (from buffers and scalars to values); yields them as they end.

        ``async for done in client.map(graph, ({"x": x} for x in xs), y=weights):`` gives Completions: ``done.index``,
        ``done.result`` (which raises the request's error) and ``done.error``; one request's error ends only that
        request. ``bindings`` are common to all. At most ``limit`` requests are on their way or wait to be taken, and
        ``inputs`` is asked for no more than that, so it may have no end. Leaving the loop cancels what is on its way;
        with ``contextlib.aclosing`` that has happened when its block ends.
        """
        self._here()
        if limit < 1:
            raise BadRequest(f"expected a number of requests, 1 or more, given {limit!r}", at="limit")

        def submit(each: Inputs) -> RequestFuture:
            if not isinstance(each, Mapping):
                raise BadRequest(
                    f"expected mappings from buffers and scalars to values, given a {type(each).__name__}", at="inputs"
                )
            return self.submit(graph, timeout=timeout, bind=each, scalars=bindings)

        return completions(submit, inputs, limit)

    def events(self, *patterns: str, name: str | None = None, prefetch: int = PREFETCH) -> AsyncEvents:
        """How requests of this tenant end: ``async for event in client.events("saxpy.*"): ...``; see Client.events.

        It listens from the beginning of its ``async with`` block, or from the first event that is asked for.
        """
        side = self._here()
        return AsyncEvents(self._core_of_loop, side.inbox, Wanted(patterns, self.tenant, name, prefetch), self.settings)

    async def subscriptions(self) -> list[Note]:
        """The tenant's named subscriptions; see Client.subscriptions."""
        core = await self._core_of_loop()
        return await self._here().threads.call(look, core, self.settings.connect_timeout)

    async def unsubscribe(self, name: str) -> bool:
        """Remove a named subscription with the events that it holds; see Client.unsubscribe."""
        core = await self._core_of_loop()
        return await self._here().threads.call(
            remove, core, check_word(name, "subscription"), self.settings.connect_timeout
        )

    def serve(self, service: Service | Handler | Iterable[Handler], *, drain: float = DRAIN_TIMEOUT_S) -> AsyncServed:
        """Run a service's handlers: ``async with client.serve(service): ...``, in a FastAPI lifespan for one.

        ``async`` functions run in this loop, others on threads. See Client.serve.
        """
        side = self._here()
        served = service_of(service)

        async def make() -> Serving:
            core = await self._core_of_loop()
            return Serving(served, core, self._preparer, self.settings, side.inbox, side.threads)

        return AsyncServed(make, drain)

    async def fetch(self, result: Result | Event) -> Result:
        """The same result with all its outputs read from the store, also those kept under a name; or an event's.

        Raises NameNotFound, StoreUnavailable; of an event what its request failed with, and BufferMissing if its
        outcome is not in this client's store.
        """
        return await fetched(self._here().threads, result)

    async def put(
        self,
        value: Any,
        name: str | None = None,
        ttl: float = DEFAULT_TTL_S,
        *,
        dtype: Any = None,
        shape: tuple[int, ...] | None = None,
    ) -> BufferRef:
        """Store an array, or bytes; see Client.put. Cancelled, it may have happened all the same."""
        put = partial(self.buffers.put, value, name=name, ttl_s=ttl, dtype=dtype, shape=shape)
        return await self._here().threads.call(put)

    async def get(self, key: str | BufferRef) -> Array:
        """A stored array by name or ref, with its dtype and shape (uint8 if it has none). Raises NameNotFound."""
        return await self._here().threads.call(self.buffers.get, key)

    async def delete(self, key: str | BufferRef) -> None:
        """Remove a name, or an unnamed object. Raises NameNotFound, or BadRequest if a name points to the object."""
        await self._here().threads.call(self.buffers.delete, key)

    async def names(self, prefix: str = "") -> list[Named]:
        """The names that start so, in order, with what they point to."""
        return await self._here().threads.call(self.buffers.names, prefix)

    async def cancel(self, request_id: str) -> None:
        """Have the pool's workers not run a request of this tenant, whoever sent it; see Client.cancel."""
        check_request_id(request_id)
        (await self._core_of_loop()).withdrawals.withdraw(request_id)

    async def connect(self) -> None:
        """Connect now instead of with the first request. Raises BrokerLost, BrokerRefused."""
        await self._core_of_loop()

    async def close(self) -> None:
        """Close broker and store. Requests without a result fail with BrokerLost; they may still run. Idempotent.

        In another loop than the client's only once that one is closed.
        """
        if self._forked:
            self._close()  # which then does nothing that blocks, and a forked loop has no threads
        elif self._side is None or self._side.loop.is_closed():
            await asyncio.to_thread(self._close)
        else:
            self._check_loop(self._side)
            self._closed = True
            await self._side.close(self._close)

    async def __aenter__(self) -> Self:
        self._here()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _here(self) -> LoopSide:
        """The client's part in this loop, made with the first use."""
        self._check_process()
        side = self._side
        if side is None:
            loop = running_loop()
            side = LoopSide(loop, self._usable, fetch=self._fetch, threads=self._thread_count)
            self._side = side
        self._check_loop(side)
        if self._closed:
            raise BrokerLost(CLOSED)
        return side

    def _check_loop(self, side: LoopSide) -> None:
        if running_loop() is not side.loop:
            raise KaasqError(
                "the client belongs to another event loop, the one that it was first used in: make one client per loop"
            )

    async def _ask(self, question: Question) -> FlowResult:
        answer = await self._sent(question)
        assert isinstance(answer, FlowResult)
        return answer

    async def _sent(self, question: Question | Search) -> Result:
        return await self._here().send(lambda: question, lambda: True)

    async def _core_of_loop(self) -> ClientCore:
        return await asyncio.shield(self._here().connected())
