"""The requests that a front has taken and not yet answered."""

from __future__ import annotations

from collections import Counter

import msgspec

from kaasq.broker import Delivery
from kaasq_workers.front.intake import Accepted


class Together:
    """Deliveries of one request, settled together. Of no effect for one that its connection or channel has lost."""

    def __init__(self, first: Delivery, second: Delivery) -> None:
        self.message = first.message
        self.queue, self.exchange, self.routing_key = first.queue, first.exchange, first.routing_key
        self.redelivered = True
        self._both = (first, second)

    def ack(self) -> None:
        for each in self._both:
            each.ack()

    def requeue(self) -> None:
        for each in self._both:
            each.requeue()

    def reject(self) -> None:
        for each in self._both:
            each.reject()


class Pending(msgspec.Struct):
    """One of them."""

    accepted: Accepted
    delivery: Delivery


class Pendings:
    """All of them by tag, and how many each tenant has."""

    def __init__(self) -> None:
        self._by_tag: dict[int, Pending] = {}
        self._by_id: dict[tuple[str, str], Pending] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_tag)

    def add(self, tag: int, pending: Pending) -> None:
        """One more."""
        tenant = pending.accepted.tenant
        self._by_tag[tag] = pending
        self._by_id.setdefault((tenant, pending.accepted.id), pending)
        self._of[tenant] += 1

    def pop(self, tag: int) -> Pending | None:
        """It has been answered, or is given up."""
        pending = self._by_tag.pop(tag, None)
        if pending is not None:
            tenant, key = pending.accepted.tenant, (pending.accepted.tenant, pending.accepted.id)
            if self._by_id.get(key) is pending:
                del self._by_id[key]
            self._of[tenant] -= 1
            if not self._of[tenant]:
                del self._of[tenant]
        return pending

    def has(self, tag: int) -> bool:
        """Whether it is one of them."""
        return tag in self._by_tag

    def holds(self, tenant: str, request_id: str) -> bool:
        """Whether that tenant has one with that id."""
        return (tenant, request_id) in self._by_id

    def of(self, tenant: str) -> int:
        """How many that tenant has."""
        return self._of[tenant]

    def join(self, accepted: Accepted, delivery: Delivery) -> bool:
        """Whether this is, once more, a request that is here already: then it shares its answer.

        The broker takes a request back that was not acknowledged in time, or whose channel it lost, and delivers it
        again, mostly to whoever runs it. As another job it would wait for the first one, and be taken back again.
        """
        if not delivery.redelivered:
            return False
        here = self._by_id.get((accepted.tenant, accepted.id))
        if here is None or here.accepted != accepted:
            return False
        old, new = here.delivery.message, delivery.message
        if (old.body, old.content_type) != (new.body, new.content_type):
            return False
        here.delivery = Together(here.delivery, delivery)
        return True
