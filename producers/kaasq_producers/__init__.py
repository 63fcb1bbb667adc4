"""The producer's side: a client that publishes graphs, awaits their results and reads and writes the buffer store."""

from kaasq.messages import Stored
from kaasq_producers.async_client import AsyncClient
from kaasq_producers.client import Client
from kaasq_producers.completions import Completion
from kaasq_producers.events.event import Event
from kaasq_producers.events.program import serve
from kaasq_producers.events.retrying import Retries
from kaasq_producers.events.service import Service, on
from kaasq_producers.events.step import AsyncStep, Step
from kaasq_producers.flows.result import FlowResult
from kaasq_producers.flows.run import AsyncRun, Run
from kaasq_producers.flows.workflow import Workflow
from kaasq_producers.references import BufferRef, Keep
from kaasq_producers.result import Result
from kaasq_producers.then import Output, Then, repeat

__all__ = [
    "AsyncClient",
    "AsyncRun",
    "AsyncStep",
    "BufferRef",
    "Client",
    "Completion",
    "Event",
    "FlowResult",
    "Keep",
    "Output",
    "Result",
    "Retries",
    "Run",
    "Service",
    "Step",
    "Stored",
    "Then",
    "Workflow",
    "on",
    "repeat",
    "serve",
]
