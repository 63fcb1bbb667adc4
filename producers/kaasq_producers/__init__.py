"""The producer's side: a client that publishes graphs, awaits their results and reads and writes the buffer store."""

from kaasq.messages import Stored
from kaasq_producers.async_client import AsyncClient
from kaasq_producers.client import Client
from kaasq_producers.completions import Completion
from kaasq_producers.references import BufferRef, Keep
from kaasq_producers.result import Result

__all__ = ["AsyncClient", "BufferRef", "Client", "Completion", "Keep", "Result", "Stored"]
