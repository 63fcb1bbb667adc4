"""Direct replies that wait to be sent alone: the tenants that they are for take turns, and each has its bounds. No I/O.

A forged address costs the connection that replies to it go out on. It is held against the tenant who wrote it: of that
one few may wait for a while, whose turn comes after everybody else's. Who forges many loses its own replies, nobody
else's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """A reply that waits."""

    @property
    def tenant(self) -> str: ...
    @property
    def channel(self) -> str: ...
    @property
    def size(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class Suspects(Generic[R]):
    """Of a tenant under alert, for ``alert_s`` after its address cost a connection, so many wait at most."""

    def __init__(self, count: int, size: int, alert_s: float, clock: Callable[[], float]) -> None:
        """``count`` replies, and ``size`` bytes unless it is a single one."""
        self._count = count
        self._size = size
        self._alert_s = alert_s
        self._clock = clock
        self._alert_until: dict[str, float] = {}
        self._of: dict[str, deque[R]] = {}  # the tenant whose turn comes next first; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[R]:
        for each in self._of.values():
            yield from each

    def add(self, reply: R) -> None:
        """Behind those of its tenant."""
        self._of.setdefault(reply.tenant, deque()).append(reply)

    def add_first(self, reply: R) -> None:
        """Before those of its tenant."""
        self._of.setdefault(reply.tenant, deque()).appendleft(reply)

    def next(self) -> R:
        """The first one of the tenant whose turn it is; those under alert come last."""
        trusted = (tenant for tenant in self._of if not self.alerted(tenant))
        tenant = next(trusted, next(iter(self._of)))
        waiting = self._of.pop(tenant)
        reply = waiting.popleft()
        if waiting:
            self._of[tenant] = waiting
        return reply

    def remove(self, which: Callable[[R], bool]) -> list[R]:
        """Take them out, and return them."""
        removed = [each for each in self if which(each)]
        gone = {id(each) for each in removed}
        kept = {tenant: deque(each for each in of if id(each) not in gone) for tenant, of in self._of.items()}
        self._of = {tenant: of for tenant, of in kept.items() if of}
        return removed

    def alerted(self, tenant: str) -> bool:
        """Whether an address that it wrote cost the connection a moment ago."""
        return self._clock() < self._alert_until.get(tenant, float("-inf"))

    def crowded(self, tenant: str, size: int) -> bool:
        """Whether no more of its replies may wait."""
        if not self.alerted(tenant):
            return False
        waiting = self._of.get(tenant, ())
        too_large = bool(waiting) and sum(each.size for each in waiting) + size > self._size
        return len(waiting) >= self._count or too_large

    def blame(self, reply: R) -> tuple[list[R], list[R]]:
        """Alert: that one cost the connection. Takes out, and returns, what would as well, and what is too many now."""
        now = self._clock()
        self._alert_until = {tenant: until for tenant, until in self._alert_until.items() if until > now}
        self._alert_until[reply.tenant] = now + self._alert_s
        bad = self.remove(lambda each: each.tenant == reply.tenant and each.channel == reply.channel)
        waiting = self._of.pop(reply.tenant, deque())
        many = []
        for each in waiting:
            if self.crowded(each.tenant, each.size):
                many.append(each)
            else:
                self.add(each)
        return bad, many
