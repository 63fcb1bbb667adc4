"""pika's errors and the broker's words, as kaasq's errors."""

from __future__ import annotations

import inspect
import socket
import ssl
from typing import Any

import pytest
from pika import exceptions
from pika.adapters.utils import connection_workflow as workflow

from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, Unroutable
from kaasq.rabbit.errors import ENCODING_ERRORS, Culprit, Where, connection_error, culprit, translate

WHERE = Where(host="mq.example", port=5672, vhost="/team", user="ann")

# What each class means to a user. A class that pika adds makes the test below fail until somebody decides.
MEANING: dict[str, type[KaasqError]] = {
    "AMQPError": BrokerLost,
    "AMQPConnectionError": BrokerLost,
    "AMQPChannelError": BrokerLost,
    "AMQPHeartbeatTimeout": BrokerLost,
    "AuthenticationError": BrokerRefused,
    "BodyTooLongError": BrokerLost,
    "ChannelClosed": BrokerLost,
    "ChannelClosedByBroker": BrokerRefused,
    "ChannelClosedByClient": BrokerLost,
    "ChannelError": BrokerLost,
    "ChannelWrongStateError": BrokerLost,
    "ConnectionBlockedTimeout": BrokerLost,
    "ConnectionClosed": BrokerLost,
    "ConnectionClosedByBroker": BrokerLost,
    "ConnectionClosedByClient": BrokerLost,
    "ConnectionOpenAborted": BrokerLost,
    "ConnectionWrongStateError": BrokerLost,
    "ConsumerCancelled": BrokerLost,
    "DuplicateConsumerTag": BrokerRefused,
    "DuplicateGetOkCallback": BrokerRefused,
    "IncompatibleProtocolError": BrokerLost,
    "InvalidChannelNumber": BrokerRefused,
    "InvalidFieldTypeException": BrokerLost,
    "InvalidFrameError": BrokerLost,
    "MethodNotImplemented": BrokerRefused,
    "NackError": BrokerRefused,
    "NoFreeChannels": BrokerRefused,
    "ProbableAccessDeniedError": BrokerRefused,
    "ProbableAuthenticationError": BrokerRefused,
    "ProtocolSyntaxError": BrokerLost,
    "ProtocolVersionMismatch": BrokerRefused,
    "ReentrancyError": BrokerRefused,
    "ShortStringTooLong": BrokerRefused,
    "StreamLostError": BrokerLost,
    "UnexpectedFrameError": BrokerLost,
    "UnroutableError": Unroutable,
    "UnsupportedAMQPFieldException": BrokerRefused,
}

PIKA = dict(inspect.getmembers(exceptions, lambda each: inspect.isclass(each) and issubclass(each, Exception)))


def make(kind: type[Exception]) -> Exception:
    needed = [each for each in inspect.signature(kind.__init__).parameters.values() if each.name != "self"]
    if any(each.name == "messages" for each in needed):
        return kind([])
    if any(each.name == "reply_code" for each in needed):
        return kind(406, "PRECONDITION_FAILED - because")
    return kind("one", "two")


def test_every_class_of_pikas_has_a_meaning() -> None:
    assert set(PIKA) == set(MEANING)


@pytest.mark.parametrize("name", sorted(MEANING))
def test_each_is_translated_to_it(name: str) -> None:
    error = make(PIKA[name])
    assert type(translate(error, "publishing")) is MEANING[name]
    assert "publishing" in translate(error, "publishing").message
    told = connection_error(error, WHERE)
    assert isinstance(told, KaasqError)
    assert "mq.example" in str(told)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (exceptions.ProbableAuthenticationError("x"), BrokerRefused, "user 'ann' for virtual host '/team'"),
        (exceptions.ProbableAccessDeniedError("x"), BrokerRefused, "no virtual host '/team'"),
        (exceptions.ProbableAccessDeniedError("vhost '/team' is down"), BrokerLost, "still starting"),
        (ConnectionRefusedError(111, "refused"), BrokerLost, "nobody listens at mq.example:5672"),
        (socket.gaierror(-2, "unknown"), BrokerLost, "'mq.example' cannot be resolved"),
        (ssl.SSLCertVerificationError("bad certificate"), BrokerRefused, "no TLS with mq.example:5672"),
        (TimeoutError("timed out"), BrokerLost, "no answer"),
        (exceptions.StreamLostError("Transport indicated EOF"), BrokerLost, "was lost: it hung up"),
        (
            exceptions.StreamLostError(f"Stream connection lost: {ConnectionResetError(104, 'reset by peer')!r}"),
            BrokerLost,
            "mq.example:5672 was lost: reset by peer",
        ),
        (exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED"), BrokerLost, "CONNECTION_FORCED"),
        (exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED"), BrokerRefused, "NOT_ALLOWED"),
    ],
)
def test_a_connection_error_says_which_broker_and_why(error: Exception, kind: type[KaasqError], words: str) -> None:
    wrapped = workflow.AMQPConnectionWorkflowFailed([workflow.AMQPConnectorSocketConnectError(error)])
    for each in (error, wrapped, exceptions.AMQPConnectionError(wrapped)):
        told = connection_error(each, WHERE)
        assert type(told) is kind
        assert words in str(told)


def test_a_connection_that_the_broker_closed_has_its_code() -> None:
    error = connection_error(exceptions.ConnectionClosedByBroker(541, "INTERNAL_ERROR"), WHERE)
    assert error.detail["reply_code"] == 541


@pytest.mark.parametrize("error", [RecursionError("too deep"), OverflowError("too large"), AttributeError("no text")])
def test_what_cannot_be_encoded_is_refused(error: Exception) -> None:
    assert isinstance(error, ENCODING_ERRORS)
    assert type(translate(error, "the message cannot be sent")) is BrokerRefused


def test_our_own_errors_stay() -> None:
    error = Unroutable("x")
    assert translate(error, "anything") is error


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NOT_FOUND - no exchange 'x' in vhost '/'", Culprit(exchange="x")),
        ("ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'a'", Culprit(exchange="")),
        (
            "ACCESS_REFUSED - write access to topic 'k.1' in exchange 'x' in vhost '/' refused for user 'a'",
            Culprit(exchange="x", routing_key="k.1"),
        ),
        (
            "PRECONDITION_FAILED - message size 134217729 is larger than configured max size 134217728",
            Culprit(size=134217729, max_size=134217728),
        ),
        ("INTERNAL_ERROR", Culprit()),
    ],
)
def test_a_closed_channel_names_its_culprit(text: str, found: Culprit) -> None:
    assert culprit(exceptions.ChannelClosedByBroker(406, text)) == found


def test_nobody_is_blamed_without_evidence() -> None:
    cases: list[tuple[Culprit, tuple[Any, ...], bool]] = [
        (Culprit(), ("x", "k", 1), False),
        (Culprit(exchange="x"), ("x", "k", 1), True),
        (Culprit(exchange="x"), ("y", "k", 1), False),
        (Culprit(exchange="x", routing_key="k"), ("x", "other", 1), False),
        (Culprit(size=7, max_size=6), ("x", "k", 7), True),
        (Culprit(size=7, max_size=6), ("x", "k", 6), False),
    ]
    for blame, publish, expected in cases:
        assert blame.fits(*publish) is expected
