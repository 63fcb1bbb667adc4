"""RabbitMQ as kaasq's broker. The only package that imports pika."""

from kaasq.rabbit.broker import RabbitBroker
from kaasq.rabbit.direct import DirectLimits
from kaasq.rabbit.publishing import PublishLimits

__all__ = ["DirectLimits", "PublishLimits", "RabbitBroker"]
