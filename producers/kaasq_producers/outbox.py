"""Requests of one event loop on their way to the core: they wait here for the connection and for room."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from kaasq.errors import KaasqError, NotReached, ReplyTimeout
from kaasq_producers.calls import Awaited, Sendable
from kaasq_producers.client_core import ClientCore
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.loop_inbox import LoopInbox
from kaasq_producers.result import Result
from kaasq_producers.steps import NONE, Steps

SENDS_A_TURN = 64  # some 2 ms; then the loop's other work has its turn


class RequestFuture(asyncio.Future[Result]):
    """A request's result. Cancelling it (or the task that awaits it) cancels the request and what follows it."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(loop=outbox.loop)
        self._outbox = outbox
        self.call: Awaited | None = None
        """The request, once it is sent."""
        self.then: Steps[RequestFuture] = NONE
        """What follows: the futures of its continuations, by name or place. Those have none."""

    @property
    def request_id(self) -> str | None:
        """The request's id; None while it waits to be sent."""
        return None if self.call is None else self.call.id

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the request. False if the result is there already."""
        if not super().cancel(msg):
            return False
        self._outbox.withdraw(self)
        return True


class FlowRequestFuture(RequestFuture):
    """A workflow's: what it gives is a FlowResult."""

    if TYPE_CHECKING:

        def result(self) -> FlowResult:
            """As a future's; the same one as a request's, but for the type."""

        def __await__(self) -> Generator[Any, None, FlowResult]: ...


class Outbox:
    """Sends requests in order, as far as there is room. Everything happens on the loop.

    ``on_result`` is called there with what became of a request, unless it was cancelled.
    """

    def __init__(self, inbox: LoopInbox, on_result: Callable[[RequestFuture, Result], None]) -> None:
        self.loop = inbox.loop
        self.core: ClientCore | None = None
        """None until the client is connected."""
        self._inbox = inbox
        self._on_result = on_result
        self._waiting: OrderedDict[RequestFuture, tuple[Sendable, asyncio.TimerHandle]] = OrderedDict()
        self._closed: KaasqError | None = None
        self._woken = False  # or about to be: one call for all who wait

    def put(self, future: RequestFuture, prepared: Sendable) -> None:
        """Send it, now or when there is room. If that takes longer than its timeout, it gets ReplyTimeout."""
        if future.done():
            return  # cancelled while its inputs were prepared
        if self._closed is not None:
            self.fail(future, copy.copy(self._closed))
        elif self._waiting or not self._sent(future, prepared):
            timer = self.loop.call_later(prepared.timeout_s, self._expire, future)
            self._waiting[future] = (prepared, timer)
            self._wait_for_room()

    def fail(self, future: RequestFuture, error: BaseException) -> None:
        """That is what became of it, unless it was cancelled."""
        if not future.done():
            future.set_exception(error)
            if self._closed is not None or isinstance(error, NotReached):
                future.exception()  # who closes the client, or saw why, wants to hear no more: no warning if unseen
        if future.call is None:  # never sent
            for each in future.then:
                self.fail(each, NotReached("the request that it was to follow was not sent"))

    def open(self, core: ClientCore) -> None:
        """Connected."""
        self.core = core
        self._wait_for_room()

    def fail_waiting(self, error: BaseException) -> None:
        """Tell all who wait."""
        waiting, self._waiting = self._waiting, OrderedDict()
        for future, (_, timer) in waiting.items():
            timer.cancel()
            self.fail(future, copy.copy(error))  # each is raised somewhere else and collects a traceback

    def close(self, error: KaasqError) -> None:
        """Tell all who wait; there will be no others."""
        self._closed = error
        self.fail_waiting(error)

    def withdraw(self, future: RequestFuture) -> None:
        """The future was cancelled: its request is not sent, or the workers are told."""
        if future.call is not None and self.core is not None:
            self.core.cancel(future.call)
        elif (entry := self._waiting.pop(future, None)) is not None:
            entry[1].cancel()
        if future.call is None:
            for each in future.then:
                each.cancel()

    def _sent(self, future: RequestFuture, prepared: Sendable) -> bool:
        """Whether there was room, or nothing is sent any more."""
        if self.core is None:
            return False
        try:
            on_steps = [partial(self._inbox.post, self._ended, each) for each in future.then]
            future.call = self.core.send(
                prepared,
                partial(self._inbox.post, self._ended, future),
                on_steps=on_steps,
                steps=future.then,
            )
        except KaasqError as error:
            self.fail(future, error)
            return True
        if future.call is None:
            return False
        for each, step in zip(future.then, future.call.chain(), strict=True):
            each.call = step
            if each.cancelled():
                self.core.cancel(step)
        return True

    def _wait_for_room(self) -> None:
        # One call for all, and none for a request of its own: whoever is called back may have been cancelled, and the
        # room would be offered to nobody else.
        if self.core is not None and self._waiting and not self._woken:
            self._woken = True
            self.core.pending.on_room(partial(self._inbox.post, self._send_waiting))

    def _send_waiting(self) -> None:
        self._woken = False
        for _ in range(SENDS_A_TURN):
            if not self._waiting:
                return
            future, (prepared, timer) = next(iter(self._waiting.items()))
            if not self._sent(future, prepared):
                break
            del self._waiting[future]
            timer.cancel()
        self._wait_for_room()

    def _ended(self, future: RequestFuture, result: Result | KaasqError) -> None:
        if isinstance(result, KaasqError):
            self.fail(future, result)
        elif not future.done():
            self._on_result(future, result)

    def _expire(self, future: RequestFuture) -> None:
        prepared, _ = self._waiting.pop(future)
        if self.core is None:
            waited = f"the broker had not answered yet after {prepared.timeout_s:g} s, so the request was not sent"
            self.fail(future, ReplyTimeout(waited, timeout_s=prepared.timeout_s))
        else:
            self.fail(future, self.core.no_room(prepared.timeout_s))
