"""What a step submits is published until the broker has it, or has refused it for good."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from kaasq import Workflow, codec
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, Unroutable
from kaasq.events import EventMessage
from kaasq.flows.model import FlowStart
from kaasq.messages import Reply
from kaasq.settings import Settings
from kaasq.topology import REQUESTS
from kaasq_producers.calls import Route
from kaasq_producers.events.submitted import AGAIN_S, PUBLISH_ATTEMPTS, Submitted
from kaasq_producers.prepare import AnyPrepared, Preparer
from tests.support import graphs
from tests.support.front_bench import Loop

X = np.arange(4, dtype=np.float32)
EVENT = EventMessage(
    id="e", type="t", source="s", subject="g", tenant="ann", graph="g", word="completed",
    traceparent="00-ab-cd-01", reply=Reply(id="r", status="ok"),
)  # fmt: skip


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def submitted(loop: Loop) -> Submitted:
    return Submitted(loop, Route("ann", "p"), EVENT)  # type: ignore[arg-type]  # as much of a broker as it needs


@pytest.fixture
def prepared() -> AnyPrepared:
    return Preparer(Settings(), None).prepare(graphs.saxpy(), {"x": X, "y": X})


def published(submitted: Submitted, prepared: AnyPrepared) -> Future[None]:
    submitted.publish("id-1", prepared)
    (future,) = submitted.taken()
    assert submitted.taken() == []
    return future


@pytest.mark.parametrize(
    "refusal", [BrokerRefused("full", rejected=True), BrokerLost("gone")], ids=["rejected", "lost"]
)
def test_what_is_rejected_or_lost_is_published_again_with_pauses_that_double(
    loop: Loop, submitted: Submitted, prepared: AnyPrepared, refusal: KaasqError
) -> None:
    loop.refusals[REQUESTS] = refusal
    future = published(submitted, prepared)
    for attempt in range(3):
        assert not future.done()
        assert [delay_s for delay_s, _ in loop.later] == [AGAIN_S * 2**attempt]
        loop.run_timers()
    loop.refusals.clear()
    loop.run_timers()
    assert future.result(0) is None
    first, *others = loop.published
    assert len(others) == 4
    assert all(each == first for each in others)  # under the same id, so that it runs once
    exchange, key, message = first
    assert (exchange, key, message.message_id, message.user_id) == (REQUESTS, "ann.p.any", "id-1", "ann")
    assert message.headers == {"traceparent": "00-ab-cd-01"}


def test_after_the_last_attempt_it_is_told_why(loop: Loop, submitted: Submitted, prepared: AnyPrepared) -> None:
    loop.refusals[REQUESTS] = BrokerRefused("the queue is full", rejected=True)
    future = published(submitted, prepared)
    for _ in range(PUBLISH_ATTEMPTS - 1):
        assert not future.done()
        loop.run_timers()
    with pytest.raises(BrokerRefused, match="the queue is full") as caught:
        future.result(0)
    assert caught.value.detail["request_id"] == "id-1"
    assert len(loop.published) == PUBLISH_ATTEMPTS
    assert loop.later == []


@pytest.mark.parametrize("refusal", [Unroutable("no queue"), BrokerRefused("too large")], ids=["unroutable", "refused"])
def test_what_is_refused_for_good_is_told_at_once(
    loop: Loop, submitted: Submitted, prepared: AnyPrepared, refusal: KaasqError
) -> None:
    loop.refusals[REQUESTS] = refusal
    future = published(submitted, prepared)
    with pytest.raises(type(refusal)):
        future.result(0)
    assert len(loop.published) == 1


def test_a_workflow_is_started_likewise(loop: Loop, submitted: Submitted) -> None:
    flow = Workflow("f")
    flow.step("s", graphs.saxpy(), x=X, y=flow.input("y", nbytes=16))
    prepared = Preparer(Settings(), None).prepare(flow, {"y": X}, timeout=3)
    assert published(submitted, prepared).result(0) is None
    ((_, _, message),) = loop.published
    start = codec.decode(message.body, message.content_type, FlowStart)
    assert (message.message_id, message.reply_to) == ("id-1", None)
    assert start == FlowStart(workflow=flow.spec, bind={"y": X.tobytes()}, timeout_ms=3000)
