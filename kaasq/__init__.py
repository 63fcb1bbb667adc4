"""Kernel-as-a-Service over RabbitMQ: publish graphs of GPU kernels, await their results."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kaasq.errors import (
    BadArguments,
    BadRequest,
    BrokerLost,
    BrokerRefused,
    BufferMissing,
    BufferSize,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    DeviceUnavailable,
    Forbidden,
    KaasqError,
    KernelFailed,
    ModuleRejected,
    NameNotFound,
    NotReached,
    OutOfMemory,
    QuotaExceeded,
    ReplyTimeout,
    SlotTaken,
    StoreFull,
    StoreUnavailable,
    UnknownGraph,
    Unroutable,
    WorkerFailed,
)

if TYPE_CHECKING:
    from kaasq import kaas as kaas
    from kaasq.embedded import local as local
    from kaasq.embedded import local_async as local_async
    from kaasq.graph import Graph as Graph
    from kaasq.messages import Stored as Stored
    from kaasq.model import Module as Module
    from kaasq_producers import AsyncClient as AsyncClient
    from kaasq_producers import AsyncRun as AsyncRun
    from kaasq_producers import AsyncStep as AsyncStep
    from kaasq_producers import BufferRef as BufferRef
    from kaasq_producers import Client as Client
    from kaasq_producers import Completion as Completion
    from kaasq_producers import Event as Event
    from kaasq_producers import FlowResult as FlowResult
    from kaasq_producers import Keep as Keep
    from kaasq_producers import Output as Output
    from kaasq_producers import Result as Result
    from kaasq_producers import Retries as Retries
    from kaasq_producers import Run as Run
    from kaasq_producers import Service as Service
    from kaasq_producers import Step as Step
    from kaasq_producers import Then as Then
    from kaasq_producers import Workflow as Workflow
    from kaasq_producers import on as on
    from kaasq_producers import repeat as repeat
    from kaasq_producers import serve as serve

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncRun",
    "AsyncStep",
    "BadArguments",
    "BadRequest",
    "BrokerLost",
    "BrokerRefused",
    "BufferMissing",
    "BufferRef",
    "BufferSize",
    "Cancelled",
    "Client",
    "Completion",
    "Conflict",
    "DeadlineExceeded",
    "DeviceUnavailable",
    "Event",
    "FlowResult",
    "Forbidden",
    "Graph",
    "KaasqError",
    "Keep",
    "KernelFailed",
    "Module",
    "ModuleRejected",
    "NameNotFound",
    "NotReached",
    "OutOfMemory",
    "Output",
    "QuotaExceeded",
    "ReplyTimeout",
    "Result",
    "Retries",
    "Run",
    "Service",
    "SlotTaken",
    "Step",
    "StoreFull",
    "StoreUnavailable",
    "Stored",
    "Then",
    "UnknownGraph",
    "Unroutable",
    "WorkerFailed",
    "Workflow",
    "local",
    "local_async",
    "on",
    "repeat",
    "serve",
]

# Loaded on first use (PEP 562): the layers above import this package, a program that only builds graphs needs neither
# a store nor a broker, and the command is to be there at once.
_LAZY = {
    "AsyncClient": "kaasq_producers",
    "AsyncRun": "kaasq_producers",
    "AsyncStep": "kaasq_producers",
    "BufferRef": "kaasq_producers",
    "Client": "kaasq_producers",
    "Completion": "kaasq_producers",
    "Event": "kaasq_producers",
    "FlowResult": "kaasq_producers",
    "Graph": "kaasq.graph",
    "Keep": "kaasq_producers",
    "Module": "kaasq.model",
    "Output": "kaasq_producers",
    "Result": "kaasq_producers",
    "Retries": "kaasq_producers",
    "Run": "kaasq_producers",
    "Service": "kaasq_producers",
    "Step": "kaasq_producers",
    "Stored": "kaasq.messages",
    "Then": "kaasq_producers",
    "Workflow": "kaasq_producers",
    "local": "kaasq.embedded",
    "local_async": "kaasq.embedded",
    "on": "kaasq_producers",
    "repeat": "kaasq_producers",
    "serve": "kaasq_producers",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in {"graph", "kaas", "messages", "model"}:
        return importlib.import_module(f"kaasq.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
