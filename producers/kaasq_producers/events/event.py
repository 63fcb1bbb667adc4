"""An event as a program gets it: what it says, and the way to the outputs of the request that ended."""

from __future__ import annotations

from collections.abc import Callable

from kaasq.errors import BadRequest, BufferMissing, KaasqError
from kaasq.events import EventMessage
from kaasq.messages import Reply
from kaasq.model import GraphSpec
from kaasq_producers.buffers import Buffers
from kaasq_producers.references import BufferRef
from kaasq_producers.result import Refs, Result, failure
from kaasq_producers.side_threads import SideThreads


class Event(EventMessage, frozen=True, kw_only=True, eq=False):
    """A request of one's own tenant has ended. ``graph`` and ``word`` say which and how; ``id`` is the same when told
    again. ``reply`` is what its producer was replied, without inline bytes.
    """

    buffers: Buffers | None = None
    """The store of the client that heard it."""
    sealed: bool = False
    """Whether it was heard in an event loop, where nothing may block."""
    settle: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Event {self.id} of graph {self.graph!r}, tenant {self.tenant!r}>"

    def ack(self) -> None:
        """Have it not delivered again, now instead of when the next one is asked for. From any thread; idempotent."""
        if self.settle is not None:
            self.settle()

    @property
    def outputs(self) -> dict[str, BufferRef]:
        """The outputs that lie in the store, to be bound to the next graph without reading them here.

        Outputs that were small went with the reply: ``result()`` has them, too.
        """
        return Refs(self.reply)

    @property
    def error(self) -> KaasqError | None:
        """Why it did not complete; None if it did."""
        return None if self.reply.status == "ok" else failure(self.reply, self.buffers)

    def result(self) -> Result:
        """What the request produced, as its producer got it: small outputs are read from its outcome, in the store.

        In an event loop that would block: ``await client.fetch(event)`` (``step.fetch``) does the same. Raises what the
        request failed with; BufferMissing if its outcome is not in this client's store (any more), StoreUnavailable.
        """
        if self.sealed:
            raise BadRequest(
                "reading an event's result would block the event loop: `await client.fetch(event)`, in an async step "
                "`await step.fetch(event)`"
            )
        return self.read()

    def read(self) -> Result:
        """The same, wherever it is called."""
        needed = [name for name, each in self.reply.outputs.items() if each.ref is None and each.inline is None]
        if not needed or self.reply.status != "ok":
            return self._result(self.reply)
        outcome = self.buffers.outcome(self.request_id) if self.buffers is not None else None
        if outcome is None:
            where = "this client has no store" if self.buffers is None else f"the store in {self.buffers.path} has none"
            raise BufferMissing(
                f"output {needed[0]!r} of request {self.request_id} was small, so it went with the reply, and can be "
                f"read from the request's outcome only: {where} (another store than the worker's, or older than "
                f"result_ttl). Keep it under a name, or give both the same store",
                buffer=needed[0],
                request_id=self.request_id,
            )
        return self._result(outcome)

    def _result(self, reply: Reply) -> Result:
        if reply.status != "ok":
            raise failure(reply, self.buffers)
        return Result(reply, GraphSpec(name=self.graph), self.buffers)


async def fetched(threads: SideThreads, result: Result | Event) -> Result:
    """The result with all its outputs read, or an event's, without blocking the loop."""
    if isinstance(result, Event):
        result = await threads.call(result.read)
    await threads.call(result.read)
    return result


def heard(message: EventMessage, buffers: Buffers | None, *, sealed: bool, settle: Callable[[], None] | None) -> Event:
    """The message as an Event of a client with that store."""
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return Event(**fields, buffers=buffers, sealed=sealed, settle=settle)
