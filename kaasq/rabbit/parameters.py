"""A broker URL as connection parameters."""

from __future__ import annotations

import logging
from urllib.parse import parse_qsl, urlencode

import pika

from kaasq.broker_url import malformed, split_broker_url
from kaasq.errors import BrokerRefused
from kaasq.rabbit import tls
from kaasq.rabbit.errors import Where

HEARTBEAT_S = 60
CONNECT_TIMEOUT_S = 5
HANDSHAKE_TIMEOUT_S = 10
BLOCKED_TIMEOUT_S = 600


def connection_parameters(url: str, *, connection_name: str) -> tuple[pika.URLParameters, Where]:
    """Parameters for ``amqp://user:password@host:port/vhost`` or ``amqps://...``; what its query says goes first.

    ``cacertfile``, ``certfile`` and ``keyfile`` there are for TLS, as in RabbitMQ's own URI format. Raises
    BrokerRefused for what is no such URL, and for files that cannot be used.
    """
    parts = split_broker_url(url)
    try:
        files = {key: value for key, value in parse_qsl(parts.query) if key in {tls.CA, tls.CERT, tls.KEY}}
        rest = [each for each in parse_qsl(parts.query) if each[0] not in files]
        parameters = pika.URLParameters(parts._replace(query=urlencode(rest)).geturl())
    except (ValueError, TypeError, OSError) as error:
        # Never the URL itself: it has a password in it. TypeError is pika's for a user without a password.
        raise malformed("a user needs a password" if isinstance(error, TypeError) else str(error)) from None
    if files and parts.scheme != "amqps":
        raise BrokerRefused(
            "broker_ca, broker_cert and broker_key are for TLS: start the broker URL with amqps:// then"
        )
    given = dict(rest)
    if parts.scheme == "amqps" and "ssl_options" not in given:
        parameters.ssl_options = pika.SSLOptions(tls.context(files), parameters.host)
    if "heartbeat" not in given:
        parameters.heartbeat = HEARTBEAT_S
    if "blocked_connection_timeout" not in given:
        parameters.blocked_connection_timeout = BLOCKED_TIMEOUT_S  # pika's own default is to wait for ever
    if "socket_timeout" not in given:
        parameters.socket_timeout = CONNECT_TIMEOUT_S
    if "stack_timeout" not in given:
        parameters.stack_timeout = HANDSHAKE_TIMEOUT_S
    parameters.client_properties = {**(parameters.client_properties or {}), "connection_name": connection_name}
    user = parameters.credentials.username if isinstance(parameters.credentials, pika.PlainCredentials) else ""
    return parameters, Where(parameters.host, parameters.port, parameters.virtual_host, user, parts.scheme == "amqps")


def quieten_pika() -> None:
    """Keep pika from telling in its own words, with tracebacks, what kaasq tells in its own. A level that the
    program has set stays.
    """
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
