"""The client for threads: run graphs and wait, or get futures; put and get arrays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, overload

from kaasq.broker import wait_for
from kaasq.errors import BadRequest, BrokerLost
from kaasq.flows.model import FlowState
from kaasq.messages import Repeat
from kaasq.names import check_request_id, check_word
from kaasq_producers.base import ClientBase
from kaasq_producers.buffers import Array
from kaasq_producers.calls import Call, OnResult, Sendable
from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.iterating import Events
from kaasq_producers.events.register import Note
from kaasq_producers.events.served import Served
from kaasq_producers.events.service import Handler, Service, service_of
from kaasq_producers.events.serving import DRAIN_TIMEOUT_S
from kaasq_producers.events.subscription import PREFETCH, Wanted
from kaasq_producers.events.subscriptions import look, remove
from kaasq_producers.flows.calls import Question
from kaasq_producers.flows.known import AnyFlow
from kaasq_producers.flows.listing import LISTED, Looking, Workflows
from kaasq_producers.flows.prepare import check_flow_id
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.flows.run import Run
from kaasq_producers.futures import FlowFuture, ResultFuture, Waiter, futures_of, or_abandon
from kaasq_producers.prepare import AnyGraph
from kaasq_producers.references import BufferRef
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps
from kaasq_producers.then import Then, as_list
from kaasq_storage.protocol import DEFAULT_TTL_S, Named


class Client(ClientBase):
    """Runs graphs on a pool of workers, and reads and writes the pool's store. Thread-safe.

    ``broker`` is a URL or a Broker, which the client then opens and closes. ``timeout`` (seconds) is that of requests
    which name none. What is not given comes from ``settings``, or else from the environment and ``kaasq.toml``. One
    client belongs to one process: a forked child makes its own. It connects with the first request (or ``connect``)
    and opens the store when it is first needed, so ``put`` needs no broker and a small request no store.
    """

    @overload
    def run(self, graph: AnyFlow, /, *, timeout: float | None = None, **bindings: Any) -> FlowResult: ...
    @overload
    def run(
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
    ) -> Result: ...
    def run(
        self,
        graph: AnyGraph | AnyFlow,
        /,
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> Result:
        """Publish a request, or start a workflow, and wait for its result.

        ``timeout`` seconds after the call the request is over: a worker that has it stops it, and one that takes it
        later does not run it. ``run`` waits up to a second longer, for the worker to say which.

        ``bindings`` are the graph's inputs (arrays, bytes, lists, numbers, BufferRef, Stored), scalars, and
        ``Keep(name)`` for outputs. What clashes with a parameter's name goes into ``bind`` or ``scalars``; an inout to
        be kept goes into ``keep``. Raises ReplyTimeout if nobody said anything, or what the request failed with.

        ``repeat``: what ``kaasq.repeat`` gives, to run the graph in a loop.
        ``then``: graphs that the workers run on its outputs afterwards, ``timeout`` being for all of it; their futures
        are in ``result.then``, and ``run`` does not wait for them.

        A workflow's inputs that are lists take lists, or arrays with one axis more. Where it fails, the error is that
        of its first step that failed: ``error.step`` names it, ``error.flow`` says how all of them ended.
        """
        core = self._waitable("run", "submit(), or another thread")
        follow = as_list(then)
        prepared = self._preparer.prepare(
            graph, bindings, timeout=timeout, bind=bind, scalars=scalars, keep=keep, repeat=repeat, then=follow
        )
        return self._result(core, prepared, futures_of(follow))

    @overload
    def submit(self, graph: AnyFlow, /, *, timeout: float | None = None, **bindings: Any) -> FlowFuture: ...
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
    ) -> ResultFuture: ...
    def submit(
        self,
        graph: AnyGraph | AnyFlow,
        /,
        *,
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        repeat: Repeat | None = None,
        then: Then | Iterable[Then] | None = None,
        **bindings: Any,
    ) -> ResultFuture:
        """Publish a request, or start a workflow; its result comes through the future.

        Inputs may be changed once this has returned.

        Blocks while ``settings.pending_limit`` requests have no reply. Cancelling the future cancels the request, and
        what follows it: ``future.then`` has the futures of that.
        """
        core = self._usable()
        follow = as_list(then)
        prepared = self._preparer.prepare(
            graph, bindings, timeout=timeout, bind=bind, scalars=scalars, keep=keep, repeat=repeat, then=follow
        )
        future = ResultFuture()
        future.then = futures_of(follow)
        future.attach(core, self._send(core, prepared, future.settle, future.then))
        return future

    def start(
        self,
        flow: AnyFlow,
        /,
        *,
        id: str | None = None,  # noqa: A002  # it is the word for it, everywhere
        timeout: float | None = None,
        bind: Mapping[str, Any] | None = None,
        scalars: Mapping[str, Any] | None = None,
        keep: Mapping[str, str] | None = None,
        **bindings: Any,
    ) -> Run:
        """Start a workflow, and wait until that is durable: from then on it goes on whatever becomes of this process.

        It has ``timeout`` seconds, or as long as it takes. ``id``: what it is to be called, else a new one; started
        again under an id, with the same inputs, it is the one that there is. ``keep``: names in the store for its
        outputs. Raises what is wrong with it, and Conflict if another one has the id.
        """
        core = self._waitable("start", "another thread")
        prepared = self._preparer.flows.start(
            flow, bindings, timeout=timeout, bind=bind, scalars=scalars, keep=keep, flow_id=id
        )
        started = self._result(core, prepared)
        assert isinstance(started, FlowResult)
        return self.attach(started.id)

    def attach(self, flow_id: str) -> Run:
        """A workflow of this tenant that has begun, by its id: to see how it stands, wait for it, or cancel it."""
        return Run(check_flow_id(flow_id), self._ask, self._end_flow, self.settings.timeout)

    def workflows(self, state: FlowState | None = None, *, limit: int = LISTED) -> Workflows:
        """The tenant's workflows that the pool knows (until ``result_ttl`` after their end), the latest first, at most
        ``limit`` of them; ``found.total`` is how many there are. ``state``: those that stand so.

        Each has its ``id``, to ``attach`` to, ``name``, ``state``, ``started_ms`` and ``ended_ms`` since the epoch, how
        many ``steps`` it has, and how many of them have ``ended``.
        """
        looking = Looking(state, limit, self.settings.timeout)
        core = self._waitable("workflows", "another thread")
        while looking.search is not None:
            looking.add(self._result(core, looking.search))
        return looking.found

    def cancel(self, request_id: str) -> None:
        """Have the pool's workers not run a request of this tenant, or not any further, nor what follows it.

        Who awaits it gets ``Cancelled``, unless it ends first. A running one ends between two launches; if that takes
        longer than a second, its executor is stopped.
        """
        check_request_id(request_id)
        self._usable().withdrawals.withdraw(request_id)

    def events(self, *patterns: str, name: str | None = None, prefetch: int = PREFETCH) -> Events:
        """How requests of this tenant end, as they do: ``for event in client.events("saxpy.*"): ...``.

        A pattern is ``<graph name>.<completed|failed|cancelled|expired>``, with ``*`` for one word and ``#`` for any
        number of words; without any, all. Without a ``name`` it hears what is told from now on until it is closed, and
        may miss events while the connection is lost. With one the subscription is durable: its queue collects while
        nobody listens (``settings.event_limit``, ``event_ttl``), programs that listen under one name share what comes,
        and an event is delivered again until it is acked, which asking for the next one does. Other patterns under a
        name replace those that it had. At most ``prefetch`` events are read ahead.

        Raises BadRequest, BrokerLost, BrokerRefused.
        """
        wanted = Wanted(patterns, self.tenant, name, prefetch)
        core = self._waitable("events", "another thread")
        return Events(core, wanted, self.settings)

    def subscriptions(self) -> list[Note]:
        """The tenant's named subscriptions: name, binding keys, and when a program last subscribed."""
        return look(self._usable(), self.settings.connect_timeout)

    def unsubscribe(self, name: str) -> bool:
        """Remove a named subscription with the events that it holds. Whether there was one.

        A program that listens to it makes it anew.
        """
        return remove(self._usable(), check_word(name, "subscription"), self.settings.connect_timeout)

    def serve(self, service: Service | Handler | Iterable[Handler], *, drain: float = DRAIN_TIMEOUT_S) -> Served:
        """Run a service's handlers until the block ends: ``with client.serve(service): ...``.

        Functions run on threads, ``async`` ones in a loop on a thread of its own. At the end those that run have
        ``drain`` seconds; events of those that take longer are delivered again. ``kaasq.serve`` is the same for a
        whole program. Raises BadRequest, BrokerLost, BrokerRefused.
        """
        served = service_of(service)
        return Served(served, self._usable(), self._preparer, self.settings, drain)

    def put(
        self,
        value: Any,
        name: str | None = None,
        ttl: float = DEFAULT_TTL_S,
        *,
        dtype: Any = None,
        shape: tuple[int, ...] | None = None,
    ) -> BufferRef:
        """Store an array (or bytes, then with ``dtype`` and ``shape`` if wanted).

        Equal contents are stored once. Without a name it is kept ``ttl`` seconds; with one, until the name is deleted
        or points elsewhere. Raises StoreFull, StoreUnavailable.
        """
        return self.buffers.put(value, name=name, ttl_s=ttl, dtype=dtype, shape=shape)

    def get(self, key: str | BufferRef) -> Array:
        """A stored array by name or ref, with its dtype and shape (uint8 if it has none). Raises NameNotFound."""
        return self.buffers.get(key)

    def delete(self, key: str | BufferRef) -> None:
        """Remove a name, or an unnamed object. Raises NameNotFound, or BadRequest if a name points to the object."""
        self.buffers.delete(key)

    def names(self, prefix: str = "") -> list[Named]:
        """The names that start so, in order, with what they point to."""
        return self.buffers.names(prefix)

    def connect(self) -> None:
        """Connect now instead of with the first request. Raises BrokerLost, BrokerRefused."""
        self._usable()

    def close(self) -> None:
        """Close broker and store. Requests without a reply fail with BrokerLost; they may still run. Idempotent.

        In a forked child it leaves the parent's connection alone.
        """
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _waitable(self, what: str, instead: str) -> ClientCore:
        """The core, for who waits for it: which its own thread cannot."""
        core = self._usable()
        if threading.get_ident() == core.io_thread:
            raise BadRequest(f"{what}() in a callback would wait for itself: use {instead}")
        return core

    def _end_flow(self, flow_id: str) -> None:
        """Cancel a workflow, and wait until the broker has that: who does so in an emergency may leave right after."""
        core, patience_s = self._usable(), self.settings.connect_timeout
        if threading.get_ident() == core.io_thread:  # which brings the confirmation
            core.withdrawals.withdraw(flow_id)
            return
        try:
            wait_for(lambda done: core.withdrawals.withdraw(flow_id, done), patience_s)
        except TimeoutError:
            raise BrokerLost(
                f"the broker has not confirmed within {patience_s:g} s that workflow {flow_id} is to be cancelled: it "
                f"may be or not, so cancel it again"
            ) from None

    def _ask(self, question: Question) -> FlowResult:
        answer = self._result(self._waitable("asking", "another thread"), question)
        assert isinstance(answer, FlowResult)
        return answer

    def _result(self, core: ClientCore, prepared: Sendable, steps: Steps[ResultFuture] = NONE) -> Result:
        waiter: Waiter[Result] = Waiter()

        def run() -> Result:
            call = self._send(core, prepared, waiter.set, steps)
            for future, step in zip(steps, call.chain(), strict=True):
                future.attach(core, step)
            return waiter.wait()

        return or_abandon(run, lambda: core.abandon(waiter.set))  # nobody waits any more

    def _send(
        self, core: ClientCore, prepared: Sendable, on_result: OnResult, steps: Steps[ResultFuture] = NONE
    ) -> Call:
        on_steps = [each.settle for each in steps]
        call = core.send(prepared, on_result, on_steps=on_steps, steps=steps)
        if call is not None:
            return call
        if threading.get_ident() == core.io_thread:
            raise BadRequest(
                f"{len(core.pending)} requests have no reply yet, and waiting for room in a callback would wait for "
                f"ever"
            )
        until = time.monotonic() + prepared.timeout_s
        while call is None:
            if not core.pending.wait_for_room(min(until - time.monotonic(), threading.TIMEOUT_MAX)):
                raise core.no_room(prepared.timeout_s)
            call = core.send(prepared, on_result, on_steps=on_steps, steps=steps)
        return call
