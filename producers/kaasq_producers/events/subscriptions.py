"""A tenant's named subscriptions, looked at and removed. These calls block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from kaasq_producers.client_core import ClientCore
from kaasq_producers.events.register import Decide, Note, Plan, Visit, latest, removing
from kaasq_producers.futures import Waiter


def look(core: ClientCore, timeout_s: float) -> list[Note]:
    """The subscriptions there are, by name. Raises BrokerLost, BrokerRefused."""
    return latest(_visit(core, _nothing, timeout_s))


def remove(core: ClientCore, name: str, timeout_s: float) -> bool:
    """Remove one with what it holds; whether there was one. Raises BrokerLost, BrokerRefused."""
    notes = _visit(core, partial(removing, name, core.route.tenant), timeout_s)
    return any(each.name == name for each in notes)


def _nothing(_: Sequence[Note]) -> Plan:
    return Plan(frozenset())


def _visit(core: ClientCore, decide: Decide, timeout_s: float) -> list[Note]:
    waiter: Waiter[list[Note]] = Waiter()
    visit = Visit(
        core.broker,
        core.route.tenant,
        Note(),
        decide,
        waiter.set,
    )
    core.broker.call_soon(partial(visit.start, timeout_s))
    return waiter.wait(timeout_s * 2)
