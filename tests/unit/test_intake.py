"""What the front accepts, judged by the properties alone."""

import pytest

from kaasq.broker import Message
from kaasq_workers.front.intake import Accepted, Address, Refused, examine

DIRECT = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA0MDgyMjYyOAAAAy8AAAAAawgeGg==.HL7HC5s/CvfarEFKwagXrA=="


def message(**changes) -> Message:
    return Message(**{"body": b"", "message_id": "id-1", "user_id": "guest", "reply_to": "abc", **changes})


def test_the_reply_goes_to_the_tenants_own_key_whatever_the_request_names():
    accepted = examine(message())
    assert accepted == Accepted("guest", "id-1", "id-1", Address("kaasq.replies", "guest.abc"))


def test_direct_reply_to_goes_over_the_default_exchange():
    accepted = examine(message(reply_to=DIRECT, correlation_id="c"))
    assert accepted == Accepted("guest", "id-1", "c", Address("", DIRECT))


def test_a_request_without_reply_to_is_accepted_for_its_event():
    accepted = examine(message(reply_to=None))
    assert isinstance(accepted, Accepted)
    assert accepted.reply is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"user_id": None}, "forbidden"),
        ({"user_id": "Guest"}, "forbidden"),
        ({"user_id": "a.b"}, "forbidden"),
        ({"user_id": "x" * 65}, "forbidden"),
        ({"reply_to": "other.queue"}, "forbidden"),
        ({"reply_to": "#"}, "forbidden"),
        ({"reply_to": "amq.rabbitmq.reply-to"}, "forbidden"),
        ({"reply_to": "amq.rabbitmq.reply-to.nonsense"}, "forbidden"),
        ({"reply_to": "amq.rabbitmq.reply-to.a.b"}, "forbidden"),
        ({"reply_to": f"{DIRECT}.x"}, "forbidden"),
        ({"reply_to": DIRECT.rstrip("=")}, "forbidden"),
        ({"reply_to": f"{DIRECT}\n"}, "forbidden"),
        ({"message_id": None}, "bad_request"),
        ({"message_id": "x" * 129}, "bad_request"),
    ],
)
def test_what_is_refused_says_why(changes, code):
    refused = examine(message(**changes))
    assert isinstance(refused, Refused)
    assert refused.error.code == code


def test_a_refused_request_is_told_only_where_the_address_can_be_trusted():
    assert examine(message(user_id=None)).reply is None
    assert examine(message(user_id=None, reply_to=DIRECT)).reply == Address("", DIRECT)
    assert examine(message(message_id=None)).reply == Address("kaasq.replies", "guest.abc")
