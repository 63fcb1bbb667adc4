"""Properties and frames written and read by hand, held against pika's."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from kaasq.broker import Message
from kaasq.errors import BrokerRefused
from kaasq.rabbit.encoding import decode_properties, encode_properties
from kaasq.rabbit.lanes import BODY, HEADER, METHOD, Delivered, Lane, Returned
from kaasq.rabbit.properties import FRAME_MAX_BYTES, to_message, to_properties
from tests.support.odd_properties import ODD, OddProperties, header
from tests.unit.test_rabbit_properties import MESSAGES

FRAME_MAX = 4096


@given(MESSAGES)
def test_properties_have_the_bytes_that_pika_gives_them(message: Message) -> None:
    assert encode_properties(message, FRAME_MAX_BYTES) == b"".join(to_properties(message).encode())


@given(MESSAGES)
def test_properties_are_read_as_pika_reads_them(message: Message) -> None:
    encoded = b"".join(to_properties(message).encode())
    theirs = BasicProperties()
    theirs.decode(encoded)
    assert decode_properties(encoded, b"x") == to_message(theirs, b"x")


@given(st.binary(max_size=80))
def test_whatever_arrives_is_a_message(encoded: bytes) -> None:
    assert decode_properties(encoded, b"body").body == b"body"


@given(st.integers(0, 2**16 - 1), st.binary(max_size=60))
def test_what_pika_can_read_is_read_the_same(flags: int, rest: bytes) -> None:
    encoded = struct.pack(">H", flags) + rest
    theirs = BasicProperties()
    try:
        theirs.decode(encoded)
    except Exception:  # noqa: BLE001  # it raises this and that
        return
    assert decode_properties(encoded, b"") == to_message(theirs, b"")


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_a_header_that_nobody_can_read_costs_that_header_alone(odd: bytes) -> None:
    sent = OddProperties(
        header(b"I", b"\x00\x00\x00\x07", b"before") + odd + header(b"t", b"\x01", b"after"),
        message_id="m",
        user_id="ann",
        content_encoding="gzip",
        app_id="a",
    )
    read = decode_properties(b"".join(sent.encode()), b"x")
    assert (read.message_id, read.user_id) == ("m", "ann")
    assert (read.headers["before"], read.headers["after"]) == (7, True)
    assert all(isinstance(name, str) for name in read.headers)
    json.dumps(read.headers, default=str)  # whoever goes through them comes to an end


def test_headers_of_an_unknown_kind_end_those_that_can_be_read() -> None:
    sent = OddProperties(header(b"I", b"\x00\x00\x00\x07", b"before") + header(b"?", b"??"), message_id="m")
    read = decode_properties(b"".join(sent.encode()), b"x")
    assert (read.message_id, read.headers) == ("m", {"before": 7})


@pytest.mark.parametrize(
    "message",
    [
        Message(body=b"", headers={"x": "y" * FRAME_MAX}),
        Message(body=b"", headers={f"h{n}": "y" * 200 for n in range(20)}),
    ],
)
def test_properties_beyond_a_frame_are_refused(message: Message) -> None:
    with pytest.raises(BrokerRefused):
        encode_properties(message, FRAME_MAX)


class Out:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def frames(data: bytes) -> list[Any]:
    """What pika reads there."""
    found = []
    while data:
        size, one = frame.decode_frame(data)
        assert one is not None
        found.append(one)
        data = data[size:]
    return found


@pytest.mark.parametrize("size", [0, 1, FRAME_MAX - 8, FRAME_MAX - 7, 3 * FRAME_MAX])
@pytest.mark.parametrize("mandatory", [True, False])
def test_a_publish_is_what_pika_would_send(size: int, mandatory: bool) -> None:
    out = Out()
    body = bytes(range(256)) * (size // 256 + 1)
    message = Message(body=body[:size], message_id="m", headers={"a": 1}, timestamp_ms=1_777_777_777_123)
    Lane(out, 7, FRAME_MAX).publish(message, "exchange", "a.b.c", mandatory=mandatory)
    method, header, *bodies = frames(out.data)
    assert {each.channel_number for each in (method, header, *bodies)} == {7}
    assert (method.method.exchange, method.method.routing_key) == ("exchange", "a.b.c")
    assert (bool(method.method.mandatory), bool(method.method.immediate)) == (mandatory, False)
    assert header.body_size == size
    assert header.properties.headers == {"a": 1, "timestamp_in_ms": 1_777_777_777_123}
    assert b"".join(each.fragment for each in bodies) == message.body
    assert all(len(each.marshal()) <= FRAME_MAX for each in bodies)


@pytest.mark.parametrize("name", ["x" * 256, "\udc80", None])
def test_what_cannot_be_sent_leaves_nothing_behind(name: Any) -> None:
    out = Out()
    with pytest.raises((ValueError, AttributeError)):
        Lane(out, 1, FRAME_MAX).publish(Message(body=b""), "", name, mandatory=False)
    assert not out.data


def test_settling_is_what_pika_would_send() -> None:
    out = Out()
    lane = Lane(out, 3, FRAME_MAX)
    lane.ack(2**40)
    lane.requeue(1)
    lane.reject(2)
    ack, requeue, reject = (each.method for each in frames(out.data))
    assert (type(ack), ack.delivery_tag, ack.multiple) == (spec.Basic.Ack, 2**40, False)
    assert (type(requeue), requeue.delivery_tag, requeue.requeue) == (spec.Basic.Reject, 1, True)
    assert (type(reject), reject.delivery_tag, reject.requeue) == (spec.Basic.Reject, 2, False)


def feed(lane: Lane, *sent: frame.Frame) -> list[frame.Frame]:
    """Give them to the lane; those that are not its own."""
    others = []
    for each in sent:
        data = bytearray(each.marshal())
        if lane.is_for(data[0], data, 7):
            lane.take(data[0], memoryview(data)[7:-1])
        else:
            others.append(each)
    return others


def content(method: Any, body: bytes, piece: int = 1000, **properties: Any) -> list[frame.Frame]:
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
    header = frame.Header(1, len(body), BasicProperties(**properties))
    return [frame.Method(1, method), header, *(frame.Body(1, each) for each in pieces)]


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 2500])
def test_a_delivery_is_put_together_from_its_frames(size: int) -> None:
    taken: list[Delivered] = []
    lane = Lane(Out(), 1, FRAME_MAX, on_delivered=lambda _, delivered: taken.append(delivered))
    body = b"x" * size
    method = spec.Basic.Deliver("ctag", 2**40, True, "exchange", "a.b")
    assert feed(lane, *content(method, body, message_id="m"), *content(method, b"next")) == []
    message = Message(body=body, message_id="m", persistent=False)
    assert taken == [
        Delivered(2**40, True, "exchange", "a.b", message),
        Delivered(2**40, True, "exchange", "a.b", Message(body=b"next", persistent=False)),
    ]


def test_a_return_says_where_it_was_to_go() -> None:
    returned: list[Returned] = []
    lane = Lane(Out(), 1, FRAME_MAX, on_returned=returned.append)
    assert feed(lane, *content(spec.Basic.Return(312, "NO_ROUTE", "exchange", "a.b"), b"body")) == []
    assert returned == [Returned("exchange", "a.b", Message(body=b"body", persistent=False))]


def test_confirms_are_told_with_their_kind() -> None:
    told: list[tuple[int, bool, bool]] = []
    lane = Lane(Out(), 1, FRAME_MAX, on_confirm=lambda *each: told.append(each))
    acks = (spec.Basic.Ack(1), spec.Basic.Ack(2**40, True), spec.Basic.Nack(3, False, True), spec.Basic.Nack(4, True))
    assert feed(lane, *(frame.Method(1, each) for each in acks)) == []
    assert told == [(1, False, False), (2**40, True, False), (3, False, True), (4, True, True)]


def test_what_else_a_channel_has_is_pikas() -> None:
    taken: list[Delivered] = []
    lane = Lane(Out(), 1, FRAME_MAX, on_delivered=lambda _, delivered: taken.append(delivered))
    close = frame.Method(1, spec.Channel.Close(404, "x", 0, 0))
    consumed = frame.Method(1, spec.Basic.ConsumeOk("ctag"))
    stray = [frame.Header(1, 0, BasicProperties()), frame.Body(1, b"x")]
    assert feed(lane, close, consumed, *stray) == [close, consumed, *stray]
    deliver, header, *bodies = content(spec.Basic.Deliver("ctag", 1, False, "", "q"), b"12", piece=1)
    assert feed(lane, deliver, header, bodies[0], close, bodies[1]) == [close]
    assert [each.message.body for each in taken] == [b"12"]
    assert (METHOD, HEADER, BODY) == (spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY)
