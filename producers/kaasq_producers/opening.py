"""What every client does before its first request: settings and store from what a user gave, then the broker."""

from __future__ import annotations

from pathlib import Path

from kaasq.broker import Broker
from kaasq.processors import busy_poll_s
from kaasq.settings import Settings, changed
from kaasq_producers.buffers import Buffers
from kaasq_producers.client_core import ClientCore
from kaasq_producers.futures import Waiter
from kaasq_producers.storing import checked_timeout
from kaasq_storage.protocol import BufferStore


def merged_settings(
    broker: str | Broker | None,
    store: str | Path | BufferStore | None,
    pool: str | None,
    timeout: float | None,
    settings: Settings | None,
) -> Settings:
    """The settings (without any: those of environment and file), changed by what a client was given itself."""
    given = {
        "broker_url": broker if isinstance(broker, str) else None,
        "store": str(store) if isinstance(store, (str, Path)) else None,
        "pool": pool,
        "timeout": None if timeout is None else checked_timeout(timeout),
    }
    return changed(settings, given)


def buffers_of(settings: Settings, store: str | Path | BufferStore | None, tenant: str) -> Buffers:
    """The tenant's side of the store that was given, or else of the one that the settings name. Opens nothing yet."""
    return Buffers(
        settings.store_path if store is None or isinstance(store, (str, Path)) else store,
        tenant,
        capacity=settings.store_capacity,
        sync=settings.store_sync,
        spare_bytes=settings.store_spare,
    )


def open_core(broker: Broker | None, buffers: Buffers | None, settings: Settings) -> ClientCore:
    """A core that can send, on that broker or the one of the settings; blocks for ``connect_timeout`` at most, twice.

    Raises BrokerLost, BrokerRefused; the broker is closed then.
    """
    if broker is None:
        # Here, so that a client of the store alone needs no AMQP library.
        from kaasq.rabbit import PublishLimits, RabbitBroker

        limits = PublishLimits(patience_s=settings.confirm_patience)
        broker = RabbitBroker(settings.connection_url, limits=limits, busy_poll_s=busy_poll_s(settings.busy_poll))
    try:
        broker.open(settings.connect_timeout)
        core = ClientCore(broker, buffers, settings)
        started: Waiter[ClientCore] = Waiter()
        core.start(lambda error: started.set(error or core))
        return started.wait(settings.connect_timeout)
    except BaseException:
        broker.close()
        raise
