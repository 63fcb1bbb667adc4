"""RabbitMQ as kaasq's broker. The only package that imports pika."""

from kaasq.rabbit.broker import RabbitBroker
from kaasq.rabbit.publishing import Limits

__all__ = ["Limits", "RabbitBroker"]
