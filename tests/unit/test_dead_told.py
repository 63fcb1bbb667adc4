"""What is said of a dead letter that was about a workflow."""

from __future__ import annotations

import msgspec
import pytest

from kaasq import codec
from kaasq.broker import Message
from kaasq.checks import GraphLimits
from kaasq.dead_letter import DeadLetter
from kaasq.flows.model import Asked, Due, FlowCall, FlowsCall, Sought, StepCall
from kaasq_producers.dead import told
from tests.support.flows import START


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (
            START,
            [
                "  workflow 'images.pipeline': 7 steps",
                "  input image: 64 B in the message",
                "  input weights: in the store, model/w",
                "  input masks: a list of 2",
                "  output sum: to be kept as 'result/sum'",
            ],
        ),
        (FlowCall(flow=Asked(id="f", do="wait")), ["  asks for workflow 'f': wait"]),
        (FlowsCall(flows=Sought(state="failed")), ["  asks which workflows there are: those failed"]),
        (StepCall(step=Due(flow="f", step="a", item=2)), ["  step 'a', item 2, of workflow 'f'"]),
        (StepCall(step=Due(flow="f")), ["  the end of workflow 'f'"]),
    ],
)
def test_dead_letters_say_which_workflow_and_step_they_were_about(sent: msgspec.Struct, lines: list[str]) -> None:
    body = codec.encode(sent)
    letter = DeadLetter(
        id="f",
        tenant="ann",
        code="worker_crashed",
        reason="it crashed",
        by="worker",
        buried_ms=None,
        exchange="kaasq.requests",
        routing_key="ann.default.any",
        nbytes=len(body),
        request=Message(body=body, message_id="f", content_type=codec.MSGPACK),
    )
    assert told.in_full(letter, GraphLimits())[-len(lines) :] == lines
