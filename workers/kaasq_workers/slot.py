"""The right to serve a slot: who has it, and who asks for it in vain.

The workers of a pool share a store on one host, so a lock beside the store tells them apart: it ends with its process,
whatever becomes of the broker. A worker with another store, as on another host that was given the same pool by mistake,
does not see that lock. Its consumer of the slot's control queue shows; but RabbitMQ also counts the consumers of
connections to a node that is down. So a question is put into the queue: who lives takes it out.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable

from kaasq.broker import Broker, Consumer, Done, Inspected, Message
from kaasq.errors import BrokerLost, BrokerRefused, KaasqError, SlotTaken, WorkerFailed
from kaasq.log import get_logger
from kaasq.settings import Settings
from kaasq.topology import SLOT_WANTED, control_queue
from kaasq_storage.slots import SlotLock, lock_slot

LOOK_S = 1.0
"""For a worker to take a question, and for the broker to notice that a connection has gone."""
ATTEMPTS = 5
POLL_S = 0.01

log = get_logger()

Wait = Callable[[Callable[[Done], object]], None]


class Slot:
    """One worker's slot on an open broker. ``wait`` starts something at the broker and waits until it is done."""

    def __init__(self, broker: Broker, settings: Settings, wait: Wait, timeout_s: float) -> None:
        self._broker = broker
        self._settings = settings
        self._wait = wait
        self._timeout_s = timeout_s
        self._control = control_queue(settings.pool, settings.slot)
        self._lock: SlotLock | None = None
        self._silent = 0  # consumers that take nothing

    def take(self) -> None:
        """Raises SlotTaken, StoreUnavailable."""
        settings = self._settings
        if self._broker.scope:  # else everybody who could serve it is in this process
            # One store may serve pools of the same name on several brokers.
            scope = hashlib.blake2b(self._broker.scope.encode(), digest_size=8).hexdigest()
            self._lock = lock_slot(settings.store_path, f"{settings.pool}.{settings.slot}.{scope}")
            if self._lock is None:
                raise self._taken("another worker")
        if self._inspect().consumers and self._is_answered():
            raise self._taken("a worker with another store")

    def check(self, consumer: Consumer) -> None:
        """Whether it is the only one, now that its consumer is about to run. Raises SlotTaken.

        Of two that start in the same moment, neither has found the other before.
        """
        deadline = time.monotonic() + self._timeout_s
        while not consumer.consuming:
            if time.monotonic() > deadline:
                raise WorkerFailed(f"the broker did not deliver from {self._control} within {self._timeout_s:.0f} s")
            time.sleep(POLL_S)
        looked_until = time.monotonic() + LOOK_S
        while self._inspect().consumers > 1 + self._silent:
            if time.monotonic() > looked_until:
                raise self._taken("a worker with another store")
            time.sleep(LOOK_S / 10)

    def release(self) -> None:
        """Let another have it. Idempotent."""
        if self._lock is not None:
            self._lock.release()

    def _is_answered(self) -> bool:
        """Whether somebody takes a question from the slot's queue."""
        error: KaasqError | None = None
        for _ in range(ATTEMPTS):
            question = Message(body=b"", type=SLOT_WANTED, expiration_ms=round(3 * LOOK_S * 1000), persistent=False)
            try:
                self._wait(
                    lambda done: self._broker.publish(question, exchange="", routing_key=self._control, done=done)  # noqa: B023  # called at once
                )
            except (BrokerLost, BrokerRefused) as refused:
                if isinstance(refused, BrokerRefused) and not refused.detail.get("rejected"):
                    raise
                error = refused  # a queue without a leader has the next one soon
                time.sleep(LOOK_S)
                continue
            time.sleep(LOOK_S)
            found = self._inspect()
            if not found.consumers or not found.messages:
                return bool(found.consumers)
            self._silent = found.consumers
            log.warning("slot.silent", queue=self._control, consumers=found.consumers)
            return False
        assert error is not None
        raise error

    def _inspect(self) -> Inspected:
        answer: queue.SimpleQueue[Inspected | KaasqError] = queue.SimpleQueue()
        self._broker.inspect(self._control, answer.put)
        try:
            found = answer.get(timeout=self._timeout_s)
        except queue.Empty:
            raise WorkerFailed(f"the broker did not tell of {self._control} within {self._timeout_s:.0f} s") from None
        if isinstance(found, KaasqError):
            raise found
        return found

    def _taken(self, who: str) -> SlotTaken:
        pool, slot = self._settings.pool, self._settings.slot
        mend = "choose another one with --slot, or stop it"
        if who != "another worker":
            mend = "the workers of a pool share one store on one host: choose another pool with --pool, or stop it"
        return SlotTaken(f"{who} already serves slot {slot!r} of pool {pool!r}: {mend}", pool=pool, slot=slot)
