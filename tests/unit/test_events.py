"""Events as messages: written by a worker, read once at the edge; and the patterns that select them."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kaasq import codec
from kaasq.errors import BadRequest
from kaasq.event_patterns import binding_keys
from kaasq.events import event_message, read_event
from kaasq.flows.model import FlowReply
from kaasq.ids import derived_id
from kaasq.messages import ErrorBody, Output

REPLY = FlowReply(id="r-1", status="ok", outputs={"out": Output(nbytes=16, dtype="float32", shape=(4,), ref="ab" * 32)})


def message(**changes: Any) -> Any:
    named: dict[str, Any] = {
        "request_id": "r-1",
        "graph": "images.resize",
        "word": "completed",
        "source": "/kaasq/default/host/cpu",
        "told_ms": 1_777_777_777_123,
        "request_headers": {"traceparent": "00-ab-cd-01", "tracestate": "x" * 600, "mine": "1"},
    }
    return event_message(codec.encode(REPLY, codec.JSON), **{**named, **changes})


def test_an_event_is_a_cloudevent_in_binary_mode() -> None:
    sent = message()
    assert sent.headers == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": "r-1.completed",
        "cloudEvents_source": "/kaasq/default/host/cpu",
        "cloudEvents_type": "kaasq.request.completed",
        "cloudEvents_subject": "images.resize",
        "cloudEvents_time": "2026-05-03T03:09:37.123Z",
        "cloudEvents_traceparent": "00-ab-cd-01",
    }
    assert (sent.content_type, sent.message_id, sent.timestamp_ms) == (
        "application/json",
        "r-1.completed",
        1_777_777_777_123,
    )


def test_an_event_reads_as_it_was_written() -> None:
    event = read_event(message(), "ann")
    assert (event.id, event.request_id, event.tenant) == ("r-1.completed", "r-1", "ann")
    assert (event.graph, event.subject, event.word) == ("images.resize", "images.resize", "completed")
    assert (event.type, event.source) == ("kaasq.request.completed", "/kaasq/default/host/cpu")
    assert event.time == datetime(2026, 5, 3, 3, 9, 37, 123000, UTC)
    assert (event.traceparent, event.tracestate) == ("00-ab-cd-01", None)
    assert event.reply == REPLY
    with pytest.raises(AttributeError):
        event.word = "failed"  # type: ignore[misc]


def test_other_spellings_of_the_binding_and_older_workers_are_understood() -> None:
    sent = message()
    headers = {name.replace("_", ":"): value for name, value in sent.headers.items() if name != "cloudEvents_time"}
    event = read_event(msgspec.structs.replace(sent, headers={**headers, "other": 5}), "ann")
    assert (event.id, event.time) == ("r-1.completed", None)


@pytest.mark.parametrize(
    ("headers", "at"),
    [
        ({"cloudEvents_specversion": None}, "cloudEvents_specversion"),
        ({"cloudEvents_specversion": "0.3"}, "cloudEvents_specversion"),
        ({"cloudEvents_id": ""}, "cloudEvents_id"),
        ({"cloudEvents_type": "com.example.order"}, "cloudEvents_type"),
        ({"cloudEvents_subject": 5}, "cloudEvents_subject"),
        ({"cloudEvents_source": None}, "cloudEvents_source"),
        ({"cloudEvents_time": "yesterday"}, "cloudEvents_time"),
    ],
)
def test_what_is_no_event_is_refused_naming_the_place(headers: dict[str, Any], at: str) -> None:
    sent = message()
    with pytest.raises(BadRequest) as caught:
        read_event(msgspec.structs.replace(sent, headers={**sent.headers, **headers}), "ann")
    assert caught.value.at == at


def test_data_that_is_no_reply_is_refused() -> None:
    with pytest.raises(BadRequest):
        read_event(msgspec.structs.replace(message(), body=b'{"id": 5}'), "ann")
    failed = FlowReply(id="r-1", status="error", error=ErrorBody(code="kernel_failed", message="it crashed"))
    sent = msgspec.structs.replace(message(word="failed"), body=codec.encode(failed, codec.JSON))
    assert read_event(sent, "ann").reply == failed


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("saxpy.*", ("ann.saxpy.*",)),
        ("images.resize.completed", ("ann.images.resize.completed",)),
        ("#", ("ann.#",)),
        ("#.failed", ("ann.#.failed",)),
        ("images.#", ("ann.images.#",)),
        ("*.*", ("ann.*.*",)),
        ("ann.saxpy.*", ("ann.ann.saxpy.*", "ann.saxpy.*")),
        ("ann.#", ("ann.ann.#", "ann.#")),
        ("ann.completed", ("ann.ann.completed",)),  # as a whole key it would have no graph
    ],
)
def test_a_pattern_is_of_the_tenants_own_events(pattern: str, keys: tuple[str, ...]) -> None:
    assert binding_keys((pattern,), "ann") == keys


def test_several_patterns_bind_each_key_once() -> None:
    assert binding_keys(("a.completed", "b.*", "a.completed"), "ann") == ("ann.a.completed", "ann.b.*")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("saxpy", "can match no event"),
        ("images.resize", "did you mean 'images.resize.*'?"),
        ("completed", "did you mean '#.completed'?"),
        ("images.resize.complete", "did you mean 'images.resize.completed'?"),
        ("poly.fail", "did you mean 'poly.failed'?"),
        ("poly.canceled", "did you mean 'poly.cancelled'?"),
        ("*", "before how the request ended"),
        ("", "'' is neither a word"),
        ("a..completed", "'' is neither a word"),
        ("a.co*.completed", "'co*' is neither a word"),
        ("ä.completed", "is neither a word"),
        ("a" * 260 + ".*", "longer than a routing key"),
        (5, "is a str, given a int"),
    ],
)
def test_a_pattern_that_can_match_nothing_is_refused(pattern: Any, says: str) -> None:
    with pytest.raises(BadRequest, match="events: ") as caught:
        binding_keys((pattern,), "ann")
    assert says in caught.value.message


def test_no_patterns_or_too_many_are_refused() -> None:
    for patterns in ((), tuple(f"g{i}.*" for i in range(65))):
        with pytest.raises(BadRequest, match="1 to 64 patterns"):
            binding_keys(patterns, "ann")


def test_derived_ids_follow_from_the_whole_path() -> None:
    one = derived_id("r-1.completed", "thumbnails", "0")
    assert one == "dc2c5e024ea2513f9f3e6ad1687c59c5"  # a promise: steps that were begun by an older version go on
    assert uuid.UUID(one).version == 5
    paths = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""), ("", "abc"), ("1:a", "2:b"), ("1:a2:b",)]
    assert len({derived_id(*each) for each in paths}) == len(paths)
    assert derived_id("r-1.completed", "thumbnails", "0") == one
