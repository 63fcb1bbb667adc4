"""Whether a broker truly serves."""

from __future__ import annotations

from typing import Any

import pika
from pika.exceptions import AMQPError


def probe(url: str, *, declare: bool = True) -> str:
    """Open a connection and a channel, declare a queue: the version of a broker that truly serves.

    Not every user may declare any queue.

    Raises ConnectionError where it does not.
    """
    parameters = pika.URLParameters(url)
    parameters.socket_timeout = 5.0
    parameters.blocked_connection_timeout = 5.0
    parameters.connection_attempts = 1
    try:
        connection: Any = pika.BlockingConnection(parameters)  # Any: it shows the server's properties to nobody
        try:
            if declare:
                connection.channel().queue_declare("", exclusive=True)
            properties = connection._impl.server_properties or {}
            version = properties.get("version", "?")
        finally:
            connection.close()
    except (AMQPError, OSError) as error:
        raise ConnectionError(f"no RabbitMQ serves there: {error!r}") from error
    return version.decode() if isinstance(version, bytes) else str(version)
