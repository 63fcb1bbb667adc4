"""A worker: one slot of a pool, made of a broker connection, a front and an executor."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec

from kaasq.broker import Broker, Consumer, Done, State, wait_for
from kaasq.errors import KaasqError, WorkerFailed
from kaasq.log import get_logger
from kaasq.names import check_word
from kaasq.polling import FEW
from kaasq.settings import Settings
from kaasq.topology import control_queue, pool_topology, work_queue
from kaasq_workers.devices.opening import default_slot, one_device
from kaasq_workers.front.answers import Answers
from kaasq_workers.front.front import Front
from kaasq_workers.front.handles import Handle
from kaasq_workers.front.informant import starter
from kaasq_workers.front.overlooked import Overlooked
from kaasq_workers.front.starting import ProcessStarter, Starter, ThreadStarter
from kaasq_workers.health import Condition
from kaasq_workers.overdue import overdue
from kaasq_workers.slot import Slot

STEP_TIMEOUT_S = 120.0  # for the broker to do as it is told
DRAIN_TIMEOUT_S = 30.0

log = get_logger()


CONTROL_PREFETCH = 1000
MOST_PREFETCH = 65535
IO_TIMEOUT_S = 2.0


class Worker:
    """Serves one slot of a pool with one device.

    ``in_process`` runs the executor as a thread (kaasq.local): no isolation from kernels that crash.
    """

    def __init__(self, settings: Settings, broker: Broker, *, in_process: bool = False) -> None:
        device = one_device(settings.device)
        if in_process:  # threads share everything anyway, and one that looks would keep the others waiting
            settings = msgspec.structs.replace(settings, isolation="shared", busy_poll=0.0)
        self.settings = msgspec.structs.replace(settings, device=device, slot=settings.slot or default_slot(device))
        check_word(self.settings.slot, "slot")
        self._broker = broker
        self._in_process = in_process
        self._slot = Slot(broker, self.settings, self._wait, STEP_TIMEOUT_S)
        self._front: Front | None = None
        self._consumers: list[Consumer] = []
        self.failure: KaasqError | None = None
        """What ended the worker, once something has."""

    def start(self) -> None:
        """Connect, take the slot, start the executor, consume.

        Raises BrokerLost, BrokerRefused, SlotTaken, StoreUnavailable, WorkerFailed.
        """
        settings = self.settings
        self._broker.open(settings.connect_timeout)
        try:
            self._broker.watch(self._on_state)
            self._slot.take()
            # The front says itself that an executor takes too long; this is for when it cannot.
            self._wait(self._start_front, settings.start_timeout + STEP_TIMEOUT_S)
            # Only now: a pool that exists takes requests, and a worker that cannot start should not leave one behind.
            topology = pool_topology(settings.pool, settings.slot, settings.queue_type)
            self._wait(lambda done: self._broker.declare(topology, done))
            assert self._front is not None
            control = control_queue(settings.pool, settings.slot)
            self._consumers.append(self._broker.consume(control, self._front.take_control, prefetch=CONTROL_PREFETCH))
            self._slot.check(self._consumers[0])
        except BaseException:
            self._end(0.0)
            raise
        # Executors that wait for nobody else's requests need requests of everybody's.
        executors = settings.isolation_executors if settings.isolation == "tenant" else 1
        prefetch = min(settings.prefetch * executors, MOST_PREFETCH)
        for queue in (work_queue(settings.pool, settings.slot), work_queue(settings.pool)):
            self._consumers.append(self._broker.consume(queue, self._front.take, prefetch=prefetch))
        log.info("worker.started", pool=settings.pool, slot=settings.slot, device=settings.device)

    def condition(self) -> Condition:
        """Whether it is well, for its health file. Blocks for IO_TIMEOUT_S at most."""
        wrong, held = "", 0
        answered = threading.Event()

        def look() -> None:  # on the I/O thread: that it comes about tells that the thread turns
            nonlocal wrong, held
            front = self._front
            if front is not None:
                held = front.held
                if front.stuck:
                    wrong = "it has requests and no executor to run them"
            answered.set()

        self._broker.call_soon(look)
        if not answered.wait(IO_TIMEOUT_S):
            wrong = "its connection's thread does not turn"
        elif idle := [each.queue for each in list(self._consumers) if not each.consuming]:
            wrong = f"the broker does not deliver to it from {', '.join(idle)}"
        return Condition(slot=self.settings.slot, device=self.settings.device, wrong=wrong, held=held)

    def pause(self) -> None:
        """Take no more requests, nor go on with chains of them. Idempotent."""
        for consumer in self._consumers:
            consumer.cancel()
        self._consumers.clear()
        if self._front is not None:
            self._broker.call_soon(self._front.drain)

    def stop(self, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
        """Take no more, finish what was taken (within the timeout), end. Whether all of it was finished.

        What was not finished goes back to its queue. Idempotent.
        """
        drained = self._end(timeout_s)
        log.info("worker.stopped", drained=drained)
        return drained

    def _end(self, timeout_s: float) -> bool:
        self.pause()
        front, self._front = self._front, None
        drained = True
        handles: list[Handle] = []
        if front is not None:
            idle = threading.Event()
            self._broker.call_soon(lambda: front.when_idle(idle.set))
            try:
                drained = idle.wait(timeout_s)
            except KeyboardInterrupt:  # told to stop at once: by the next call, which has to find the front
                self._front = front
                raise
            gone = threading.Event()

            def hang_up() -> None:
                handles.extend(front.handles)  # now: the front lets go of them when it sees their end
                front.hang_up()
                gone.set()

            self._broker.call_soon(hang_up)
            gone.wait(5.0)
            until = time.monotonic() + (5.0 if drained else 0.1)
            for handle in handles:
                if handle.wait(max(0.0, until - time.monotonic())) is None:
                    handle.kill()
                    handle.wait(5.0 if handle.killable else 0.0)
        self._broker.close()
        for handle in handles:
            handle.link.dispose()  # nobody reads it any more; of no effect where the front has done it
        self._slot.release()
        return drained

    def _start_front(self, done: Done) -> None:
        source = f"/kaasq/{self.settings.pool}/{socket.gethostname()}/{self.settings.slot}"

        answers = Answers(self._broker, source)
        informant = None if self._in_process else starter(self.settings.store_path, self.settings.device)
        front = self._front = Front(self._broker, self.settings, self._starter(), answers, done, informant)
        self._broker.expects(lambda: front.held <= FEW)
        self._broker.call_soon(front.start)
        if self.settings.isolation == "tenant":
            look = partial(overdue, self.settings.store_path)
            pool, patience_s = self.settings.pool, self.settings.workflow_patience
            overlooked = Overlooked(self._broker, answers, lambda: front.owners, look, pool=pool, patience_s=patience_s)
            self._broker.call_soon(overlooked.start)

    def _starter(self) -> Starter:
        if self._in_process:
            from kaasq_workers.executor.opening import serve

            return ThreadStarter(self.settings, serve)
        sharing = self.settings.isolation_executors if self.settings.isolation == "tenant" else 1
        return ProcessStarter(self.settings, self._broker.call_later, sharing=sharing)

    def _on_state(self, state: State, error: KaasqError | None) -> None:
        if state is State.LOST and self._front is not None:
            self._front.lost()
        if state is State.FAILED:
            self.failure = error or WorkerFailed("the broker connection failed for good")

    def _wait(self, operation: Callable[[Done], object], timeout_s: float = STEP_TIMEOUT_S) -> None:
        try:
            wait_for(operation, timeout_s)
        except TimeoutError:
            raise WorkerFailed(f"the worker did not start within {timeout_s:.0f} s") from None
