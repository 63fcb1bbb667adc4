"""What a queue of kaasq's on somebody's broker is like."""

from __future__ import annotations

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from kaasq.rabbit.errors import PRECONDITION_FAILED
from kaasq.topology import QueueType, pool_topology, work_queue

TYPES: tuple[QueueType, ...] = ("quorum", "classic")


def queue_type_of(url: str, pool: str) -> QueueType | None:
    """The type of a served pool's queue; None where the broker does not tell this user.

    AMQP has no question for it, but refuses a declaration that differs from what is there.
    """
    try:
        connection = pika.BlockingConnection(pika.URLParameters(url))
    except (AMQPError, OSError):
        return None
    try:
        for kind in TYPES:
            wanted = next(each for each in pool_topology(pool, "none", kind).queues if each.name == work_queue(pool))
            try:
                connection.channel().queue_declare(wanted.name, durable=True, arguments=dict(wanted.arguments))
            except ChannelClosedByBroker as error:
                if error.reply_code != PRECONDITION_FAILED:
                    return None
            else:
                return kind
        return None
    except (AMQPError, OSError):
        return None
    finally:
        if connection.is_open:
            connection.close()
