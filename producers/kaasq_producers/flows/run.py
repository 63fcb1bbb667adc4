"""A workflow that has begun, for whoever knows its id: how it stands, its result, and how to end it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from kaasq.flows.model import Asked, FlowStatus, ItemStatus
from kaasq_producers.calls import FOREVER
from kaasq_producers.flows.calls import Question
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.storing import checked_timeout


class Run:
    """What ``Client.start`` gives, and ``Client.attach`` for an id."""

    def __init__(
        self, flow_id: str, ask: Callable[[Question], FlowResult], cancel: Callable[[str], None], patience_s: float
    ) -> None:
        """``patience_s``: how long an answer is waited for that comes at once."""
        self.id = flow_id
        self._ask = ask
        self._cancel = cancel
        self._patience_s = patience_s

    def status(self, items: bool = False, *, timeout: float | None = None) -> FlowStatus:
        """How it stands: its steps with their states, counts and times. With ``items`` also each item that is or was
        due, with the worker's timings where it has completed.

        An answer is waited for ``timeout`` seconds (the client's own, if not given). Raises NameNotFound if there is no
        such workflow (any more), ReplyTimeout.
        """
        patience_s = self._patience_s if timeout is None else checked_timeout(timeout)
        status = self._ask(_question(self.id, patience_s, items=items)).flow
        found = list(status.items)
        while status.more and status.items:
            status = self._ask(_question(self.id, patience_s, items=items, after=found[-1].number)).flow
            found += status.items
        return _whole(status, found)

    def wait(self, timeout: float | None = None) -> FlowResult:
        """Its result, once it has ended; for as long as that takes, or ``timeout`` seconds.

        Raises what it failed with, NameNotFound, and ReplyTimeout when the time is over: it goes on all the same.
        """
        return self._ask(_wait(self.id, timeout))

    def cancel(self) -> None:
        """End it: no step begins any more, and what runs is stopped. Returns once the broker has that for the workers.

        Raises BrokerLost.
        """
        self._cancel(self.id)

    def __repr__(self) -> str:
        return f"<Run of workflow {self.id}>"


class AsyncRun:
    """What ``AsyncClient.start`` gives, and ``AsyncClient.attach`` for an id. As ``Run``, but awaited."""

    def __init__(
        self,
        flow_id: str,
        ask: Callable[[Question], Awaitable[FlowResult]],
        cancel: Callable[[str], Awaitable[None]],
        patience_s: float,
    ) -> None:
        self.id = flow_id
        self._ask = ask
        self._cancel = cancel
        self._patience_s = patience_s

    async def status(self, items: bool = False, *, timeout: float | None = None) -> FlowStatus:  # noqa: ASYNC109
        """How it stands; see Run.status."""
        patience_s = self._patience_s if timeout is None else checked_timeout(timeout)
        status = (await self._ask(_question(self.id, patience_s, items=items))).flow
        found = list(status.items)
        while status.more and status.items:
            status = (await self._ask(_question(self.id, patience_s, items=items, after=found[-1].number))).flow
            found += status.items
        return _whole(status, found)

    async def wait(self, timeout: float | None = None) -> FlowResult:  # noqa: ASYNC109  # as a thread's has it
        """Its result, once it has ended; see Run.wait. Cancelling the task leaves the workflow as it is."""
        return await self._ask(_wait(self.id, timeout))

    async def cancel(self) -> None:
        """End it; see Run.cancel."""
        await self._cancel(self.id)

    def __repr__(self) -> str:
        return f"<AsyncRun of workflow {self.id}>"


def _question(flow_id: str, patience_s: float, *, items: bool, after: int = 0) -> Question:
    return Question(Asked(id=flow_id, do="status", items=items, after=after), patience_s)


def _wait(flow_id: str, timeout: float | None) -> Question:
    return Question(Asked(id=flow_id, do="wait"), FOREVER if timeout is None else checked_timeout(timeout))


def _whole(status: FlowStatus, items: list[ItemStatus]) -> FlowStatus:
    return msgspec.structs.replace(status, items=tuple(items), more=False)
