"""The broker without a broker: the sibling of kaasq.rabbit for kaasq.local and for testing services that use kaasq."""

from kaasq.memory.broker import MemoryBroker
from kaasq.memory.node import MemoryNode

__all__ = ["MemoryBroker", "MemoryNode"]
