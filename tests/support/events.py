"""Events as a worker tells them, and services as tests like them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kaasq import codec
from kaasq.broker import Broker, Message
from kaasq.errors import KaasqError
from kaasq.events import event_message
from kaasq.memory import MemoryBroker, MemoryNode
from kaasq.messages import ErrorBody, Output, Reply
from kaasq.rabbit import RabbitBroker
from kaasq.settings import Settings
from kaasq.topology import EVENTS, event_key, pool_topology
from kaasq_producers import AsyncClient, Client
from tests.support.messaging import declare, publish


class Place:
    """One server, and clients of it that use one store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self._node = url, MemoryNode()
        self._folder = folder
        self._made: list[Any] = []
        self.broker = self.new_broker()
        self.broker.open(20)
        assert declare(self.broker, pool_topology("default", "s1")) is None

    def new_broker(self) -> Broker:
        made: Broker = RabbitBroker(self.url) if self.url else MemoryBroker(self._node)
        self._made.append(made)
        return made

    def settings(self, **changes: Any) -> Settings:
        fields: dict[str, Any] = {"store": str(self._folder / "store"), "store_capacity": 1 << 30, "store_sync": False}
        return Settings(**{**fields, "timeout": 10.0, **changes})

    def client(self, **changes: Any) -> Client:
        made = Client(self.new_broker(), settings=self.settings(**changes))
        self._made.append(made)
        return made

    def async_client(self) -> AsyncClient:
        return AsyncClient(self.new_broker(), settings=self.settings())

    def close(self) -> None:
        for each in reversed(self._made):
            each.close()


def reply(request_id: str, outputs: Mapping[str, Output] | None = None, *, word: str = "completed") -> Reply:
    if word == "completed":
        return Reply(id=request_id, status="ok", outputs=dict(outputs or {}))
    return Reply(id=request_id, status="error", error=ErrorBody(code="kernel_failed", message="it crashed"))


def event(request_id: str, graph: str = "saxpy", word: str = "completed", **outputs: Output) -> Message:
    data = codec.encode(reply(request_id, outputs, word=word).without_inline(), codec.JSON)
    return event_message(
        data,
        request_id=request_id,
        graph=graph,
        word=word,
        source="/kaasq/default/host/cpu",
        told_ms=1_777_777_777_000,
        request_headers={"traceparent": f"00-{request_id}-01"},
    )


def tell(
    broker: Broker, request_id: str, graph: str = "saxpy", word: str = "completed", *, message: Any = None
) -> KaasqError | None:
    """Publish an event as a worker does; what the broker says."""
    told = message or event(request_id, graph, word)
    return publish(broker, told, event_key(broker.tenant, graph, word), exchange=EVENTS, mandatory=False)
