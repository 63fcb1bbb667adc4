"""RabbitMQ as kaasq's broker. The only package that imports pika."""

from kaasq.rabbit.broker import RabbitBroker
from kaasq.rabbit.publishing import PublishLimits

__all__ = ["PublishLimits", "RabbitBroker"]
