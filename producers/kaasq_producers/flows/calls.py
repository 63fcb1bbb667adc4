"""What is sent about workflows, until the reply: a start, and what is asked of one that has begun. No I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from kaasq import codec
from kaasq.errors import KaasqError, QuotaExceeded
from kaasq.flows.model import Asked, FlowCall, FlowReply
from kaasq.messages import Reply
from kaasq_producers.buffers import Buffers
from kaasq_producers.calls import FOREVER, REPLY_GRACE_S, Call, OnResult, OnUnpublished, milliseconds
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.result import failure
from kaasq_producers.steps import NONE, Steps

# A worker remembers the last 64 who wait for a workflow, and none whose store was lost: so who waits asks again. Who is
# told that he is not remembered does so no sooner: others would be forgotten in his place, and ask at once in turn.
WAIT_AGAIN_S = 30.0
RUN_AGAIN_S = 300.0  # the whole workflow is sent again, which may be megabytes


class FlowMessage(Call):
    """One about the workflow ``flow``. What comes back says how that stands."""

    __slots__ = ("_flow", "_name")

    slow = "the workers may be busy, or none may be running"

    def __init__(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None,
        timeout_s: float,
        grace_s: float,
        again_s: float | None,
        *,
        flow: str | None,
        name: str,
        body: bytes,
    ) -> None:
        """``flow`` None: it has the message's id."""
        super().__init__(on_result, on_unpublished, call_id, timeout_s, grace_s, again_s)
        self.body = body
        self._flow = flow or self.id
        self._name = name

    @property
    def flow(self) -> str:
        """The workflow's id."""
        return self._flow

    @property
    def what(self) -> str:
        """As it is called in messages to a person."""
        return f"workflow {self._flow}"

    def result(self, reply: Reply, buffers: Buffers | None) -> FlowResult:
        """With the workflow's outputs, if it has ended."""
        return FlowResult(reply, self._flow, self._name, buffers, time.monotonic() - self.started)

    def forgotten(self, reply: Reply) -> bool:
        """Whether too many others wait for the workflow (``graph_limits.waiting``)."""
        error = reply.error
        return (
            self.again_s is not None
            and error is not None
            and error.code == QuotaExceeded.code
            and error.detail.get("which") == "waiting"
        )

    def failure(self, reply: Reply, buffers: Buffers | None) -> KaasqError:
        """That of the first step that failed; ``flow`` says how all of them ended."""
        error = failure(msgspec.structs.replace(reply, id=self._flow), buffers)
        if isinstance(reply, FlowReply) and reply.flow is not None:
            error.flow = reply.flow
        return error


class Starting(FlowMessage):
    """A workflow is to begin; the reply comes when it has, or when it has ended."""

    __slots__ = ("_cancels",)

    slow = (
        "the workers may be busy, or none may be running; it begins all the same once one is free, unless its "
        "time is over or it is cancelled"
    )

    def __init__(
        self, prepared: PreparedStart, on_result: OnResult, on_unpublished: OnUnpublished, call_id: str | None
    ) -> None:
        super().__init__(
            on_result,
            on_unpublished,
            call_id,
            prepared.timeout_s,
            prepared.grace_s,
            RUN_AGAIN_S if prepared.awaits_end else None,
            flow=prepared.flow,
            name=prepared.name,
            body=prepared.start,
        )
        self._cancels = prepared.flow is None

    @property
    def cancels(self) -> str | None:
        """The workflow; but for one that was given an id, which may have begun long ago, and somebody knows it."""
        return self._flow if self._cancels else None

    @property
    def message_id(self) -> str:
        """The workflow's id: begun twice, it runs once."""
        return self._flow


class Asking(FlowMessage):
    """Something is asked of a workflow. Who asks no longer leaves it as it is."""

    __slots__ = ()

    expires = False  # nobody needs to look at a question that came too late: no dead letter is made of it

    def __init__(
        self, question: Question, on_result: OnResult, on_unpublished: OnUnpublished, call_id: str | None
    ) -> None:
        asked = question.asked
        super().__init__(
            on_result,
            on_unpublished,
            call_id,
            question.timeout_s,
            0.0,
            WAIT_AGAIN_S if asked.do == "wait" else None,
            flow=asked.id,
            name="",
            body=codec.encode(FlowCall(flow=asked, timeout_ms=milliseconds(question.timeout_s))),
        )

    @property
    def cancels(self) -> None:
        """Nothing."""
        return


class PreparedStart(NamedTuple):
    """A workflow to start, checked, with its data at hand.

    ``flow``: the id that it is to have, if it is given one. ``grace_s``: how long after its time it may still reply.
    """

    start: bytes
    name: str
    timeout_s: float
    grace_s: float = REPLY_GRACE_S
    flow: str | None = None
    awaits_end: bool = True

    def body(self, *, whole: bool) -> bytes:  # noqa: ARG002  # it always is
        """The message's."""
        return self.start

    def call(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None = None,
        on_steps: Sequence[OnResult] = (),  # noqa: ARG002  # nothing follows it
        steps: Steps[Any] = NONE,  # noqa: ARG002
    ) -> Starting:
        """It as a call."""
        return Starting(self, on_result, on_unpublished, call_id)


class Question(NamedTuple):
    """What is asked of a workflow, and how long an answer is waited for."""

    asked: Asked
    timeout_s: float = FOREVER

    def call(
        self,
        on_result: OnResult,
        on_unpublished: OnUnpublished,
        call_id: str | None = None,
        on_steps: Sequence[OnResult] = (),  # noqa: ARG002  # nothing follows it
        steps: Steps[Any] = NONE,  # noqa: ARG002
    ) -> Asking:
        """It as a call."""
        return Asking(self, on_result, on_unpublished, call_id)
