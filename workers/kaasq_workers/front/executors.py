"""The executors of a front: one for all tenants, or one for each that has requests. Which request goes to which.

Everything here runs on the broker's I/O thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import msgspec

from kaasq.broker import Broker
from kaasq.log import get_logger
from kaasq.settings import Settings
from kaasq_workers.front.allotting import Limits, Place, allot
from kaasq_workers.front.handles import Handle
from kaasq_workers.front.owner import Owner
from kaasq_workers.front.silence import StartPatience
from kaasq_workers.front.starting import Starter
from kaasq_workers.front.supervisor import EVERYBODY, Supervisor
from kaasq_workers.link import Job, Withdraw

TICK_S = 0.25  # how often it is looked whether an executor has been idle for too long, or somebody's turn has come

log = get_logger()


class _Held(msgspec.Struct):
    """An executor's supervisor, and whose it is."""

    supervisor: Supervisor
    owner: str | None
    since_s: float
    leaving: bool = False

    def place(self, start_s: float) -> Place:
        """As the decision sees it. Nobody's turn begins before the executor is up, unless that takes for ever."""
        up_since_s = self.supervisor.up_since_s
        since_s = self.since_s + start_s if up_since_s is None else max(self.since_s, up_since_s)
        return Place(self.owner, since_s, self.supervisor.idle_since_s, self.leaving)


class Executors:
    """Has executors running for who needs them."""

    def __init__(self, broker: Broker, settings: Settings, starter: Starter, owner: Owner) -> None:
        self._broker = broker
        self._settings = settings
        self._starter = starter
        self._owner = owner
        self._patience = StartPatience(settings.start_timeout)
        self._apart = settings.isolation == "tenant"
        most, idle_s = (settings.isolation_executors, settings.isolation_idle) if self._apart else (1, math.inf)
        self._limits = Limits(most, idle_s, settings.isolation_turn)
        self._held: dict[int, _Held] = {}
        self._of: dict[str, int] = {}  # who has one that takes requests
        self._waiting: dict[str, list[Job]] = {}  # of who has none, in the order in which they came
        self._next_key = 0
        self._draining = self._closing = False

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the first one: whether there is any use in the device is known before there is a request."""
        self._start(None if self._apart else EVERYBODY, first=True)
        if self._apart:
            self._broker.call_later(TICK_S, self._tick)

    def drain(self) -> None:
        """Nothing goes on in them by itself any more."""
        self._draining = True
        for each in self._held.values():
            each.supervisor.drain()

    def hang_up(self) -> None:
        """Let them all end."""
        self._closing = True
        self._starter.close()
        for each in self._held.values():
            each.supervisor.hang_up()

    @property
    def handles(self) -> list[Handle]:
        """Those that are running."""
        handles = (each.supervisor.handle for each in self._held.values())
        return [each for each in handles if each is not None]

    @property
    def owners(self) -> frozenset[str]:
        """Who has one, or is to get one."""
        return frozenset({*self._of, *self._waiting})

    @property
    def up(self) -> bool:
        """Whether one of them is ready for requests."""
        return any(each.supervisor.up_since_s is not None for each in self._held.values())

    # -- requests --------------------------------------------------------------------------------------------------

    def take(self, job: Job) -> None:
        """A request to run."""
        owner = self.owner_of(job.tenant)
        key = self._of.get(owner)
        if key is not None:
            self._held[key].supervisor.take(job)
            return
        self._waiting.setdefault(owner, []).append(job)
        self.arrange()

    def forget_waiting(self) -> list[int]:
        """Drop what no executor has got: the tags."""
        tags = [job.tag for jobs in self._waiting.values() for job in jobs]
        self._waiting.clear()
        for each in self._held.values():
            tags += each.supervisor.forget_waiting()
        return tags

    def mark_withdrawn(self, withdraw: Withdraw) -> None:
        """If an executor has that request, let it see that it is not to go on. One that is leaving may have it too."""
        owner = self.owner_of(withdraw.tenant)
        for each in self._held.values():
            if each.owner == owner:
                each.supervisor.mark_withdrawn(withdraw)

    def withdraw(self, messages: Sequence[Withdraw]) -> None:
        """Have executors record withdrawals. Where the right one is not up it will be, and asks."""
        by_owner: dict[str, list[Withdraw]] = {}
        for each in messages:
            by_owner.setdefault(self.owner_of(each.tenant), []).append(each)
        for owner, theirs in by_owner.items():
            recorder = self._recorder(owner)
            if recorder is not None:
                recorder.supervisor.withdraw(theirs)
            elif all(each.leaving for each in self._held.values()) and len(self._held) < self._limits.most:
                self._start(None)

    def _recorder(self, owner: str) -> _Held | None:
        """Who is to record withdrawals of that owner's requests: its own executor, which alone has no reason to lie
        about them, or else one that is nobody's yet, or else any, since they share the store.
        """
        key = self._of.get(owner)
        if key is not None:
            return self._held[key]
        up = [each for each in self._held.values() if each.supervisor.up_since_s is not None and not each.leaving]
        return next((each for each in up if each.owner is None), up[0] if up else None)

    # -- who has which -----------------------------------------------------------------------------------------------

    def arrange(self) -> bool:
        """Give, start and stop executors as is needed now. Whether one has ended for good."""
        ended = [key for key, each in self._held.items() if each.supervisor.ended]
        for key in ended:
            del self._held[key]
        if self._apart and not self._closing:
            self._allot()
        return bool(ended)

    def _allot(self) -> None:
        now_s = time.monotonic()
        places = {key: each.place(self._patience.seconds) for key, each in self._held.items()}
        todo = allot(places, list(self._waiting), self._limits, now_s)
        for key, owner in todo.give:
            self._give(key, owner)
        for owner in todo.start:
            self._give(self._start(owner), owner)
        for key in todo.leave:
            self._let_go(key)
        for each in self._held.values():
            if each.leaving and each.supervisor.idle_since_s is not None:
                each.supervisor.hang_up()

    def _tick(self) -> None:
        if not self._closing:
            self._broker.call_later(TICK_S, self._tick)
            self._owner.turned()

    def _start(self, owner: str | None, *, first: bool = False) -> int:
        key, self._next_key = self._next_key, self._next_key + 1
        supervisor = Supervisor(
            *(self._broker, self._starter, self._owner, self._patience),
            timeout_s=self._settings.executor_timeout,
            first=first,
        )
        self._held[key] = _Held(supervisor, owner, time.monotonic())
        supervisor.serves = owner
        if owner is not None:
            self._of[owner] = key
        if self._draining:
            supervisor.drain()
        supervisor.start()
        return key

    def _give(self, key: int, owner: str) -> None:
        held = self._held[key]
        held.owner, held.since_s = owner, time.monotonic()
        held.supervisor.serves = owner
        self._of[owner] = key
        log.info("executor.given", tenant=owner, executors=len(self._held))
        for job in self._waiting.pop(owner, []):
            held.supervisor.take(job)

    def _let_go(self, key: int) -> None:
        held = self._held[key]
        held.leaving = True
        held.supervisor.drain()
        if held.owner is not None:
            del self._of[held.owner]
            unsent = held.supervisor.take_back()
            if unsent:
                self._waiting[held.owner] = unsent
        log.info("executor.leaving", tenant=held.owner, idle=held.supervisor.idle_since_s is not None)

    def owner_of(self, tenant: str) -> str:
        """Whose executor that tenant's requests go to."""
        return tenant if self._apart else EVERYBODY
