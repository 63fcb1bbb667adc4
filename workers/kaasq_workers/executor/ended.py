"""A request that ran or failed, until its outcome is durable: what is known of it by then."""

from __future__ import annotations

import msgspec

from kaasq.errors import KaasqError
from kaasq.messages import Next, Repeated, Request
from kaasq_workers.executor.ahead import Below
from kaasq_workers.executor.flight import Executed
from kaasq_workers.executor.repeating import Loop
from kaasq_workers.executor.stretch import Stretch
from kaasq_workers.flows.tasks import Settled, Step, Task
from kaasq_workers.link import Following, Happened, Job


class Foretold(msgspec.Struct, frozen=True):
    """What follows a request, made before its outcome is durable: what its reply says of it, and the messages.

    ``onward``: the one of them that goes on in this executor; None if none does.
    """

    told: tuple[Next, ...]
    follow: list[Following]
    onward: Following | None


class Ended(msgspec.Struct, kw_only=True):
    """A request that ran or failed, not yet committed. ``digest`` None: its outcome is not to be remembered."""

    job: Job
    reply_type: str
    graph: str | None = None
    graph_hash: str | None = None
    """Of a graph that came whole."""
    digest: str | None = None
    request: Request | None = None
    executed: Executed | None = None
    error: KaasqError | None = None
    replay: bytes | None = None
    queued_us: int = 0
    claimed: bool = False
    deadline_ms: int | None = None
    below: Below | None = None
    """What is to follow it."""
    loop: Loop | None = None
    repeated: Repeated | None = None
    step: Step | None = None
    """What it is of a workflow."""
    task: Task | None = None
    """What is to be done instead of running it."""
    begins: bool = False
    """A workflow's start, which is answered once that has begun."""
    stretch: Stretch | None = None
    """What ran with it: the steps of its workflow behind it."""
    due: list[Following] = []
    """What its end made due in its workflow."""
    also: list[Happened] = []
    """What else of its workflow has ended."""
    follow_bytes: int = 0
    """Of the messages that are to follow it, at most."""
    settled: Settled | None = None
    """What became of its task."""
    ended_ns: int | None = None
    """When it had, by ``time.perf_counter_ns``."""
    goes_on: bool = False
    """What follows it may begin here."""
    foretold: Foretold | None = None
    """What follows it, if that was made beforehand, and may have begun."""
    before: Ended | None = None
    """What it follows, where that was not durable yet as it began."""
    lost: bool = False
    """It did not end as foretold: what began behind it never was."""

    @property
    def awaited(self) -> bool:
        """Whether something that follows may begin here once it is durable."""
        return self.goes_on and self.foretold is None

    @property
    def leads(self) -> bool:
        """Whether anything may follow it."""
        of_workflow = self.step is not None or self.task is not None or bool(self.due)
        return of_workflow or bool(self.request and self.request.then)

    def discard(self) -> None:
        """Forget what running it gave; staged outputs give their space back."""
        for produced in self.executed.outputs if self.executed else []:
            if not isinstance(produced.data, bytearray):
                produced.data.discard()
        self.executed = None
