"""pika's errors, and the broker's words, as kaasq's errors. The only place that does."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pika import exceptions as pika_errors
from pika.adapters.utils import connection_workflow as workflow

from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, Unroutable
from kaasq.rabbit import tls

ENCODING_ERRORS = (
    pika_errors.AMQPError,
    ValueError,
    TypeError,
    AttributeError,  # a header's name that is no text
    ArithmeticError,  # decimals; OverflowError
    RecursionError,
    AssertionError,
    struct.error,
)
"""What pika raises for a message that it cannot encode; nothing has been sent then."""

ACCESS_REFUSED = 403
NOT_FOUND = 404
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
NOT_ALLOWED = 530

_OS_ERROR = re.compile(r"\w+\((?:\d+, )?['\"](.+)['\"]\)$")
_SIZE = re.compile(r"message size (\d+) is larger than .*?max(?:imum)? size (\d+)")
_EXCHANGE = re.compile(r"exchange '([^']*)'")
_TOPIC = re.compile(r"topic '([^']*)'")

# Most specific classes first; whatever is not listed here or below means that the connection is no good any more.
_REFUSALS: tuple[type[Exception], ...] = (
    pika_errors.AuthenticationError,
    pika_errors.ProbableAuthenticationError,
    pika_errors.ProbableAccessDeniedError,
    pika_errors.NoFreeChannels,
    pika_errors.ProtocolVersionMismatch,
    pika_errors.InvalidChannelNumber,
    pika_errors.MethodNotImplemented,
    pika_errors.NackError,
    pika_errors.DuplicateConsumerTag,
    pika_errors.DuplicateGetOkCallback,
    pika_errors.ReentrancyError,
    pika_errors.ShortStringTooLong,
    pika_errors.UnsupportedAMQPFieldException,
    ssl.SSLError,
)


@dataclass(frozen=True)
class Where:
    """Which broker, for messages: never with the password."""

    host: str
    port: int
    vhost: str
    user: str
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what pika wrapped in it, outermost first."""
    yield error
    if isinstance(error, workflow.AMQPConnectionWorkflowFailed) and error.exceptions:
        yield from causes(error.exceptions[-1])
    elif isinstance(error, workflow.AMQPConnectorPhaseErrorBase):
        yield from causes(error.exception)
    elif type(error) is pika_errors.AMQPConnectionError and error.args and isinstance(error.args[0], Exception):
        yield from causes(error.args[0])


def connection_error(error: BaseException, where: Where) -> KaasqError:
    """Why there is no connection (any more)."""
    inner = list(causes(error))[-1]
    fields = {"host": where.host, "port": where.port}
    match inner:
        case pika_errors.ProbableAuthenticationError() | pika_errors.AuthenticationError():
            hint = " (a new RabbitMQ lets guest in from its own machine only)" if where.user == "guest" else ""
            return BrokerRefused(
                f"RabbitMQ at {where} refuses user {where.user!r} for virtual host {where.vhost!r}: "
                f"wrong name or password{hint}",
                user=where.user,
                vhost=where.vhost,
                **fields,
            )
        case pika_errors.ProbableAccessDeniedError() if "is down" in _text(inner):
            return BrokerLost(f"RabbitMQ at {where} is still starting virtual host {where.vhost!r}", **fields)
        case pika_errors.ProbableAccessDeniedError():
            return BrokerRefused(
                f"RabbitMQ at {where} knows user {where.user!r} but has no virtual host {where.vhost!r} for it: "
                f"create it (rabbitmqctl add_vhost) or grant access (rabbitmqctl set_permissions)",
                user=where.user,
                vhost=where.vhost,
                **fields,
            )
        case ssl.SSLError():
            return BrokerRefused(f"no TLS with {where}: {tls.explain(inner)}", **fields)
        case pika_errors.IncompatibleProtocolError() if meaning := tls.alert(_text(inner)):
            return BrokerRefused(f"no TLS with {where}: {meaning}", **fields)
        case pika_errors.IncompatibleProtocolError() if where.tls:  # its alert may be lost as it hangs up
            return BrokerLost(
                f"{where} hangs up after TLS was agreed on: does it ask for a client's certificate that it knows the "
                f"authority of (broker_cert, broker_key), and has RabbitMQ finished starting?",
                **fields,
            )
        case pika_errors.IncompatibleProtocolError():
            return BrokerLost(
                f"{where} accepts connections but hangs up on AMQP: is it RabbitMQ's AMQP port (5672; 5671 needs "
                f"amqps://), and has RabbitMQ finished starting?",
                **fields,
            )
        case socket.gaierror():
            return BrokerLost(f"the name {where.host!r} cannot be resolved: {_text(inner)}", **fields)
        case ConnectionRefusedError():
            return BrokerLost(f"nobody listens at {where}: start RabbitMQ there, or correct the broker URL", **fields)
        case OSError() | workflow.AMQPConnectorException():
            return BrokerLost(f"no answer from RabbitMQ at {where}: {_text(inner)}", **fields)
        case pika_errors.ConnectionClosedByBroker() if inner.reply_code in {ACCESS_REFUSED, NOT_ALLOWED}:
            return BrokerRefused(f"RabbitMQ at {where} closed the connection: {inner.reply_text}", **fields)
        case pika_errors.StreamLostError():
            return BrokerLost(f"the connection to RabbitMQ at {where} was lost: {_loss(inner)}", **fields)
        case pika_errors.ConnectionClosed():
            told = f"the connection to RabbitMQ at {where} was closed: {inner.reply_text}"
            return BrokerLost(told, reply_code=inner.reply_code, **fields)
        case _:
            return translate(inner, f"RabbitMQ at {where}")


def translate(error: BaseException, what: str) -> KaasqError:
    """Any error of pika's as one of ours; ``what`` it befell."""
    if isinstance(error, KaasqError):
        return error
    if isinstance(error, pika_errors.UnroutableError):
        return Unroutable(f"{what}: no queue takes it")
    if isinstance(error, pika_errors.ChannelClosedByBroker):
        return BrokerRefused(f"{what}: {error.reply_text}", reply_code=error.reply_code)
    if isinstance(error, _REFUSALS) or (isinstance(error, ENCODING_ERRORS) and not _is_amqp(error)):
        return BrokerRefused(f"{what}: {_text(error)}")
    return BrokerLost(f"{what}: {_text(error)}")


def reply_code(error: BaseException) -> int:
    """The code with which the broker closed a channel, or 0 if it did not."""
    return int(error.reply_code) if isinstance(error, pika_errors.ChannelClosedByBroker) else 0


def reply_text(error: BaseException) -> str:
    """The broker's own words."""
    return str(error.reply_text) if isinstance(error, pika_errors.ChannelClosedByBroker) else _text(error)


@dataclass(frozen=True)
class Culprit:
    """What a closed channel says about the publish that closed it; None: it does not say."""

    exchange: str | None = None
    routing_key: str | None = None
    size: int | None = None
    max_size: int | None = None
    forged: bool = False
    """It was published for another user than the connection's."""

    def fits(self, exchange: str, routing_key: str, size: int) -> bool:
        """Whether such a publish may have been it."""
        if self.exchange is None and self.size is None:
            return False
        return (
            self.exchange in {None, exchange} and self.routing_key in {None, routing_key} and self.size in {None, size}
        )


def culprit(error: BaseException) -> Culprit:
    """What the broker says about the publish that made it close the channel."""
    text = reply_text(error)
    if "user_id property set to" in text:
        return Culprit(forged=True)
    if size := _SIZE.search(text):
        return Culprit(size=int(size[1]), max_size=int(size[2]))
    exchange, topic = _EXCHANGE.search(text), _TOPIC.search(text)
    name = None if exchange is None else exchange[1].replace("amq.default", "")
    return Culprit(exchange=name, routing_key=topic[1] if topic else None)


def _is_amqp(error: BaseException) -> bool:
    return isinstance(error, pika_errors.AMQPError)


def _loss(error: BaseException) -> str:
    """What became of the stream; pika puts the repr() of an error into the text of its own."""
    text = str(error)
    if "Transport indicated EOF" in text:
        return "it hung up"
    return found[1] if (found := _OS_ERROR.search(text)) else text.removeprefix("Stream connection lost: ")


def _text(error: BaseException) -> str:
    if _is_amqp(error):  # not repr(): some of pika's raise, depending on the arguments
        return f"{type(error).__name__}: {', '.join(map(str, error.args))}".rstrip(": ")
    return str(error) or type(error).__name__
