"""Messages as AMQP properties and back, whoever sent them."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties
from pika.frame import Header

from kaasq.broker import Message
from kaasq.errors import BrokerRefused
from kaasq.memory.frames import header_frame_bytes
from kaasq.rabbit.properties import to_message, to_properties

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.just(Decimal("1.5"))
    | st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
TEXTS = st.none() | st.text(max_size=60)
MESSAGES = st.builds(
    Message,
    body=st.just(b""),
    content_type=TEXTS,
    message_id=TEXTS,
    correlation_id=TEXTS,
    user_id=TEXTS,
    reply_to=TEXTS,
    priority=st.none() | st.integers(0, 255),
    expiration_ms=st.none() | st.integers(0, 2**32 - 1),
    timestamp_ms=st.none() | st.integers(2**40, 2**53 - 1),
    type=TEXTS,
    headers=st.dictionaries(st.text(max_size=5), VALUES, max_size=4),
    persistent=st.booleans(),
)


@given(MESSAGES)
def test_the_memory_broker_counts_the_bytes_that_pika_sends(message: Message) -> None:
    assert header_frame_bytes(message) == len(Header(1, 0, to_properties(message)).marshal())


def test_the_negotiated_size_of_a_frame_counts() -> None:
    message = Message(body=b"", headers={"small": 1, "large": "x" * 5000})
    to_properties(message, 8192).encode()
    with pytest.raises(BrokerRefused, match="of 2 headers the largest is 'large'") as caught:
        to_properties(message, 4096).encode()
    assert caught.value.limit == 4096
    assert caught.value.size == len(Header(1, 0, to_properties(message)).marshal())


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"timestamp": 2**62}, None),
        ({"timestamp": 2**64 - 1}, None),
        ({"timestamp": 7}, 7000),
        ({"timestamp": 2**62, "headers": {"timestamp_in_ms": 7}}, 7),
        ({"timestamp": 7, "headers": {"timestamp_in_ms": -(2**63)}}, 7000),
        ({"headers": {"timestamp_in_ms": -(2**63)}}, None),
        ({"headers": {"timestamp_in_ms": -1}}, None),
        ({"headers": {"timestamp_in_ms": 2**53}}, None),
        ({"headers": {"timestamp_in_ms": 2**53 - 1}}, 2**53 - 1),
        ({"headers": {"timestamp_in_ms": True}}, None),
        ({"headers": {"timestamp_in_ms": "7"}}, None),
        ({"headers": {"timestamp_in_ms": {"a": 1}}}, None),
    ],
)
def test_only_times_that_can_be_are_believed(properties: dict[str, Any], expected: int | None) -> None:
    message = to_message(decoded(BasicProperties(**properties)), b"")
    assert message.timestamp_ms == expected
    assert msgspec.msgpack.encode(message.timestamp_ms)
    assert not message.headers


@pytest.mark.parametrize(
    ("expiration", "expected"),
    [("0", 0), ("4294967295", 2**32 - 1), ("4294967296", None), ("9" * 200, None), ("-1", None), ("x", None),
     (b"\xff", None), (b"7\xff", None)],
)  # fmt: skip
def test_only_expirations_that_can_be_are_believed(expiration: str | bytes, expected: int | None) -> None:
    assert to_message(decoded(BasicProperties(expiration=expiration)), b"").expiration_ms == expected  # type: ignore[arg-type]


def test_what_is_no_text_is_passed_over() -> None:
    names = ("content_type", "message_id", "correlation_id", "user_id", "reply_to", "type")
    message = to_message(decoded(BasicProperties(**dict.fromkeys(names, b"\xff\xfe"))), b"")  # type: ignore[arg-type]
    assert [getattr(message, name) for name in names] == [None] * 6


def decoded(properties: BasicProperties) -> BasicProperties:
    """As it arrives."""
    arrived = BasicProperties()
    arrived.decode(b"".join(properties.encode()))
    return arrived
